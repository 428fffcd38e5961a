"""NG-EBM on CIFAR-100 as its authors' README has it (github.com/chrissweet/NG-EBM):

    python train_wrn_ebm.py --lr .0001 --dataset cifar100 --optimizer adam
        --energy_variance_loss 1.0 --energy_derivative_loss 1.0 --p_x_weight 0.0
        --p_y_given_x_weight 1.0 --p_x_y_weight 0.0 --sigma .03 --width 10 --depth 28
        --save_dir /YOUR/SAVE/DIR --warmup_iters 1000

All its terms see the labelled batch: there is one stream. Its 150 epochs end before
the rates would decay. The paper's five seeds: --config.seed=101, 202, 303, 404, 505,
each with --config.data.split_seed likewise. Its ECE, of bins' midpoints, is
`ng_ebm_midpoint_ece` in eval.json. Paper: ECE 7.5 times better than a classifier's.

    python -m ebmjax.main --config=configs/official/ng_ebm_cifar100.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar100()
    presets.official_ng_ebm(c)
    c.eval.ood.sets = ("svhn_cropped",)
    return presets.variant(c, variant)

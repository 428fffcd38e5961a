"""The plain classifier of the same network: the authors' line with other weights.

    python train_wrn_ebm.py --lr .0001 --dataset cifar10 --optimizer adam
        --p_x_weight 0.0 --p_y_given_x_weight 1.0 --p_x_y_weight 0.0 --sigma .03
        --width 10 --depth 28 --save_dir /YOUR/SAVE/DIR --plot_uncond
        --warmup_iters 1000

JEM's paper compares with a classifier that has batch norm, as recalled: `--norm batch`,
here --config.model.norm=batch.

    python -m ebmjax.main --config=configs/official/classifier_cifar10.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.official_jem(c)
    return presets.variant(c, variant)

"""The plain classifier on CIFAR-100: the authors' line with other weights.

    python train_wrn_ebm.py --lr .0001 --dataset cifar100 --optimizer adam
        --p_x_weight 0.0 --p_y_given_x_weight 1.0 --p_x_y_weight 0.0 --sigma .03
        --width 10 --depth 28 --save_dir /YOUR/SAVE/DIR --plot_uncond
        --warmup_iters 1000

The baseline of the calibration figures; see classifier_cifar10.py about norms.

    python -m ebmjax.main --config=configs/official/classifier_cifar100.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar100()
    presets.official_jem(c)
    return presets.variant(c, variant)

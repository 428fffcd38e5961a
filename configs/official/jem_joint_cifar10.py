"""log p(x, y) by chains at the labels: the authors' line with other weights.

    python train_wrn_ebm.py --lr .0001 --dataset cifar10 --optimizer adam
        --p_x_weight 0.0 --p_y_given_x_weight 0.0 --p_x_y_weight 1.0 --sigma .03
        --width 10 --depth 28 --save_dir /YOUR/SAVE/DIR --plot_uncond
        --warmup_iters 1000

The row "p(x | y) factored" of the paper's Table 1: 30.1 % accuracy, as recalled.

    python -m ebmjax.main --config=configs/official/jem_joint_cifar10.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.official_jem(c)
    c.objective.update(cross_entropy=0.0, p_x_y=1.0)
    return presets.variant(c, variant)

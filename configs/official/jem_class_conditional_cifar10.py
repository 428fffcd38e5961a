"""JEM with negatives from p(y) p(x | y): its authors' line and one more flag.

    python train_wrn_ebm.py --lr .0001 --dataset cifar10 --optimizer adam
        --p_x_weight 1.0 --p_y_given_x_weight 1.0 --p_x_y_weight 0.0 --sigma .03
        --width 10 --depth 28 --save_dir /YOUR/SAVE/DIR --plot_uncond
        --warmup_iters 1000 --class_cond_p_x_sample

The flag's help: "sample quality higher if set, but classification accuracy better if
not".

    python -m ebmjax.main --config=configs/official/jem_class_conditional_cifar10.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.jem(c)
    presets.official_jem(c)
    c.sgld.class_conditional = True
    return presets.variant(c, variant)

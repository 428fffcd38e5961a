"""JEM on CIFAR-10 as its authors' README has it (github.com/wgrathwohl/JEM):

    python train_wrn_ebm.py --lr .0001 --dataset cifar10 --optimizer adam
        --p_x_weight 1.0 --p_y_given_x_weight 1.0 --p_x_y_weight 0.0 --sigma .03
        --width 10 --depth 28 --save_dir /YOUR/SAVE/DIR --plot_uncond
        --warmup_iters 1000

The evaluation's settings are those of the README's other lines where they have a
counterpart here: `--eval test_clf`, `--eval OOD`, `--eval logp_hist` (all on images
with noise 0.03), and attack_model.py with `--start_batch 0 --end_batch 6` (300 images),
`--n_steps_refine 1`, `--n_dup_chains 5`, 20 tries. `--eval uncond_samples` asks for
1,000 rounds of 40 steps: --eval.samples.num_steps=40000. Paper: 92.9 % accuracy.

    python -m ebmjax.main --config=configs/official/jem_cifar10.py
"""

from ebmjax import presets


def get_config(variant: str = "full"):
    c = presets.cifar10()
    presets.jem(c)
    presets.official_jem(c)
    return presets.variant(c, variant)

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

from ebmjax import config


def get_config(variant: str = "full"):
    c = config.default()
    c.seed = 1
    c.data.name = "cifar10"
    c.data.separate_streams = True  # the labelled images have a loader of their own
    c.objective.p_x = 1.0
    c.sgld.replace = True  # slots of the buffer are drawn independently
    c.num_steps = 200 * 703  # epochs of 45,000 images, the last 8 left out
    c.optimizer.decay = "step"
    c.optimizer.boundaries = (160 * 703, 180 * 703)
    c.recovery.max_loss = 1e8  # there the official program ends; this one goes back
    c.every.samples = 100
    c.eval.noise_std = 0.03  # its test images are noised like those of training
    c.eval.num_bins = 20
    c.eval.ood.sets = ("svhn_cropped", "interpolation", "cifar100", "celeb_a")
    c.eval.attacks.num_images = 300
    c.eval.attacks.num_restarts = 20
    c.eval.attacks.refine_steps = (1, 10)
    c.eval.attacks.refine_images = 300
    return config.variant(c, variant)

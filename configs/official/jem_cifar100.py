"""JEM on CIFAR-100: the line of its authors' README with the other data set.

    python train_wrn_ebm.py --lr .0001 --dataset cifar100 --optimizer adam
        --p_x_weight 1.0 --p_y_given_x_weight 1.0 --p_x_y_weight 0.0 --sigma .03
        --width 10 --depth 28 --save_dir /YOUR/SAVE/DIR --plot_uncond
        --warmup_iters 1000

The calibration figure of the authors' repository: ECE 4.87 % against the classifier's
22.32 %, in 20 bins.

    python -m ebmjax.main --config=configs/official/jem_cifar100.py
"""

from ebmjax import config


def get_config(variant: str = "full"):
    c = config.default()
    c.seed = 1
    c.data.name = "cifar100"
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
    c.eval.ood.sets = ("svhn_cropped", "interpolation", "cifar10")
    c.eval.attacks.num_images = 300
    c.eval.attacks.num_restarts = 20
    c.eval.attacks.refine_steps = (1, 10)
    c.eval.attacks.refine_images = 300
    return config.variant(c, variant)

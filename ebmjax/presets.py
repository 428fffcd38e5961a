"""What the files of configs/ share: data sets, objectives, schedules and variants.

    c = presets.cifar10()
    presets.jem(c)
    return presets.variant(c, "small")

A data set gives a new config; everything else changes one.
"""

from ebmjax import config
from ebmjax.config import Config

TRAINING_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "svhn_cropped": 73_257}


def cifar10() -> Config:
    c = config.default()
    c.data.name = "cifar10"
    c.eval.ood.sets = ("svhn_cropped", "interpolation", "cifar100", "celeb_a")
    return c


def cifar100() -> Config:
    c = config.default()
    c.data.name = "cifar100"
    c.eval.ood.sets = ("svhn_cropped", "interpolation", "cifar10")
    return c


def svhn() -> Config:
    c = config.default()
    c.data.name = "svhn_cropped"
    c.data.flip = False  # digits are not symmetric
    c.every.checkpoint = c.every.samples = steps_per_epoch(c)
    c.eval.ood.sets = ("cifar10", "cifar100", "interpolation")
    return c


def fashion_mnist() -> Config:
    """12 epochs of 859 steps with a small ConvNet."""
    c = config.default()
    c.data.name = "fashion_mnist"
    c.data.pad = 2
    c.num_steps = 12 * 859
    c.model.name = "convnet"
    c.optimizer.update(learning_rate=3e-4, decay="cosine")
    c.every.checkpoint = c.every.samples = 859
    c.eval.ood.sets = ("mnist", "interpolation", "uniform", "constant")
    return c


def digits() -> Config:
    """1,000 steps with a WRN-10-1 on scikit-learn's digits."""
    c = config.default()
    digits_data(c)
    c.num_steps = 1_000
    c.model.update(depth=10, width=1)
    c.optimizer.update(learning_rate=1e-3, warmup_steps=200)
    c.every.update(log=50, checkpoint=250, samples=100)
    return c


def digits_data(c: Config) -> None:
    """Replaces the data set by scikit-learn's digits (8x8)."""
    c.data.update(name="digits", num_valid=137, pad=0, flip=False, noise_std=0.1)


def jem(c: Config) -> None:
    """-log p(y | x) - log p(x), Grathwohl et al. (2020)."""
    c.objective.p_x = 1.0


def ng_ebm(c: Config) -> None:
    """-log p(y | x) and two regularisers of the energy, Piland et al. (2023)."""
    c.objective.energy_variance = 1.0
    c.objective.approximate_mass = 1.0


def jem_pp(c: Config) -> None:
    """JEM++ (Yang & Ji, 2021), by the README's command of github.com/sndnyang/JEMPP.

    Its ten outer steps of five inner ones at rate 0.2 are ten clipped steps at rate 1,
    because the layer whose adjoint the inner ones reuse is linear.
    """
    jem(c)
    _clipped_chains(c, num_steps=10)
    c.optimizer.weight_decay = 4e-4
    epochs(c, 150, decay_at=(50, 100, 125))
    c.recovery.max_loss = 1e8  # where its program ends


def sada_jem(c: Config) -> None:
    """SADA-JEM (Yang et al., 2023) with five steps: JEM++ with images of p(x) as they
    are and sharpness-aware minimisation, by github.com/sndnyang/SADAJEM."""
    _clean_generative_stream(c)
    c.optimizer.update(sam_rho=2.0, sam_adaptive=True)


def m_jem(c: Config) -> None:
    """M-JEM, in the repository of SADA-JEM: without sharpness-aware minimisation, with
    an L2 penalty of the mean energies, and chains from one Gaussian of all classes."""
    _clean_generative_stream(c)
    c.objective.mean_energy_l2 = 0.5
    c.sgld.update(init="gaussian", noise_std=0.001)


def _clean_generative_stream(c):
    """What SADA-JEM and M-JEM have in common."""
    jem(c)
    _clipped_chains(c, num_steps=5)
    c.batch_size = 128
    c.data.update(num_valid=0, noise_std=0.0)
    c.data.update(generative_augment=False, generative_batch_size=64)
    c.optimizer.weight_decay = 5e-4
    epochs(c, 200, decay_at=(60, 120, 180))
    c.every.checkpoint = c.every.samples = steps_per_epoch(c)
    c.recovery.max_loss = 1e5  # where its program ends


def _clipped_chains(c, num_steps):
    """Few chain steps through batch norm, from class Gaussians; SGD."""
    c.data.separate_streams = True
    c.model.norm = "batch"
    c.sgld.update(num_steps=num_steps, noise_std=0.0, clip_grad=1.0, clip_x=1.0)
    c.sgld.update(init="class_gaussian", train_mode=True, replace=True)
    c.optimizer.update(name="sgd", learning_rate=0.1, decay_factor=0.2)


def steps_per_epoch(c: Config) -> int:
    """Of the images that are not held out."""
    return (TRAINING_IMAGES[c.data.name] - c.data.num_valid) // c.batch_size


def hdge(c: Config) -> None:
    """-log p(y | x) - log p(x, y) against a queue of logits, Liu & Abbeel (2020)."""
    c.objective.contrast = 1.0


def adversarial(c: Config) -> None:
    """-log p(y | x) of PGD examples and of no others, Madry et al. (2018)."""
    c.objective.update(cross_entropy=0.0, adversarial=1.0)
    c.data.noise_std = 0.0
    c.model.norm = "batch"


def outlier_exposure(c: Config) -> None:
    """-log p(y | x) and energies with margins, Liu et al. (2020). The outliers are the
    first 300,000 images of ImageNet at 32x32, for 80 Million Tiny Images are gone."""
    c.objective.outliers = 0.1
    c.data.update(outliers="imagenet_resized/32x32@train[:300000]", noise_std=0.0)
    c.data.outliers_batch_size = 256
    c.model.update(norm="batch", dropout_rate=0.3)


def sgd(c: Config, *, weight_decay: float) -> None:
    """SGD with a rate of 0.1 and batches of 128, without a warm-up."""
    c.batch_size = 128
    c.optimizer.update(name="sgd", learning_rate=0.1, weight_decay=weight_decay)
    c.optimizer.warmup_steps = 0


def epochs(c: Config, count: int, *, decay_at: tuple[int, ...] = ()) -> None:
    """Trains for `count` epochs; the learning rate is multiplied at those given."""
    steps = steps_per_epoch(c)
    c.num_steps = count * steps
    if decay_at:
        c.optimizer.decay = "step"
        c.optimizer.boundaries = tuple(epoch * steps for epoch in decay_at)


def official_jem(c: Config) -> None:
    """What the commands of github.com/wgrathwohl/JEM have in common."""
    _official(c)
    c.seed = 1
    c.data.separate_streams = True  # the labelled images have a loader of their own
    c.sgld.replace = True  # slots of the buffer are drawn independently
    epochs(c, 200, decay_at=(160, 180))
    c.every.samples = 100
    c.eval.attacks.update(num_images=300, num_restarts=20)
    c.eval.attacks.update(refine_steps=(1, 10), refine_images=300)


def official_ng_ebm(c: Config) -> None:
    """What the commands of github.com/chrissweet/NG-EBM have in common."""
    _official(c)
    ng_ebm(c)
    c.seed = c.data.split_seed = 101
    epochs(c, 150)
    c.eval.attacks.update(num_images=250, refine_images=250)


def official_family(c: Config) -> None:
    """How the programs of github.com/sndnyang/JEMPP and SADAJEM score samples, for
    `jem_pp`, `sada_jem` and `m_jem`: the whole buffer, and the most confident 90 % of
    each class."""
    c.eval.samples.update(num_chains=10_000, buffer_share=0.9)
    c.eval.samples.num_reference = 50_000  # theirs has the 10,000 of the test set too


def _official(c):
    c.recovery.max_loss = 1e8  # the official programs end there; this one recovers
    c.eval.noise_std = 0.03  # test images have the noise of the training images
    c.eval.num_bins = 20


def small(c: Config) -> None:
    """Cuts a config down to what a CPU trains in minutes."""
    _shorten(c, num_steps=1_000)
    c.model.update(depth=10, width=1, features=(32, 32, 64, 64))
    c.data.num_valid = min(c.data.num_valid, 1_000)
    c.sgld.buffer_size = min(c.sgld.buffer_size, 2_000)
    if c.optimizer.name != "sgd":
        c.optimizer.learning_rate = 1e-3  # so few steps need longer ones
    c.every.update(log=50, checkpoint=250, samples=250)


def smoke(c: Config) -> None:
    """Cuts a config down to four steps, to see that it runs."""
    small(c)
    _shorten(c, num_steps=4)
    c.batch_size = 8
    c.data.generative_batch_size = min(c.data.generative_batch_size, 8)
    c.data.num_valid = min(c.data.num_valid, 16)
    c.data.outliers_batch_size = min(c.data.outliers_batch_size, 64)
    c.sgld.update(num_steps=2, buffer_size=800)
    c.every.update(log=2, checkpoint=2, samples=2)
    c.eval.batch_size = 32
    c.eval.tasks = ("classification",)


def small_with_short_chains(c: Config) -> None:
    """`small`, and five clipped steps from class Gaussians instead of JEM's twenty from
    noise: a third of the cost, and better samples after as much time on Fashion-MNIST
    (experiments/README.md, "Runs of equal cost"). JEM's own are
    `--config.sgld.num_steps=20 --config.sgld.noise_std=0.01 --config.sgld.init=uniform
    --config.sgld.clip_grad=0 --config.sgld.clip_x=0`.
    """
    small(c)
    if c.objective.p_x and not c.sgld.clip_grad:
        c.sgld.update(num_steps=5, noise_std=0.0, clip_grad=1.0, clip_x=1.0)
        c.sgld.init = "class_gaussian"


VARIANTS = {
    "full": lambda c: None,
    "small": small_with_short_chains,
    "smoke": smoke,
}


def variant(c: Config, name: str) -> Config:
    """The config in one of `VARIANTS`. Raises ValueError for another name."""
    if name not in VARIANTS:
        raise ValueError(
            f"variant must be one of {', '.join(map(repr, VARIANTS))}, not"
            f" {name!r}{config.nearest(name, VARIANTS)}"
        )
    VARIANTS[name](c)
    return c


def _shorten(c, num_steps):
    """Ends at `num_steps`, with the schedule of the learning rate in proportion."""
    if num_steps < c.num_steps:
        share = num_steps / c.num_steps
        scaled = {max(int(share * step), 1) for step in c.optimizer.boundaries}
        c.optimizer.boundaries = tuple(sorted(scaled))
        c.optimizer.warmup_steps = min(c.optimizer.warmup_steps, num_steps // 10)
        c.num_steps = num_steps

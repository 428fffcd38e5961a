"""The table of all keys of a config: default, bounds and meaning of each."""

import math
from typing import Any, NamedTuple


class Key(NamedTuple):
    """A key's default, which also says its type, and what its value may be.

    The bounds, `choices` and `item` are those of each entry where it is a tuple.
    """

    default: Any
    doc: str
    min: float | None = None
    max: float | None = None
    above: float | None = None  # like min, but excluded
    below: float | None = None  # like max, but excluded
    choices: tuple[str, ...] = ()
    item: type | None = None  # the type of entries; None is that of the default's first
    order: str = "distinct"  # of a tuple's entries: "distinct", "increasing" or "any"

    @property
    def bounds(self) -> str:
        """What a value may be, in words: "an integer >= 1"."""
        if isinstance(self.default, tuple):
            order = "" if self.order == "any" else f"{self.order} "
            return f"a tuple of {order}entries, each {self._entry_bounds}"
        return self._entry_bounds

    @property
    def _type(self) -> type:
        if isinstance(self.default, tuple):
            return self.item or type(self.default[0])
        return type(self.default)

    @property
    def _entry_bounds(self) -> str:
        if self.choices:
            return f"one of {', '.join(map(repr, self.choices))}"
        noun = {
            int: "an integer",
            float: "a finite number",
            bool: "True or False",
            str: "a string",
        }[self._type]
        symbols = {">=": self.min, ">": self.above, "<=": self.max, "<": self.below}
        limits = [f"{s} {x}" for s, x in symbols.items() if x is not None]
        return " ".join([noun, " and ".join(limits)]).strip()

    def allows(self, value: Any) -> bool:
        """Whether `value` has the key's type and is within its bounds."""
        if not isinstance(self.default, tuple):
            return self._allows_entry(value)
        if not (
            isinstance(value, tuple | list) and all(map(self._allows_entry, value))
        ):
            return False
        if self.order == "increasing":
            return list(value) == sorted(set(value))
        return self.order == "any" or len(set(value)) == len(value)

    def parse(self, text: str) -> Any:
        """The value that `text` stands for. Raises ValueError if it is no such one."""
        if not isinstance(self.default, tuple):
            return self._parse_entry(text)
        if text[:1] + text[-1:] in ("()", "[]"):
            text = text[1:-1]
        entries = (entry.strip().strip("'\"") for entry in text.split(","))
        return tuple(self._parse_entry(entry) for entry in entries if entry)

    def _parse_entry(self, text: str) -> Any:
        if self._type is not bool:
            return self._type(text)
        if text.lower() not in ("true", "false"):
            raise ValueError(text)
        return text.lower() == "true"

    def _allows_entry(self, value: Any) -> bool:
        is_number = self._type in (int, float)
        if type(value) is not self._type and not (is_number and type(value) is int):
            return False
        if not is_number:
            return not self.choices or value in self.choices
        return (
            math.isfinite(value)
            and (self.min is None or value >= self.min)
            and (self.above is None or value > self.above)
            and (self.max is None or value <= self.max)
            and (self.below is None or value < self.below)
        )


MODELS = ("wide_resnet", "convnet", "mlp")
NORMS = ("", "batch", "instance", "layer", "act")
OPTIMIZERS = ("adam", "adamw", "sgd")
DECAYS = ("constant", "step", "cosine")
CHAIN_STARTS = ("uniform", "gaussian", "class_gaussian")
TASKS = (
    "classification",
    "calibration",
    "selective",
    "shift",
    "ood",
    "attacks",
    "energies",
    "counterfactuals",
    "samples",
)
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "gaussian_blur",
    "brightness",
    "contrast",
    "pixelate",
    "jpeg_compression",
)
PUBLISHED_CORRUPTIONS = (  # the others of CIFAR-10-C
    "speckle_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "elastic_transform",
    "spatter",
    "saturate",
)

# The JEM paper's values wherever it has them.
KEYS = {
    "seed": Key(
        0, "of everything random but the validation split", min=0, max=2**32 - 1
    ),
    "batch_size": Key(64, "examples a step, over all devices of all hosts", min=1),
    "num_steps": Key(105_450, "optimizer steps; 703 are an epoch of CIFAR-10", min=1),
    "data.name": Key(
        "cifar10", "'digits', a TFDS name, a folder, an .npz file, or 'hf:NAME'"
    ),
    "data.data_dir": Key("", "the directory of TFDS data; '' is TFDS's own default"),
    "data.num_valid": Key(5_000, "training examples held out for validation", min=0),
    "data.split_seed": Key(1234, "chooses the examples that are held out", min=0),
    "data.test_fraction": Key(
        0.2, "test share of a data set that comes without a split", above=0, below=1
    ),
    "data.image_size": Key(
        0, "height and width to which images are resized; 0 keeps theirs", min=0
    ),
    "data.labels_per_class": Key(
        0, "labelled training examples per class; 0 is all", min=0
    ),
    "data.separate_streams": Key(False, "terms with labels get batches of their own"),
    "data.generative_augment": Key(
        True, "crop, flip and noise for terms without labels too"
    ),
    "data.generative_batch_size": Key(
        0, "batch_size of terms without labels; 0 is config.batch_size", min=0
    ),
    "data.outliers": Key(
        "", "outliers: a data set as for data.name; NAME@train is its training split"
    ),
    "data.outliers_batch_size": Key(
        64, "outliers a step, over all devices of all hosts", min=1
    ),
    "data.pad": Key(4, "pixels of reflection padding before a random crop", min=0),
    "data.flip": Key(True, "mirror half of the training images"),
    "data.noise_std": Key(0.03, "Gaussian noise on images in [-1, 1]", min=0),
    "data.resident_mib": Key(
        1024, "MiB; a larger training set stays in host memory", min=0
    ),
    "model.name": Key("wide_resnet", "network architecture", choices=MODELS),
    "model.depth": Key(28, "wide_resnet: number of layers, 6n + 4", min=10),
    "model.width": Key(10, "wide_resnet: multiplies 16, 32 and 64 channels", min=1),
    "model.norm": Key("", "wide_resnet: normalisation; '' is none", choices=NORMS),
    "model.dropout_rate": Key(0.0, "wide_resnet: dropout in blocks", min=0, below=1),
    "model.remat": Key(
        False, "wide_resnet: recompute activations; a third more arithmetic"
    ),
    "model.features": Key(
        (32, 32, 64, 64), "convnet, mlp: width of each layer", min=1, order="any"
    ),
    "model.init_from": Key(
        "",
        "a trained model to start from: a run directory, a folder of ebmjax.export, an"
        " ebmjax:// or hf:// address; '' is a random start",
    ),
    "model.dtype": Key(
        "float32", "of the computation", choices=("float32", "bfloat16")
    ),
    # Weights of the terms of the objective; a recipe's own terms are added to these.
    "objective.cross_entropy": Key(1.0, "weight of -log p(y | x)"),
    "objective.p_x": Key(0.0, "weight of -log p(x), by contrast with samples"),
    "objective.p_x_y": Key(0.0, "weight of -log p(x | y), by contrast with samples"),
    "objective.energy_variance": Key(0.0, "weight of Var E(x), NG-EBM's beta"),
    "objective.approximate_mass": Key(0.0, "weight of mean |dE/dx|, NG-EBM's gamma"),
    "objective.energy_l2": Key(0.0, "weight of mean E(data)^2 + mean E(samples)^2"),
    "objective.mean_energy_l2": Key(
        0.0, "weight of (mean E(data))^2 + (mean E(samples))^2 (M-JEM)"
    ),
    "objective.input_gradient": Key(0.0, "weight of mean |dE/dx|^2 (VERA)"),
    "objective.contrast": Key(0.0, "weight of -log p(x, y), by contrast with a queue"),
    "objective.outliers": Key(0.0, "weight of squared energies beyond their margins"),
    "objective.adversarial": Key(0.0, "weight of -log p(y | x) of attacked images"),
    "hdge.temperature": Key(0.1, "contrast: divides the scores", above=0),
    "hdge.queue_size": Key(65_536, "contrast: logits kept, over all devices", min=1),
    "outliers.margin_in": Key(-25.0, "outliers: energies of data should be below"),
    "outliers.margin_out": Key(-7.0, "outliers: their energies should be above"),
    "adversarial.norm": Key(
        "linf", "adversarial: the norm of the attack", choices=("linf", "l2")
    ),
    "adversarial.eps": Key(
        8 / 255, "adversarial: radius, of images in [0, 1]", above=0
    ),
    "adversarial.step_size": Key(
        2 / 255, "adversarial: length of a step, of images in [0, 1]", above=0
    ),
    "adversarial.num_steps": Key(7, "adversarial: steps of PGD", min=1),
    "sgld.step_size": Key(1.0, "multiplies the gradient of the energy", above=0),
    "sgld.noise_std": Key(
        0.01, "noise of a step; the temperature is noise_std^2 / (2 step_size)", min=0
    ),
    "sgld.num_steps": Key(20, "sampler steps per training step", min=1),
    "sgld.reinit_prob": Key(
        0.05, "probability that a chain starts afresh", min=0, max=1
    ),
    "sgld.init": Key(
        "uniform",
        "fresh chains: U(-1, 1), or Gaussians with the moments of the data",
        choices=CHAIN_STARTS,
    ),
    "sgld.class_conditional": Key(False, "p_x: samples come from p(y) p(x | y)"),
    "sgld.replace": Key(False, "two chains may share a buffer slot, as in JEM's code"),
    "sgld.train_mode": Key(
        False, "chains use batch statistics and dropout, as in training"
    ),
    "sgld.buffer_size": Key(10_000, "chains kept, over all devices", min=1),
    "sgld.clip_grad": Key(
        0.0, "bound on each entry of the energy's gradient; 0 is none", min=0
    ),
    "sgld.clip_x": Key(
        0.0, "chains are clipped to [-clip_x, clip_x]; 0 is no clipping", min=0
    ),
    "optimizer.name": Key("adam", "optimizer", choices=OPTIMIZERS),
    "optimizer.learning_rate": Key(1e-4, "after the warm-up", above=0),
    "optimizer.warmup_steps": Key(1_000, "steps of linear warm-up from 0", min=0),
    "optimizer.decay": Key("constant", "learning rate decay", choices=DECAYS),
    "optimizer.boundaries": Key(
        (), "step decay: steps of the decay", min=1, item=int, order="increasing"
    ),
    "optimizer.decay_factor": Key(0.3, "step decay: multiplies the rate", above=0),
    "optimizer.weight_decay": Key(0.0, "adam, sgd: L2; adamw: decoupled", min=0),
    "optimizer.b1": Key(0.9, "adam, adamw", min=0, below=1),
    "optimizer.b2": Key(0.999, "adam, adamw", min=0, below=1),
    "optimizer.momentum": Key(0.9, "sgd", min=0, below=1),
    "optimizer.nesterov": Key(False, "sgd: Nesterov's momentum"),
    "optimizer.clip_norm": Key(
        0.0, "bound on the gradient's global norm; 0 is none", min=0
    ),
    "optimizer.ema_decay": Key(
        0.0, "of averaged parameters; 0 keeps none", min=0, below=1
    ),
    "optimizer.accumulation_steps": Key(
        1, "equal parts of a batch, one after another: less memory", min=1
    ),
    "optimizer.sam_rho": Key(
        0.0, "radius of sharpness-aware minimization; 0 is without", min=0
    ),
    "optimizer.sam_adaptive": Key(
        False, "scale the sharpness-aware step by the parameters (ASAM)"
    ),
    "recovery.max_loss": Key(
        1e4, "a term or an energy beyond this has diverged", above=0
    ),
    "recovery.max_recoveries": Key(3, "returns to a checkpoint, at most", min=0),
    "recovery.lr_factor": Key(
        0.5, "multiplies the learning rate at each recovery", above=0, max=1
    ),
    "recovery.skip_sigma": Key(
        0.0,
        "skip steps with a loss or gradient so many deviations above the mean; 0: none",
        min=0,
    ),
    "every.log": Key(100, "steps between lines of the log", min=1),
    "every.checkpoint": Key(703, "steps between validations, each saved", min=1),
    "every.samples": Key(703, "steps between pictures of the chains", min=1),
    "checkpoint.keep_last": Key(3, "newest checkpoints to keep", min=1),
    "checkpoint.keep_best": Key(1, "best ones by validation accuracy", min=0),
    "tensorboard": Key(True, "write events, if tensorboardX is installed"),
    "wandb": Key("", "project of Weights & Biases, if wandb is installed; '' is off"),
    "parallel.method": Key("shard_map", "over devices", choices=("shard_map", "pmap")),
    "parallel.fsdp": Key(False, "shard parameters and moments over the devices"),
    "parallel.matmul_precision": Key(
        "default",
        "of matrix products; 'default' on a GPU is TF32, 1e-3 of a product",
        choices=("default", "high", "highest"),
    ),
    "parallel.cpu_devices": Key(
        0, "devices on a CPU; 0 is one per core, at most 8", min=0
    ),
    "eval.tasks": Key(TASKS, "evaluated at the end of training", choices=TASKS),
    "eval.batch_size": Key(500, "examples, over all devices", min=1),
    "eval.checkpoint": Key(
        "last", "'best' is by validation accuracy", choices=("last", "best")
    ),
    "eval.ema": Key(False, "evaluate the averaged parameters"),
    "eval.num_bins": Key(15, "of calibration errors", min=1),
    "eval.noise_std": Key(
        0.0, "classify test images with this noise too; the papers: 0.03", min=0
    ),
    "eval.shift.corruptions": Key(
        CORRUPTIONS,
        "of test images, each in five severities",
        choices=CORRUPTIONS + PUBLISHED_CORRUPTIONS,
    ),
    "eval.shift.num_images": Key(
        1_000, "the first of the test set; CIFAR-10-C: 10,000", min=1
    ),
    "eval.shift.folder": Key(
        "", "with the .npy files of CIFAR-10-C; '' makes the corruptions"
    ),
    # JEM for CIFAR-10: svhn_cropped, cifar100, interpolation, celeb_a.
    "eval.ood.sets": Key(
        ("interpolation", "uniform", "gaussian", "constant"),
        "these four, names of TFDS sets, folders of images or .npz files",
    ),
    "eval.ood.near": Key((), "more sets, the near ones of OpenOOD's tables", item=str),
    "eval.ood.far": Key((), "more sets, the far ones of OpenOOD's tables", item=str),
    "eval.ood.temperature": Key(
        0.0, "of a further energy score, T logsumexp f(x) / T; 0 is without", min=0
    ),
    "eval.ood.num_fit": Key(
        10_000, "training examples to which scores of features are fitted", min=0
    ),
    "eval.ood.neighbours": Key(50, "k of the nearest-neighbour score", min=1),
    "eval.ood.num_images": Key(10_000, "the first of each set, at most", min=1),
    "eval.ood.noise_std": Key(0.03, "Gaussian noise in [-1, 1], as JEM", min=0),
    "eval.ood.refine_steps": Key(
        10, "SGLD steps of the refinement scores; 0 is without", min=0
    ),
    "eval.attacks.num_images": Key(200, "the first of the test set; JEM: 300", min=1),
    "eval.attacks.batch_size": Key(100, "images times eps, over all devices", min=1),
    "eval.attacks.norms": Key(("linf", "l2"), "of PGD", choices=("linf", "l2")),
    "eval.attacks.eps_linf": Key(
        (1.0, 2.0, 4.0, 8.0, 12.0, 16.0), "in 255ths, of images in [0, 1]", above=0
    ),
    "eval.attacks.eps_l2": Key((0.25, 0.5, 1.0, 1.5), "of images in [0, 1]", above=0),
    "eval.attacks.losses": Key(
        ("cross_entropy", "margin"),
        "the strongest counts",
        choices=("cross_entropy", "margin"),
    ),
    "eval.attacks.num_steps": Key(40, "of PGD", min=1),
    "eval.attacks.step_share": Key(0.1, "length of a step, in eps", above=0),
    "eval.attacks.num_restarts": Key(1, "for each loss; JEM: 20", min=1),
    "eval.attacks.distance_rounds": Key(
        8, "bisections to the nearest error; 0 is without", min=0
    ),
    "eval.attacks.max_eps_linf": Key(
        32.0, "where that search begins, in 255ths", above=0
    ),
    "eval.attacks.max_eps_l2": Key(2.0, "where that search begins", above=0),
    "eval.attacks.refine_steps": Key(
        (1,), "k of the JEM-k classifiers to attack; JEM: (1, 10)", min=1
    ),
    "eval.attacks.refine_images": Key(
        50, "the first ones; 0 attacks no JEM-k; JEM: 300", min=0
    ),
    "eval.attacks.refine_copies": Key(
        5, "chains whose mean logits classify an image", min=1
    ),
    "eval.attacks.refine_noise_std": Key(
        0.03, "of the copies, in [-1, 1]; none under 'l2'", min=0
    ),
    "eval.attacks.refine_gradients": Key(
        ("true", "straight_through"),
        "through the chain, or past it",
        choices=("true", "straight_through"),
    ),
    "eval.attacks.crosscheck": Key(False, "attack the same images with foolbox"),
    "eval.attacks.autoattack_eps_linf": Key(
        (), "AutoAttack at these, in 255ths; () is without", above=0, item=float
    ),
    "eval.attacks.autoattack_eps_l2": Key(
        (), "AutoAttack at these, of [0, 1]; () is without", above=0, item=float
    ),
    "eval.attacks.autoattack_refined": Key(
        False,
        "AutoAttack's version 'rand' on the JEM-k too, whose gradients are means of 20"
        " draws",
    ),
    "eval.attacks.judge": Key(
        "",
        "the official AutoAttack on the same images; '' is without",
        choices=("", "pyautoattack"),
    ),
    "eval.attacks.distal_steps": Key(
        200, "at most, from noise to a class; 0 is without", min=0
    ),
    "eval.attacks.distal_step_size": Key(0.2, "L2, in [-1, 1]", above=0),
    "eval.attacks.distal_confidence": Key(
        0.9, "p(class | x) at which it ends", above=0, below=1
    ),
    "eval.energies.num_images": Key(200, "the first of the test set", min=1),
    "eval.energies.eps_linf": Key(
        (8.0,), "PGD at these, in 255ths; () is without", above=0, item=float
    ),
    "eval.energies.eps_l2": Key(
        (), "PGD at these, of images in [0, 1]; () is without", above=0, item=float
    ),
    "eval.energies.num_steps": Key(20, "of PGD on the cross-entropy", min=1),
    "eval.energies.step_share": Key(0.25, "length of a step, in eps", above=0),
    "eval.counterfactuals.num_steps": Key(
        50, "sampler steps from an image towards a class", min=1
    ),
    "eval.samples.num_chains": Key(
        250, "chains, all of which are scored; the papers: 50,000", min=2
    ),
    "eval.samples.num_steps": Key(
        200, "SGLD steps of fresh chains; JEM: 40,000", min=1
    ),
    "eval.samples.num_reference": Key(10_000, "training images to compare with", min=2),
    "eval.samples.extractor": Key(
        "", "'' is this run; a run directory, or inception:FILE, gives the features"
    ),
    "eval.samples.inception_input": Key(
        "tensorflow",
        "how images get to Inception; 'pytorch' is as in pytorch-fid",
        choices=("tensorflow", "pytorch"),
    ),
    "eval.samples.buffer_share": Key(
        1.0,
        "below 1, also scores the most confident of each class; SADA-JEM: 0.9",
        above=0,
        max=1,
    ),
}

"""Every key there is: its default, unit and meaning. A config file changes
these, it never adds one; a misspelt key stops with the nearest right one."""

import difflib
import json
from typing import Any

import ml_collections

from ebmjax import models, optim, parallel


def default() -> ml_collections.ConfigDict:
    """The keys, with the JEM paper's values wherever it has them."""
    c = ml_collections.ConfigDict()
    c.seed = 0  # of everything random but the validation split
    c.batch_size = 64  # images a step, over all devices of all hosts
    c.num_steps = 105_450  # optimiser steps; 703 are an epoch of CIFAR-10 at 64

    c.data = ml_collections.ConfigDict()
    c.data.name = "cifar10"  # "digits", or a TFDS name with image and label
    c.data.data_dir = ""  # where TFDS data lie; "" is TFDS's own default
    c.data.num_valid = 5_000  # training images held out for validation
    c.data.split_seed = 1234  # which ones
    c.data.labels_per_class = 0  # labelled training images a class; 0 is all
    c.data.separate_streams = False  # a batch of its own for terms with labels
    c.data.pad = 4  # pixels of reflection padding before a random crop
    c.data.flip = True  # mirror half of the images
    c.data.noise_std = 0.03  # Gaussian, on images in [-1, 1]
    c.data.resident_mib = 1024  # of a device; larger training sets stay on the host

    c.model = ml_collections.ConfigDict()
    c.model.name = "wide_resnet"  # or "convnet", "mlp"
    c.model.depth = 28  # wide_resnet: 6n + 4
    c.model.width = 10  # wide_resnet: multiplies 16, 32, 64 channels
    c.model.norm = ""  # wide_resnet: "", "batch", "instance", "layer", "act"
    c.model.dropout_rate = 0.0  # wide_resnet
    c.model.remat = False  # wide_resnet: less memory, a third more arithmetic
    c.model.features = (32, 32, 64, 64)  # convnet, mlp: width of each layer
    c.model.dtype = "float32"  # of the computation, or "bfloat16"

    c.objective = ml_collections.ConfigDict()  # weights of the terms, in nats
    c.objective.cross_entropy = 1.0  # -log p(y | x)
    c.objective.p_x = 0.0  # -log p(x), by chains
    c.objective.p_x_y = 0.0  # -log p(x | y), by chains at the labels
    c.objective.energy_variance = 0.0  # NG-EBM's beta
    c.objective.approximate_mass = 0.0  # NG-EBM's gamma
    c.objective.energy_l2 = 0.0
    c.objective.input_gradient = 0.0

    c.sgld = ml_collections.ConfigDict()
    c.sgld.step_size = 1.0  # multiplies the energy's gradient
    c.sgld.noise_std = 0.01  # temperature = noise_std^2 / (2 step_size) = 5e-5
    c.sgld.num_steps = 20  # a training step
    c.sgld.reinit_prob = 0.05  # that a chain starts afresh from U(-1, 1)
    c.sgld.class_conditional = False  # p_x's negatives from p(y) p(x | y)
    c.sgld.replace = False  # may two chains share a slot, as in JEM's code
    c.sgld.train_mode = False  # chains see batch norm's batch moments and dropout
    c.sgld.buffer_size = 10_000  # chains kept, over all devices

    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "adam"  # or "adamw", "sgd"
    c.optimizer.learning_rate = 1e-4
    c.optimizer.warmup_steps = 1_000  # linear from 0
    c.optimizer.decay = "constant"  # or "step", "cosine"
    c.optimizer.boundaries = ()  # "step": where the rate is multiplied, in steps
    c.optimizer.decay_factor = 0.3  # "step": by what
    c.optimizer.weight_decay = 0.0  # L2 for adam and sgd, decoupled for adamw
    c.optimizer.b1 = 0.9  # adam, adamw
    c.optimizer.b2 = 0.999  # adam, adamw
    c.optimizer.momentum = 0.9  # sgd
    c.optimizer.clip_norm = 0.0  # bound on the gradient's global norm; 0 is none
    c.optimizer.ema_decay = 0.0  # of averaged parameters; 0 keeps none
    c.optimizer.accumulation_steps = (
        1  # parts of a batch, one after the other: less memory
    )

    c.recovery = ml_collections.ConfigDict()  # from divergence
    c.recovery.max_loss = 1e4  # a term or energy beyond this has exploded
    c.recovery.max_recoveries = 3  # returns to a checkpoint before giving up
    c.recovery.lr_factor = 0.5  # multiplies the learning rate at each

    c.every = ml_collections.ConfigDict()  # in steps
    c.every.log = 100  # a line of numbers
    c.every.checkpoint = 703  # validate, then save
    c.every.samples = 703  # a picture of chains
    c.checkpoint = ml_collections.ConfigDict()
    c.checkpoint.keep_last = 3  # checkpoints
    c.checkpoint.keep_best = 1  # by validation accuracy
    c.tensorboard = True  # write events, if tensorboardX is there

    c.parallel = ml_collections.ConfigDict()
    c.parallel.method = "shard_map"  # or "pmap"
    c.parallel.fsdp = False  # parameters and moments in parts on the devices
    # jax_default_matmul_precision; on GPU "default" is TF32, 1e-3 of a product.
    c.parallel.matmul_precision = "default"  # or "high", "highest"
    c.parallel.cpu_devices = 0  # without an accelerator; 0 is one a core, up to 8

    c.eval = ml_collections.ConfigDict()
    # What is evaluated at the end of training; the rest by ebmjax.eval, later.
    c.eval.parts = ("classification", "calibration", "ood", "attacks", "samples")
    c.eval.batch_size = 500  # images, over all devices
    c.eval.checkpoint = "last"  # or "best", by validation accuracy
    c.eval.ema = False  # evaluate the averaged parameters
    c.eval.num_bins = 15  # of calibration errors
    c.eval.noise_std = 0.0  # classify noised test images too; the papers: 0.03
    c.eval.ood = ml_collections.ConfigDict()
    # "interpolation" (of test images), "uniform", "gaussian", "constant", names of
    # TFDS sets, folders of images or .npz files. JEM for CIFAR-10: svhn_cropped,
    # cifar100, interpolation, celeb_a.
    c.eval.ood.sets = ("interpolation", "uniform", "gaussian", "constant")
    c.eval.ood.num_images = 10_000  # of each set, the first ones, at most
    c.eval.ood.noise_std = 0.03  # Gaussian, on images in [-1, 1], as JEM
    c.eval.ood.refine_steps = 10  # SGLD steps of the refinement scores; 0 is none
    c.eval.attacks = ml_collections.ConfigDict()  # images in [0, 1]
    c.eval.attacks.num_images = 200  # the first of the test set; JEM: 300
    c.eval.attacks.batch_size = 100  # images times eps, over all devices
    c.eval.attacks.norms = ("linf", "l2")  # one of them, or both
    c.eval.attacks.eps_linf = (1.0, 2.0, 4.0, 8.0, 12.0, 16.0)  # in 255ths
    c.eval.attacks.eps_l2 = (0.25, 0.5, 1.0, 1.5)
    c.eval.attacks.losses = ("cross_entropy", "margin")  # the worse of all counts
    c.eval.attacks.num_steps = 40  # of PGD
    c.eval.attacks.step_share = 0.1  # length of a step, in eps
    c.eval.attacks.num_restarts = 1  # for each loss; JEM: 20
    c.eval.attacks.distance_rounds = 8  # bisections to the nearest mistake; 0 is none
    c.eval.attacks.max_eps_linf = 32.0  # in 255ths, where that search begins
    c.eval.attacks.max_eps_l2 = 2.0  # likewise
    c.eval.attacks.refine_steps = (1,)  # JEM-k classifiers to attack; JEM: (1, 10)
    c.eval.attacks.refine_images = 50  # the first so many; JEM: 300
    c.eval.attacks.refine_copies = 5  # whose mean logits such a classifier takes
    c.eval.attacks.refine_noise_std = 0.03  # of copies, in [-1, 1], not under "l2"
    c.eval.attacks.refine_gradients = ("true", "straight_through")
    c.eval.attacks.judge = False  # foolbox on the same images, to compare
    c.eval.attacks.distal_steps = 200  # at most, from noise to a class; 0 is none
    c.eval.attacks.distal_step_size = 0.2  # L2, in [-1, 1]
    c.eval.attacks.distal_confidence = 0.9  # p(class | x) at which it ends
    c.eval.samples = ml_collections.ConfigDict()
    c.eval.samples.num_chains = 250  # also how many are scored; the papers: 50,000
    c.eval.samples.num_steps = 200  # SGLD steps from noise; JEM: 40,000
    c.eval.samples.num_reference = 10_000  # training images to compare with
    c.eval.samples.extractor = ""  # a run whose features to use; "" is this one
    return c


def variant(c: ml_collections.ConfigDict, name: str) -> ml_collections.ConfigDict:
    """A config as it is ("full"), cut down for a CPU ("small"), or to see whether it
    runs at all ("smoke"). Raises ValueError for another name."""
    _one_of("variant", name, VARIANTS)
    if name == "full":
        return c
    _shorten(c, num_steps=1_000)
    c.model.depth, c.model.width = 10, 1
    c.model.features = (32, 32, 64, 64)
    c.data.num_valid = min(c.data.num_valid, 1_000)
    c.sgld.buffer_size = min(c.sgld.buffer_size, 2_000)
    c.optimizer.learning_rate = 1e-3  # so few steps need longer ones
    c.every.log = 50
    c.every.checkpoint = c.every.samples = 250
    if name == "smoke":
        _shorten(c, num_steps=4)
        c.batch_size = 8
        c.data.num_valid = 16
        c.sgld.num_steps = 2
        c.sgld.buffer_size = 800
        c.every.log = c.every.checkpoint = c.every.samples = 2
        c.eval.batch_size = 32
        c.eval.parts = ("classification",)
    return c


def _shorten(c, num_steps):
    if num_steps < c.num_steps:
        share = num_steps / c.num_steps
        c.optimizer.boundaries = tuple(int(share * b) for b in c.optimizer.boundaries)
        c.optimizer.warmup_steps = min(c.optimizer.warmup_steps, num_steps // 10)
        c.num_steps = num_steps


VARIANTS = ("full", "small", "smoke")
MODELS = ("wide_resnet", "convnet", "mlp")
# Changing these would make a stored state another run's.
FIXED = "seed batch_size data model objective sgld.class_conditional optimizer.name"
MOVABLE = ("data.data_dir", "data.resident_mib")


def check(c: ml_collections.ConfigDict) -> None:
    """Raises ValueError for the first value that cannot work, naming its key."""
    _one_of("model.name", c.model.name, MODELS)
    _one_of("model.norm", c.model.norm, [norm or "" for norm in models.NORMS])
    _one_of("model.dtype", c.model.dtype, ("float32", "bfloat16"))
    _one_of("optimizer.name", c.optimizer.name, optim.NAMES)
    _one_of("optimizer.decay", c.optimizer.decay, optim.DECAYS)
    _one_of("parallel.method", c.parallel.method, parallel.METHODS)
    if c.parallel.fsdp and c.parallel.method == "pmap":
        raise ValueError(
            "config.parallel.fsdp does not go with config.parallel.method='pmap', which"
            " cannot spread an array over devices: use 'shard_map'"
        )
    precision = c.parallel.matmul_precision
    _one_of("parallel.matmul_precision", precision, ("default", "high", "highest"))
    _one_of("eval.checkpoint", c.eval.checkpoint, ("last", "best"))
    several = {
        "parts": default().eval.parts,
        "attacks.norms": ("linf", "l2"),
        "attacks.losses": ("cross_entropy", "margin"),
        "attacks.refine_gradients": ("true", "straight_through"),
    }
    for key, choices in several.items():
        for value in get(c.eval, key):
            if "," in value:
                names = tuple(value.split(","))
                raise ValueError(f'several are written --config.eval.{key}="{names}"')
            _one_of(f"eval.{key}", value, choices)
    positive = (
        "batch_size num_steps sgld.step_size sgld.num_steps sgld.buffer_size"
        " optimizer.learning_rate optimizer.accumulation_steps recovery.max_loss"
        " every.log every.checkpoint"
        " every.samples checkpoint.keep_last eval.batch_size eval.num_bins"
        " eval.ood.num_images eval.attacks.num_images eval.attacks.batch_size"
        " eval.attacks.num_steps eval.attacks.num_restarts eval.samples.num_chains"
        " eval.samples.num_steps eval.samples.num_reference"
    )
    for key in positive.split():
        if get(c, key) <= 0:
            raise ValueError(f"config.{key} must be positive, not {get(c, key)}")
    not_negative = (
        "data.num_valid data.labels_per_class data.pad data.noise_std sgld.noise_std"
        " optimizer.warmup_steps optimizer.weight_decay optimizer.clip_norm"
        " recovery.max_recoveries checkpoint.keep_best parallel.cpu_devices"
    )
    for key in not_negative.split():
        if get(c, key) < 0:
            raise ValueError(f"config.{key} must not be negative: {get(c, key)}")
    for key in ("model.dropout_rate", "optimizer.ema_decay"):
        if not 0 <= get(c, key) < 1:
            raise ValueError(f"config.{key} must be in [0, 1), not {get(c, key)}")
    if not 0 <= c.sgld.reinit_prob <= 1:
        raise ValueError(
            f"config.sgld.reinit_prob must be in [0, 1], not {c.sgld.reinit_prob}"
        )
    if c.model.name == "wide_resnet" and (c.model.depth < 10 or c.model.depth % 6 != 4):
        raise ValueError(
            f"config.model.depth must be 10, 16, 22, 28, ..., not {c.model.depth}"
        )
    if not any(c.objective.values()):
        raise ValueError("config.objective has no term with a weight: set one")
    if c.optimizer.accumulation_steps > 1:
        whole = {
            "objective.energy_variance": c.objective.energy_variance,
            'model.norm="batch"': c.model.name == "wide_resnet"
            and c.model.norm == "batch",
        }
        for key in (key for key, used in whole.items() if used):
            raise ValueError(
                f"config.optimizer.accumulation_steps does not go with config.{key}, which"
                " takes its mean over the whole batch: use config.model.remat"
            )
    if c.eval.ema and not c.optimizer.ema_decay:
        raise ValueError(
            "config.eval.ema asks for averaged parameters, but"
            " config.optimizer.ema_decay is 0: none are kept"
        )


def get(c: ml_collections.ConfigDict, key: str) -> Any:
    """The value at a dotted key."""
    for part in key.split("."):
        c = c[part]
    return c


def flatten(c: ml_collections.ConfigDict) -> dict[str, Any]:
    """{"seed": 0, ..., "data.name": "cifar10", ...}."""
    flat = {}
    for key, value in c.items():
        if isinstance(value, ml_collections.ConfigDict):
            flat |= {f"{key}.{k}": v for k, v in flatten(value).items()}
        else:
            flat[key] = value
    return flat


def to_json(c: ml_collections.ConfigDict) -> str:
    return json.dumps(c.to_dict(), indent=2) + "\n"


def from_json(text: str) -> ml_collections.ConfigDict:
    """The config that `to_json` wrote, its unknown keys an error, its missing
    ones at their defaults: a newer program reads an older run."""
    c = default()
    for key, value in flatten(ml_collections.ConfigDict(json.loads(text))).items():
        assign(c, key, tuple(value) if isinstance(value, list) else value)
    return c


def assign(c: ml_collections.ConfigDict, key: str, value: Any) -> None:
    """Sets a dotted key that exists. Raises KeyError naming the nearest one."""
    known = flatten(c)
    if key not in known:
        near = difflib.get_close_matches(key, known, n=1, cutoff=0)
        raise KeyError(f"config has no key {key!r}; did you mean {near[0]!r}?")
    *path, last = key.split(".")
    for part in path:
        c = c[part]
    c[last] = value


def changes(old: ml_collections.ConfigDict, new: ml_collections.ConfigDict) -> dict:
    """{key: (old, new)} of all keys that differ."""
    before, after = flatten(old), flatten(new)
    return {k: (before.get(k), v) for k, v in after.items() if before.get(k) != v}


def is_fixed(key: str) -> bool:
    """Must this key stay what it was when a run is resumed?"""
    return key not in MOVABLE and any(
        key == fixed or key.startswith(fixed + ".") for fixed in FIXED.split()
    )


def _one_of(key, value, choices):
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1, cutoff=0)
        raise ValueError(
            f"config.{key} must be one of {', '.join(map(repr, choices))}, not"
            f" {value!r}; did you mean {near[0]!r}?"
        )

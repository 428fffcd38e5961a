"""A recipe: the code of a run, as a config holds its numbers.

Every field of a `Recipe` may be left out; `complete` makes the rest from the config.
A config file may define ``get_recipe(config)`` beside ``get_config()``.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import optax
from flax import linen as nn

from ebmjax import adversarial, models, objectives, optim, parallel, replay, sgld
from ebmjax.augment import Augment, standard
from ebmjax.data import Scaling


class Recipe(NamedTuple):
    """What is code: pass it to `fit`, and to `load` what says `FOR_EVALUATION`.

    Fields that are None come from the config.
    """

    # Any linen module x [B, ...] -> logits [B, K], or `models.network(module)`.
    network: models.Network | nn.Module | None = None
    # Terms beside those of the package, whose weights are `config.objective.NAME`.
    terms: Mapping[str, objectives.Term] | None = None
    # energy_fn -> Sampler, for training, refinement and `Run.sample` alike.
    sampler: sgld.SamplerFactory | None = None
    # (key, n, labels) -> fresh chain starts [n, ...], for chains without classes with
    # the labels of all classes in turn; None: as `config.sgld.init` says.
    chain_init: replay.ChainInit | None = None
    # (key, logits_fn, x, labels) -> x_adv, the examples of the term "adversarial".
    attack: adversarial.Attack | None = None
    optimizer: optax.GradientTransformation | None = None
    # (grad_fn, params) -> grads, aux, where grad_fn(params) -> grads, aux is the
    # gradient over all devices: `optim.sam` evaluates it twice. None: grad_fn itself.
    gradient: Callable | None = None
    # (key, x) -> x of one example, in what the network takes.
    augment: Augment | None = None
    # Evaluation tasks by name, beside or instead of those of `ebmjax.eval`.
    tasks: Mapping[str, Any] | None = None


FOR_EVALUATION = ("network", "sampler")  # without which a run cannot be read back


def given(recipe: Recipe | None) -> list[str]:
    """The names of the fields that a recipe does not leave to the config."""
    fields = (recipe or Recipe())._asdict()
    return [name for name, value in fields.items() if value is not None]


class Settings(NamedTuple):
    """The numbers of a run that a training step needs."""

    objective: objectives.Objective
    num_classes: int
    chains: objectives.ChainSettings = objectives.ChainSettings()
    scaling: Scaling | None = None  # of vectors
    plain_main_batch: bool = False  # augments the labelled stream only
    clip_norm: float = 0.0  # bound on the gradient's global norm; 0 is none
    ema_decay: float = 0.0
    recovery_lr_factor: float = 1.0  # multiplies the updates once a recovery
    queue_size: int = 65_536  # logits kept, over all devices
    skip_sigma: float = 0.0  # see `guard`; 0 skips no step
    accumulation_steps: int = 1  # of a device's batch, to save memory

    @property
    def num_blocks(self) -> int:
        """The number of equal blocks of the replay buffer: one, or one a class."""
        needs = self.objective.needs
        by_class = "joint_samples" in needs or (
            "samples" in needs and self.chains.class_conditional
        )
        return self.num_classes if by_class else 1


def complete(recipe: Recipe | None, c: Any, num_classes: int) -> Recipe:
    """`recipe`, with the fields that it leaves out made from the config `c`."""
    fields = {name: getattr(recipe, name) for name in given(recipe)}
    if isinstance(fields.get("network"), nn.Module):
        fields["network"] = models.network(fields["network"])
    fields["terms"] = objectives.TERMS | dict(fields.get("terms", {}))
    makers = {
        "network": lambda: network(c, num_classes),
        "sampler": lambda: sampler(c),
        "attack": lambda: attack(c),
        "optimizer": lambda: optimizer(c),
        "gradient": lambda: gradient(c),
        "augment": lambda: standard(
            pad=c.data.pad, flip=c.data.flip, noise_std=c.data.noise_std
        ),
    }
    made = {name: make() for name, make in makers.items() if name not in fields}
    return Recipe(**fields, **made)


def from_config(c: Any, num_classes: int) -> Recipe:
    """The recipe of a config alone."""
    return complete(None, c, num_classes)


def network(c: Any, num_classes: int) -> models.Network:
    """The network of `c.model`."""
    m, dtype = c.model, jnp.dtype(c.model.dtype)
    if m.name == "wide_resnet":
        module = models.WideResNet(
            depth=m.depth,
            width=m.width,
            num_classes=num_classes,
            norm=m.norm or None,
            dropout_rate=m.dropout_rate,
            dtype=dtype,
            axis_name=parallel.AXIS,
            remat=m.remat,
        )
    else:
        kind = {"convnet": models.ConvNet, "mlp": models.MLP}[m.name]
        module = kind(num_classes, features=tuple(m.features), dtype=dtype)
    batch_norm = m.name == "wide_resnet" and m.norm == "batch"
    return models.network(module, per_example=not batch_norm)


def sampler(c: Any) -> sgld.SamplerFactory:
    """The sampler of `c.sgld`."""
    return functools.partial(
        sgld.sgld,
        step_size=c.sgld.step_size,
        noise_std=c.sgld.noise_std,
        clip_grad=c.sgld.clip_grad,
        clip_x=c.sgld.clip_x,
    )


def attack(c: Any) -> adversarial.Attack:
    """The attack of `c.adversarial`, whose unit is the range of a pixel: [-1, 1] is two
    of it."""
    a = c.adversarial
    return functools.partial(
        adversarial.pgd_examples,
        norm=a.norm,
        eps=2 * a.eps,
        step_size=2 * a.step_size,
        num_steps=a.num_steps,
    )


def gradient(c: Any) -> Callable | None:
    """Sharpness-aware minimisation if `c.optimizer.sam_rho` asks for it."""
    if not c.optimizer.sam_rho:
        return None
    return optim.sam(c.optimizer.sam_rho, adaptive=c.optimizer.sam_adaptive)


def optimizer(c: Any) -> optax.GradientTransformation:
    """The optimiser and learning rate of `c.optimizer`."""
    o = c.optimizer
    schedule = optim.schedule(
        o.learning_rate,
        num_steps=c.num_steps,
        warmup_steps=o.warmup_steps,
        decay=o.decay,
        boundaries=tuple(o.boundaries),
        decay_factor=o.decay_factor,
    )
    return optim.optimizer(
        o.name,
        schedule,
        weight_decay=o.weight_decay,
        b1=o.b1,
        b2=o.b2,
        momentum=o.momentum,
        nesterov=o.nesterov,
    )


def settings(
    c: Any,
    num_classes: int,
    terms: Mapping[str, objectives.Term] = objectives.TERMS,
    scaling: Scaling | None = None,
) -> Settings:
    """The numbers of the config `c`.

    Raises ValueError for a weight without a term, and for accumulation of a gradient
    that is a statistic of the whole batch.
    """
    numbers = objectives.TermSettings(
        temperature=c.hdge.temperature,
        margin_in=c.outliers.margin_in,
        margin_out=c.outliers.margin_out,
    )
    for name in terms:
        if name not in c.objective:
            raise ValueError(
                f"term {name!r} has no weight: make the config by"
                f" ebmjax.config.default(terms=[{name!r}]) and set"
                f" objective.{name}"
            )
    objective = objectives.objective(c.objective.to_dict(), terms, numbers)
    for name, term in objective.terms.items():
        if term.whole_batch and c.optimizer.accumulation_steps > 1:
            raise ValueError(
                "config.optimizer.accumulation_steps cannot be combined with"
                f" config.objective.{name}, which is a statistic of the whole batch;"
                " use config.model.remat to save memory"
            )
    names = objectives.ChainSettings._fields
    return Settings(
        objective=objective,
        num_classes=num_classes,
        chains=objectives.ChainSettings(**{name: c.sgld[name] for name in names}),
        scaling=scaling,
        plain_main_batch=not c.data.generative_augment,
        clip_norm=c.optimizer.clip_norm,
        ema_decay=c.optimizer.ema_decay,
        recovery_lr_factor=c.recovery.lr_factor,
        queue_size=c.hdge.queue_size,
        skip_sigma=c.recovery.skip_sigma,
        accumulation_steps=c.optimizer.accumulation_steps,
    )

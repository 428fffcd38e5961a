"""A trained model as a compiled function, by `jax.export`.

To read the file takes jax, which promises to do so for six months, and its optional
dependency flatbuffers::

    exported = jax.export.deserialize(bytearray(open("model.jaxexport", "rb").read()))
    answer = exported.call(x)  # "logits" [B, K], "log_density" [B], "energy" [B]

It holds the weights, one program for CPU, CUDA and TPU, and any batch size. Beside it,
model.jaxexport.json has the names of the classes and quantiles of log p(x).
"""

import json
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ebmjax import augment, energy, rundir, runs

PLATFORMS = ("cpu", "cuda", "tpu")


def to_jax(
    run: runs.Run, path: str | os.PathLike, log_density: dict[str, Any] | None = None
) -> None:
    """Writes `path`, and what it does not say for itself into `path`.json.

    `log_density` are the quantiles of `log_density_quantiles`. Raises OSError if the
    files cannot be written, ValueError if the network cannot be compiled for a batch
    of any size.
    """
    exported = export(run)
    about = {
        "input": {"shape": list(run.image_shape), "dtype": str(_dtype(run))},
        "class_names": list(run.class_names),
        "log_density": log_density,
        "platforms": list(exported.platforms),
        "jax": jax.__version__,
    }
    path = rundir.expand(path)
    rundir.write(path, bytes(exported.serialize()))
    text = json.dumps(about, indent=1) + "\n"
    rundir.write(path.with_name(f"{path.name}.json"), text)


def export(run: runs.Run, platforms: Sequence[str] = PLATFORMS) -> jax.export.Exported:
    """x [B, ...] -> {"logits": [B, K], "log_density": [B], "energy": [B]}.

    x are images as uint8, or vectors as float32 in the units of the data; the
    standardisation is part of the program.
    """
    (batch,) = jax.export.symbolic_shape("batch")
    x = jax.ShapeDtypeStruct((batch, *run.image_shape), _dtype(run))
    precision = run.config.parallel.matmul_precision
    try:
        with jax.default_matmul_precision(precision):
            return jax.export.export(jax.jit(answer(run)), platforms=platforms)(x)
    except (TypeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"the network of {run.workdir} cannot be exported for any batch size"
            f" ({reason}); take sizes from x.shape, not from len(x)"
        ) from error


def answer(run: runs.Run) -> Callable[[jax.Array], dict[str, jax.Array]]:
    """The function that `export` compiles, with the variables as constants."""
    network = run.model.network
    variables, scaling = jax.device_get((run.model.variables, run.model.scaling))

    def fn(x):
        logits = network.apply(*variables, augment.to_float(x, scaling))
        energies = energy.from_logits(logits)
        return {"logits": logits, "log_density": -energies, "energy": energies}

    return fn


def _dtype(run):
    return np.dtype(jnp.uint8 if len(run.image_shape) == 3 else jnp.float32)

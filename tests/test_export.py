"""Models as compiled functions and as weights, read without ebmjax."""

import dataclasses
import json
import os
import re
import subprocess
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import small_runs

import ebmjax
from ebmjax import data, export, models, portable
from ebmjax.export import program
from ebmjax.kernels import conv

ALONE = """
import json, sys
for name in ("ebmjax", "flax", "ml_collections", "optax", "chex"):
    sys.modules[name] = None  # to import it raises ImportError
import jax, numpy as np
folder = sys.argv[1]
with open(f"{folder}/model.jaxexport", "rb") as file:
    exported = jax.export.deserialize(bytearray(file.read()))
with open(f"{folder}/model.jaxexport.json") as file:
    assert json.load(file)["class_names"][3] == "3"
x = np.load(f"{folder}/x.npy")
answers = [exported.call(x[:n]) for n in (1, 7)]
np.savez(f"{folder}/answer.npz", one=answers[0]["logits"], **answers[1])
"""


def images(num, shape=(8, 8, 1)):
    return np.random.default_rng(0).integers(0, 256, (num, *shape), np.uint8)


def test_a_program_needs_jax_alone(tmp_path):
    run = small_runs.untrained(data__num_valid=0)
    export.save(run, tmp_path / "model.jaxexport")
    x = images(7)
    np.save(tmp_path / "x.npy", x)
    (tmp_path / "alone.py").write_text(ALONE)
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "alone.py", tmp_path],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    logits = run.logits(x)
    with np.load(tmp_path / "answer.npz") as answer:
        close = dict(rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(answer["logits"], logits, **close)
        np.testing.assert_allclose(answer["one"], logits[:1], **close)
        log_p = scipy.special.logsumexp(logits, axis=1)
        np.testing.assert_allclose(answer["log_density"], log_p, **close)
        np.testing.assert_allclose(answer["energy"], -log_p, **close)


def test_what_a_program_does_not_say_is_beside_it(tmp_path):
    run = small_runs.untrained()
    export.save(run, tmp_path / "m.jaxexport")
    about = json.loads((tmp_path / "m.jaxexport.json").read_text())
    assert about["input"] == {"shape": [8, 8, 1], "dtype": "uint8"}
    assert about["class_names"] == list("0123456789")
    log_p = run.log_density(run.splits().valid.image)
    found = about["log_density"]
    assert (found["split"], found["num"]) == ("validation", 60)
    assert np.mean(log_p < found["quantiles"]["0.05"]) == 3 / 60
    assert found["quantiles"]["0.5"] == pytest.approx(np.median(log_p))


def test_without_the_data_there_are_no_quantiles(tmp_path, caplog):
    run = small_runs.untrained(data__name=str(tmp_path / "gone.npz"))
    export.save(run, tmp_path / "m.jaxexport")
    about = json.loads((tmp_path / "m.jaxexport.json").read_text())
    assert about["log_density"] is None
    assert "no quantiles of log p(x)" in caplog.text and "gone.npz" in caplog.text


NETWORKS = {
    # Channels and sizes for which a CPU has Winograd's algorithm and strides.
    "convnet": {"model__name": "convnet", "model__features": (32, 32, 32)},
    "wide_resnet": {"model__name": "wide_resnet", "model__depth": 10, "model__width": 2}
    | {"model__norm": "batch"},
}


@pytest.mark.parametrize(
    "name", ["convnet", pytest.param("wide_resnet", marks=pytest.mark.slow)]
)
def test_every_platform_has_its_program(name):
    run = small_runs.untrained(**NETWORKS[name])
    exported = program.export(run)
    assert exported.platforms == ("cpu", "cuda", "tpu")
    assert exported.in_avals[0].dtype == np.uint8
    # XLA's own convolutions, and nothing that a platform may lack.
    text = exported.mlir_module()
    assert "stablehlo.convolution" in text
    assert set(re.findall(r"custom_call @(\w+)", text)) == {"shape_assertion"}
    x = images(5)
    answer = exported.call(x)["logits"]
    np.testing.assert_allclose(answer, run.logits(x), rtol=1e-4, atol=1e-5)


def test_vectors_are_standardised_inside():
    scaling = data.Scaling(np.float32([1, 2]), np.float32([3, 400]))
    run = small_runs.untrained(shape=(2,))
    model = run.model
    run = dataclasses.replace(
        run, model=small_runs.runs.Model(model.network, model.variables, scaling)
    )
    exported = program.export(run)
    assert exported.in_avals[0].dtype == np.float32
    x = np.float32([[1, 2], [4, 402], [-5, 900]])
    direct = model.network.apply(*model.variables, jnp.asarray((x - [1, 2]) / [3, 400]))
    np.testing.assert_allclose(exported.call(x)["logits"], direct, rtol=1e-5, atol=1e-6)


class UsesLen(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(x.reshape(len(x), -1))


def test_a_network_for_known_sizes_alone_is_told():
    run = small_runs.untrained(network=models.network(UsesLen()))
    with pytest.raises(ValueError, match="any batch size .* not from len"):
        program.export(run)


def test_convolutions_of_a_batch_of_any_size_have_gradients():
    """`conv` leaves them to XLA, which differentiates its own."""
    w = np.random.default_rng(1).normal(size=(3, 3, 2, 4)).astype(np.float32)

    def total(x):
        return (conv.conv(x, w, stride=2, padding=1) ** 2).sum()

    (batch,) = jax.export.symbolic_shape("b")
    x = jax.ShapeDtypeStruct((batch, 8, 8, 2), jnp.float32)
    exported = jax.export.export(jax.jit(jax.grad(total)), platforms=["cpu"])(x)
    x = np.random.default_rng(2).normal(size=(3, 8, 8, 2)).astype(np.float32)
    np.testing.assert_allclose(exported.call(x), jax.grad(total)(x), rtol=1e-4)


def test_weights_go_into_a_file_and_back(tmp_path):
    module = models.WideResNet(10, 1, 10, norm="batch")
    run = small_runs.untrained(models.network(module), data__name="gone.npz")
    export.save(run, tmp_path / "m.safetensors")
    variables, metadata = export.load_safetensors(tmp_path / "m.safetensors")
    x = jnp.float32(images(3)) / 127.5 - 1
    np.testing.assert_allclose(
        module.apply(variables, x), run.logits(images(3)), rtol=1e-4, atol=1e-5
    )
    assert set(variables) == {"params", "batch_stats"}
    assert metadata["facts"]["class_names"] == list("0123456789")
    assert metadata["facts"]["image_shape"] == [8, 8, 1]


def test_weights_are_laid_out_as_the_format_says(tmp_path):
    """Length of the header, its JSON, then the bytes: read without the library."""
    run = small_runs.untrained()
    export.save(run, tmp_path / "m.safetensors")
    content = (tmp_path / "m.safetensors").read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    metadata = json.loads(header.pop("__metadata__")["ebmjax"])
    assert metadata["version"] == ebmjax.__version__ and metadata["step"] == 0
    tensor = header["params/head/kernel"]
    assert tensor["dtype"] == "F32"
    first, last = tensor["data_offsets"]
    kernel = np.frombuffer(content[start + first : start + last], np.float32)
    (params, _) = run.model.variables
    np.testing.assert_array_equal(
        kernel.reshape(tensor["shape"]), params["head"]["kernel"]
    )


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "m.safetensors"
    with pytest.raises(FileNotFoundError):
        export.load_safetensors(path)
    path.write_bytes(b"not tensors at all")
    with pytest.raises(ValueError, match="is not a safetensors file"):
        export.load_safetensors(path)
    import safetensors.numpy

    path.write_bytes(safetensors.numpy.save({"a": np.zeros(2)}))
    with pytest.raises(ValueError, match="was not written by ebmjax"):
        export.load_safetensors(path)
    path.write_bytes(safetensors.numpy.save({"a": np.zeros(2)}, {"ebmjax": "{}"}))
    with pytest.raises(ValueError, match="metadata has no ema, facts"):
        export.load_safetensors(path)


def test_variables_in_other_containers_are_refused():
    with pytest.raises(ValueError, match="params/a is a list; expected an array"):
        portable.weights_to_bytes({"params": {"a": [1.0, 2.0]}}, {})

"""FID's network against torch-fidelity's class and torch's resizing, random weights."""

import importlib.util
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from eval_runs import make_run, small_config

from ebmjax.eval import evaluate as evaluation
from ebmjax.eval import inception, sample_scores

torch = pytest.importorskip("torch")


def random_state(seed=0):
    """A state dict with the names of torchvision, and moments that matter."""
    rng = np.random.default_rng(seed)
    params = jax.eval_shape(
        inception.InceptionV3().init, jax.random.key(0), jnp.zeros((1, 299, 299, 3))
    )["params"]
    state = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        *names, last = [key.key for key in path]
        if last != "kernel" or names == ["fc"]:
            continue
        *names, _ = names
        name, (h, w, i, o) = ".".join(names), leaf.shape
        scale = np.sqrt(2 / (h * w * i))
        state[f"{name}.conv.weight"] = rng.normal(0, scale, (o, i, h, w))
        state[f"{name}.bn.weight"] = rng.uniform(0.5, 1.5, o)
        state[f"{name}.bn.bias"] = rng.normal(0, 0.1, o)
        state[f"{name}.bn.running_mean"] = rng.normal(0, 0.1, o)
        state[f"{name}.bn.running_var"] = rng.uniform(0.5, 1.5, o)
    state["fc.weight"] = rng.normal(0, 0.02, (1008, 2048))
    state["fc.bias"] = rng.normal(0, 0.1, 1008)
    return {k: np.float32(x) for k, x in state.items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The state dict, and a file of it as torch writes it."""
    state = random_state()
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save({k: torch.from_numpy(x) for k, x in state.items()}, path)
    return state, path


def photographs(n, side, channels=3):
    rng = np.random.default_rng(1)
    return rng.integers(0, 256, (n, side, side, channels), np.uint8)


def test_it_has_94_convolutions_and_their_number_of_weights():
    state = random_state()
    assert sum(".conv." in name for name in state) == 94
    counted = sum(x.size for name, x in state.items() if "running" not in name)
    assert (len(state), counted) == (472, 23_850_960)  # as torch-fidelity's class


def torch_fidelity(monkeypatch):
    """Its module of the network, without the package, which imports torchvision."""
    spec = importlib.util.find_spec("torch_fidelity")
    if spec is None:
        pytest.skip("pip install --no-deps torch-fidelity")
    package = types.ModuleType("torch_fidelity")
    package.__path__ = list(spec.submodule_search_locations)
    monkeypatch.setitem(sys.modules, "torch_fidelity", package)
    return importlib.import_module("torch_fidelity.feature_extractor_inceptionv3")


@pytest.mark.slow
def test_features_and_logits_are_those_of_torch_fidelity(weights, monkeypatch):
    module = torch_fidelity(monkeypatch)
    _, path = weights
    theirs = module.FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path=path
    )
    image = photographs(2, 32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(image.transpose(0, 3, 1, 2).copy()))
    found = inception.Extractor(path)(image)
    for ours, other in zip(found, expected, strict=True):
        other = other.numpy()
        scale = np.abs(other).max()
        np.testing.assert_allclose(ours / scale, other / scale, atol=1e-4)


@pytest.mark.parametrize("side", [28, 32, 64])
def test_the_input_of_pytorch_is_torchs_bilinear_resizing(side):
    image = photographs(2, side)
    x = torch.from_numpy(image.transpose(0, 3, 1, 2) / np.float32(255))
    size = {"size": (299, 299), "mode": "bilinear", "align_corners": False}
    expected = 2 * torch.nn.functional.interpolate(x, **size) - 1
    found = inception.prepare(jnp.asarray(image), "pytorch")
    np.testing.assert_allclose(found, expected.permute(0, 2, 3, 1), atol=2e-5)


@pytest.mark.parametrize("side", [28, 32, 64])
def test_the_input_of_tensorflow_has_no_half_pixels(side):
    image = photographs(1, side, channels=1)
    found = np.asarray(inception.prepare(jnp.asarray(image), "tensorflow"))
    assert found.shape == (1, 299, 299, 3) and np.ptp(found, axis=-1).max() == 0
    for i in (0, 17, 298):
        at = i * side / 299
        low, high = int(at), min(int(at) + 1, side - 1)
        row = (1 - at + low) * image[0, low, 0, 0] + (at - low) * image[0, high, 0, 0]
        np.testing.assert_allclose(found[0, i, 0, 0], (row - 128) / 128, atol=1e-5)


@pytest.mark.slow
def test_a_converted_file_holds_the_same_network(weights, tmp_path, monkeypatch):
    state, path = weights
    inception.main(["", str(path), str(tmp_path / "fid.npz")])
    monkeypatch.setitem(sys.modules, "torch", None)  # not installed
    again = inception.load(tmp_path / "fid.npz")
    expected = inception.from_torch(state)
    jax.tree.map(np.testing.assert_array_equal, again, expected)


def test_another_file_is_refused(tmp_path):
    np.savez(tmp_path / "other.npz", weight=np.zeros(3))
    with pytest.raises(ValueError, match="does not hold FID's Inception network"):
        inception.load(tmp_path / "other.npz")
    torch.save({"a.conv.weight": torch.zeros(1)}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"has a tensor 'a\.bn\.weight'"):
        inception.load(tmp_path / "a.pth")
    with pytest.raises(FileNotFoundError):
        inception.load(tmp_path / "nowhere.npz")


def test_the_most_confident_share_of_each_predicted_class(tmp_path):
    run = make_run(tmp_path)
    kept = sample_scores._most_confident(run, 0.5)
    image = sample_scores.to_uint8(run.buffer)
    logits = run.logits(image)
    probs = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    predicted, confidence = logits.argmax(-1), probs.max(-1)
    expected = set()
    for label in set(predicted):
        of_class = [i for i in range(len(image)) if predicted[i] == label]
        of_class.sort(key=lambda i: -confidence[i])
        share = max(round(0.5 * len(of_class)), 1)
        expected |= {image[i].tobytes() for i in of_class[:share]}
    assert {x.tobytes() for x in kept} == expected


@pytest.mark.slow
def test_fid_is_called_so_with_its_network_only(weights, tmp_path):
    c = small_config()
    c.eval.samples.update(num_chains=10, num_reference=20, num_steps=2)
    c.eval.samples.update(extractor=f"inception:{weights[1]}", buffer_share=0.9)
    results = evaluation.evaluate(make_run(tmp_path, c), tasks=["samples"])
    scores = results["samples"]["scores"]
    assert (scores["input"], scores["num_features"]) == ("tensorflow", 2048)
    assert "buffer, most confident 90%" in scores["sets"]
    text = evaluation.table(results)
    assert "FID (tensorflow input, 10 samples), buffer" in text
    page = (tmp_path / "report.html").read_text()
    assert "KID" in page and "Not FID" not in page

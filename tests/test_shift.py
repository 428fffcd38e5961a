"""Corruptions, against Pillow, the standard library and algebra; and their task."""

import colorsys
import io

import numpy as np
import pytest
from eval_runs import make_run, small_config
from PIL import Image
from scipy import stats

from ebmjax import keys, runs
from ebmjax.eval import corruptions
from ebmjax.eval import evaluate as evaluation
from ebmjax.eval.corruptions import CORRUPTIONS, Corruption, corrupt
from ebmjax.eval.result import Progress
from ebmjax.eval.tasks import shift


def photographs(channels=3, n=4, side=16):
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, side, side, channels), np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corruption_keeps_shape_and_dtype_and_is_repeated_by_its_seed(name, channels):
    x = photographs(channels)
    before = x.copy()
    first, again, other = (corrupt(name, 5, x, seed=seed) for seed in (0, 0, 1))
    assert first.shape == x.shape and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert np.any(first != x) and np.array_equal(x, before)
    assert np.any(first != other) == name.endswith("noise")


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_images_are_corrupted_some_at_a_time(name, monkeypatch):
    x = photographs(n=5)
    at_once = corrupt(name, 2, x)
    monkeypatch.setattr(corruptions, "BATCH_SIZE", 2)
    np.testing.assert_array_equal(corrupt(name, 2, x), at_once)


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_higher_severity_changes_more(name):
    smooth = np.linspace(60, 180, 32).astype(np.uint8)
    x = np.broadcast_to(smooth[:, None, None] + smooth[:, None] // 4, (8, 32, 32, 3))
    x = x + 20 * (np.indices((32, 32)).sum(0) % 2)[..., None].astype(np.uint8)
    error = [np.abs(corrupt(name, s, x) - np.float64(x)).mean() for s in (1, 3, 5)]
    assert error[0] < error[1] < error[2]


@pytest.mark.parametrize(
    "name, std",
    [
        ("gaussian_noise", 0.08),
        ("shot_noise", np.sqrt(0.5 / 100)),  # of a Poisson variable over its rate
    ],
)
def test_noise_has_the_standard_deviation_of_its_constant(name, std):
    x = np.full((8, 64, 64, 1), 128, np.uint8)
    error = corrupt(name, 3, x) / 255 - 128 / 255
    np.testing.assert_allclose(error.std(), std, rtol=0.02)
    np.testing.assert_allclose(error.mean(), -0.5 / 255, atol=0.002)  # cut, not rounded


def test_impulses_are_black_and_white_alike():
    x = np.full((8, 64, 64, 3), 128, np.uint8)
    noised = corrupt("impulse_noise", 5, x)
    for value in (0, 255):
        count = np.sum(noised == value)
        assert stats.binomtest(int(count), x.size, 0.035).pvalue > 1e-3
    assert set(np.unique(noised)) == {0, 128, 255}


def test_brightness_is_that_of_hsv():
    x = photographs(n=1, side=8)
    bright = corrupt("brightness", 4, x)
    for pixel, found in zip(x.reshape(-1, 3), bright.reshape(-1, 3), strict=True):
        h, s, v = colorsys.rgb_to_hsv(*pixel / 255)
        expected = np.array(colorsys.hsv_to_rgb(h, s, min(v + 0.2, 1)))
        np.testing.assert_allclose(found, 255 * expected, atol=1)
    black = np.zeros((1, 2, 2, 3), np.uint8)
    np.testing.assert_array_equal(corrupt("brightness", 4, black), 51)


def test_contrast_keeps_the_mean_of_each_channel():
    x = photographs()
    flat = corrupt("contrast", 5, x)
    np.testing.assert_allclose(flat.mean((1, 2)), x.mean((1, 2)), atol=1)
    np.testing.assert_allclose(flat.std((1, 2)), 0.15 * x.std((1, 2)), rtol=0.05)


def test_jpeg_is_what_pillow_writes():
    x = photographs()
    file = io.BytesIO()
    Image.fromarray(x[2]).save(file, "JPEG", quality=58)
    expected = np.asarray(Image.open(file))
    np.testing.assert_array_equal(corrupt("jpeg_compression", 3, x)[2], expected)


def test_a_pixel_of_a_pixelated_image_is_the_mean_of_a_block():
    x = np.zeros((1, 20, 20, 1), np.uint8)
    x[0, ::2] = 200  # 20 -> 13 rows, each 1.54 of them
    assert np.unique(corrupt("pixelate", 5, x)[0, :, 0, 0]).size > 2
    constant = np.full((1, 20, 20, 3), 77, np.uint8)
    np.testing.assert_array_equal(corrupt("pixelate", 5, constant), constant)


def test_the_keys_name_all_corruptions():
    assert keys.CORRUPTIONS == tuple(CORRUPTIONS)
    assert len(keys.CORRUPTIONS + keys.PUBLISHED_CORRUPTIONS) == 19
    with pytest.raises(ValueError, match="fog is not made here; set config.eval.shift"):
        corrupt("fog", 1, photographs())


# --- the task -----------------------------------------------------------------


def config_of(**values):
    c = small_config()
    c.eval.shift.update(num_images=50, **values)
    return c


def test_the_task_measures_each_severity(tmp_path):
    run = make_run(tmp_path, config_of(corruptions=("gaussian_noise", "contrast")))
    numbers = shift.compute(run, Progress()).numbers
    x, y = (a[:50] for a in run.splits().test)
    logits = run.logits(corrupt("contrast", 2, x))
    found = numbers["corruptions"]["contrast"]["2"]
    assert found["accuracy"] == np.mean(logits.argmax(-1) == y)
    rows = [row["5"] for row in numbers["corruptions"].values()]
    assert numbers["mean"]["5"]["ece"] == np.mean([row["ece"] for row in rows])
    over = [numbers["mean"][str(s)]["nll"] for s in range(1, 6)]
    np.testing.assert_allclose(numbers["mean"]["all"]["nll"], np.mean(over))
    (error, *_) = shift.measures(numbers)
    np.testing.assert_allclose(error.value, 1 - numbers["mean"]["all"]["accuracy"])


def test_logits_that_are_not_finite_fail_their_corruption_alone(tmp_path, monkeypatch):
    c = config_of(corruptions=("brightness", "contrast"))
    run, original = make_run(tmp_path, c), runs.Run.logits
    bad = corrupt("contrast", 5, run.splits().test.image[:50])

    def logits(self, x):
        return original(self, x) * (np.nan if np.array_equal(x, bad) else 1)

    monkeypatch.setattr(runs.Run, "logits", logits)
    results = evaluation.evaluate(run, tasks=["shift"])
    rows = results["shift"]["corruptions"]
    assert list(rows) == ["brightness", "contrast"] and "5" in rows["brightness"]
    error = "the logits of 50 of 50 examples are not finite"
    assert error in rows["contrast"]["error"]
    assert "shift: contrast" in evaluation.failures(results)
    mean = {k: v for k, v in results["shift"]["mean"].items() if k != "all"}
    assert mean == rows["brightness"]


def write_published(folder, images, labels, names=("fog",)):
    for name in names:
        np.save(folder / f"{name}.npy", images)
    np.save(folder / "labels.npy", labels)


def test_published_images_are_read_by_severity(tmp_path):
    folder = tmp_path / "CIFAR-10-C"
    folder.mkdir()
    run = make_run(tmp_path, config_of(corruptions=("fog",), folder=str(folder)))
    x, y = run.splits().test
    by_severity = [np.clip(x, s, None) for s in range(5)]
    write_published(folder, np.concatenate(by_severity), np.tile(y, 5))
    numbers = shift.compute(run, Progress()).numbers
    logits = run.logits(by_severity[3][:50])
    nll = shift.shift_metrics(logits, y[:50], 15)["nll"]
    assert numbers["corruptions"]["fog"]["4"]["nll"] == nll


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x, y: (x[:, :4], y), "expected uint8"),
        (lambda x, y: (x, (y + 1) % 10), "does not have the labels of the test set"),
    ],
)
def test_images_of_another_test_set_fail_alone(tmp_path, change, message):
    c = config_of(corruptions=("fog", "snow"), folder=str(tmp_path))
    run = make_run(tmp_path, c)
    x, y = run.splits().test
    good = np.tile(x, (5, 1, 1, 1)), np.tile(y, 5)
    write_published(tmp_path, *change(*good))
    results = evaluation.evaluate(run, tasks=["shift"])
    assert message in results["shift"]["corruptions"]["fog"]["error"]
    assert "there is no" in results["shift"]["corruptions"]["snow"]["error"]
    assert "shift: fog" in evaluation.failures(results)


def test_damaged_files_of_images_are_named(tmp_path):
    x, y = photographs(channels=3), np.arange(4)
    write_published(tmp_path, np.tile(x, (5, 1, 1, 1)), np.tile(y, 5))
    found = corruptions.published(tmp_path, "fog", x, y)
    assert len(found) == 5 and np.array_equal(found[4], x)
    (tmp_path / "snow.npy").write_bytes(b"")
    with pytest.raises(ValueError, match="snow.npy cannot be read as .npy: "):
        corruptions.published(tmp_path, "snow", x, y)
    np.save(tmp_path / "frost.npy", np.float32(1))
    with pytest.raises(ValueError, match=r"frost.npy has float32 of shape \(\), exp"):
        corruptions.published(tmp_path, "frost", x, y)


def test_own_corruptions_stand_beside_those_of_the_config(tmp_path):
    def moved(image, columns, rng):
        return np.roll(image, columns, axis=2)

    own = {
        "moved": Corruption(moved, (0, 1, 2, 3, 4)),
        "floats": Corruption(lambda image, *_: image / 2, (1, 1, 1, 1, 1)),
        "broken": Corruption(lambda image, *_: image["lens"], (1, 1, 1, 1, 1)),
    }
    c = config_of(corruptions=("contrast",), folder=str(tmp_path))
    run = make_run(tmp_path, c)
    numbers = shift.task(own).compute(run, Progress()).numbers
    assert list(numbers["corruptions"]) == ["contrast", *own]
    assert "there is no" in numbers["corruptions"]["contrast"]["error"]
    moved_rows = numbers["corruptions"]["moved"]
    assert moved_rows["1"] == numbers["clean"]
    x, y = (a[:50] for a in run.splits().test)
    nll = shift.shift_metrics(run.logits(np.roll(x, 3, axis=2)), y, 15)["nll"]
    assert moved_rows["4"]["nll"] == nll
    error = numbers["corruptions"]["floats"]["error"]
    assert error.startswith("corruption 'floats' returned float64")
    assert numbers["corruptions"]["broken"]["error"].startswith("IndexError: ")
    with pytest.raises(ValueError, match="'fog' cannot be the name"):
        shift.task({"fog": own["moved"]})


@pytest.mark.slow
def test_the_report_shows_the_corruptions(tmp_path):
    run = make_run(tmp_path, config_of(corruptions=("gaussian_noise", "pixelate")))
    results = evaluation.evaluate(run, tasks=["shift"])
    assert results["shift"]["num_images"] == 50
    picture = tmp_path / "eval" / "corruptions.png"
    before = picture.read_bytes()
    evaluation.draw(run.workdir)
    assert picture.read_bytes() == before != (tmp_path / "eval/shift.png").read_bytes()
    text = (tmp_path / "report.html").read_text()
    assert "Distribution shift" in text and "gaussian noise" in text

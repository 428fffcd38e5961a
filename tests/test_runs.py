import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
from PIL import Image

import ebmjax
from ebmjax import augment, batching, config, pictures, rundir


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    """A class-conditional JEM with an MLP, four steps old."""
    folder = str(tmp_path_factory.mktemp("run"))
    small_runs.trained(folder, num_steps=4)
    return folder


@pytest.fixture(scope="module")
def run(workdir):
    return ebmjax.load(workdir)


def test_it_answers_in_the_terms_of_its_logits(run):
    x = run.splits().test.image[:33]
    logits = run.logits(x)
    assert logits.shape == (33, 10) and isinstance(logits, np.ndarray)
    network, variables = run.model.network, run.model.variables
    direct = network.apply(*variables, augment.to_float(x))
    np.testing.assert_allclose(logits, direct, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(run.predict_proba(x), jax.nn.softmax(direct), atol=1e-5)
    log_p = jax.nn.logsumexp(direct, axis=-1)
    np.testing.assert_allclose(run.log_density(x), log_p, rtol=1e-4)
    np.testing.assert_allclose(run.energy(x), -log_p, rtol=1e-4)


def test_uint8_and_floats_are_the_same_images(run):
    x = run.splits().test.image[:5]
    floats = np.asarray(augment.to_float(x))
    np.testing.assert_allclose(run.logits(x), run.logits(floats), atol=1e-6)


def test_images_of_another_shape_are_refused(run):
    with pytest.raises(ValueError, match=r"must be \[N, 8, 8, 1\], not \[2, 8, 8, 3\]"):
        run.logits(np.zeros((2, 8, 8, 3), np.float32))


def test_other_integers_are_refused(run):
    with pytest.raises(ValueError, match="int64: pass uint8"):
        run.logits(np.zeros((1, 8, 8, 1), int))


def test_an_early_checkpoint_and_the_averaged_parameters_can_be_asked_for(workdir):
    early, late, averaged = (
        ebmjax.load(workdir, checkpoint=checkpoint, ema=ema)
        for checkpoint, ema in [(2, False), ("last", False), ("last", True)]
    )
    assert (early.step, late.step, averaged.step) == (2, 4, 4)
    x = late.splits().test.image[:8]
    assert not np.allclose(early.logits(x), late.logits(x))
    assert not np.allclose(averaged.logits(x), late.logits(x))


def test_samples_climb_the_density_and_their_own_class(run):
    key = jax.random.key(0)
    start = np.asarray(jax.random.uniform(key, (20, 8, 8, 1), minval=-1.0))
    free = run.sample(key, 20, 30, start=start)
    assert free.shape == (20, 8, 8, 1)
    assert run.log_density(free).mean() > run.log_density(start).mean()
    labels = np.arange(20) % 10
    conditional = run.sample(key, 20, 30, labels=labels, start=start)
    before, after = (
        run.logits(x)[np.arange(20), labels].mean() for x in (start, conditional)
    )
    assert after > before


def test_the_same_key_gives_the_same_samples(run):
    first, again = (run.sample(jax.random.key(3), 6, 2) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - run.sample(jax.random.key(4), 6, 2)).max() > 0.1


def test_the_buffer_lies_in_blocks_of_classes(run):
    assert run.buffer.shape == (400, 8, 8, 1) and run.num_blocks == 10
    moved = np.abs(run.buffer).reshape(400, -1).max(axis=1) > 1
    assert moved.any()  # chains leave [-1, 1], fresh ones don't


def test_map_counts_every_example_once_and_in_order(run):
    x = np.arange(37, dtype=np.float32)[:, None]

    def double(model, key, x):
        return {"twice": 2 * x, "shape": jnp.full(len(x), len(x))}

    for batch_size in (8, 37, 100):
        found = run.map(double, x, batch_size=batch_size)
        np.testing.assert_array_equal(found["twice"], 2 * x)
        assert len(found["shape"]) == 37


def test_over_batches_refuses_arrays_of_different_length():
    with pytest.raises(ValueError, match=r"equally long and not empty, not \[3, 4\]"):
        batching.over_batches(
            None, None, np.zeros((3, 1)), np.zeros((4, 1)), batch_size=2
        )


@pytest.mark.parametrize(
    "checkpoint, message",
    [(3, "no checkpoint 3, but those of steps 2, 4"), ("first", "no checkpoint 'fi")],
)
def test_a_checkpoint_that_is_not_there_is_told_with_those_that_are(
    workdir, checkpoint, message
):
    with pytest.raises(ValueError, match=message):
        ebmjax.load(workdir, checkpoint=checkpoint)


def test_a_folder_without_a_run_is_told(tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run directory: it has no con"):
        ebmjax.load(tmp_path)
    (tmp_path / rundir.CONFIG).write_text(config.to_json(config.default()))
    with pytest.raises(FileNotFoundError, match="train first"):
        ebmjax.load(tmp_path)
    (tmp_path / rundir.CONFIG).write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        ebmjax.load(tmp_path)


def test_a_grid_fills_from_the_left_and_a_png_is_that_picture(tmp_path):
    x = np.array([-1.0, 1.0, 0.0]).reshape(3, 1, 1, 1)
    picture = pictures.grid(x, columns=2)
    # Cells of 1x1 with white lines of one pixel between them.
    np.testing.assert_array_equal(
        picture[..., 0], [[0, 255, 255], [255, 255, 255], [128, 255, 255]]
    )
    pictures.save(tmp_path / "a/b.png", picture, height=9)
    with Image.open(tmp_path / "a/b.png") as image:
        assert image.size == (9, 9)
        assert image.getpixel((0, 8)) == 128

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import augment, data

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), np.uint8)


def keys(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def test_to_float_maps_the_256_values_onto_minus_one_to_one():
    x = np.asarray(augment.to_float(jnp.arange(256, dtype=jnp.uint8)))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.linspace(-1, 1, 256), atol=1e-7)


def test_to_uint8_undoes_to_float_and_clips():
    np.testing.assert_array_equal(augment.to_uint8(augment.to_float(IMAGE)), IMAGE)
    beyond = augment.to_uint8(jnp.array([-7.0, 1.01, 20.0]))
    np.testing.assert_array_equal(beyond, [0, 255, 255])


def windows(image, pad, flip):
    """All that a reflect-padded random crop, mirrored or not, may give."""
    padded = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), mode="reflect")
    height, width, _ = image.shape
    for top in range(2 * pad + 1):
        for left in range(2 * pad + 1):
            window = padded[top : top + height, left : left + width]
            yield (top, left, False), window
            if flip:
                yield (top, left, True), window[:, ::-1]


def test_crop_and_flip_gives_every_window_equally_often():
    image = IMAGE[0]
    num, pad = 9_000, 1
    crop = augment.standard(pad=pad, flip=True)
    x = np.asarray(jax.vmap(crop, (0, None))(keys(num), image))
    allowed = dict(windows(image, pad, flip=True))
    counts = [(x == window).all(axis=(1, 2, 3)).sum() for window in allowed.values()]
    assert sum(counts) == num  # each is one of the 18, which all differ
    # 500 expected of each, binomial standard deviation 21.7
    assert min(counts) > 400 and max(counts) < 600


def test_crop_without_flip_never_mirrors():
    x = np.asarray(jax.vmap(augment.standard(pad=2))(keys(6), IMAGE))
    for image, cropped in zip(IMAGE, x, strict=True):
        assert any((cropped == w).all() for _, w in windows(image, 2, flip=False))


def test_flip_alone_mirrors_left_and_right_in_half_the_cases():
    image = jnp.broadcast_to(IMAGE[:1], (1_000, *IMAGE.shape[1:]))
    x = np.asarray(jax.vmap(augment.standard(flip=True))(keys(1_000), image))
    mirrored = (x == IMAGE[0][:, ::-1]).all(axis=(1, 2, 3))
    same = (x == IMAGE[0]).all(axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    assert 430 < mirrored.sum() < 570  # 500, standard deviation 16


def test_nothing_asked_for_is_the_identity():
    image = IMAGE[0]
    assert augment.standard()(keys(1)[0], image) is image


@pytest.mark.parametrize(
    "change",
    [
        augment.standard(pad=4, flip=True),
        lambda k, x: augment.standard(noise_std=0.3)(k, augment.to_float(x)),
    ],
)
def test_an_image_does_not_depend_on_its_neighbours(change):
    whole = jax.vmap(change)(keys(6), IMAGE)
    half = jax.vmap(change)(keys(6)[4:], IMAGE[4:])
    np.testing.assert_array_equal(whole[4:], half)


def test_noise_is_normal_with_this_std_and_differs_between_images():
    x = jnp.full((200, 8, 8, 1), 0.5)
    noise = np.asarray(jax.vmap(augment.standard(noise_std=0.03))(keys(200), x)) - 0.5
    # 12,800 draws: the std of their std is 0.03 / √25,600, of their mean 0.03 / √12,800
    assert abs(noise.std() - 0.03) < 5 * 0.03 / 160
    assert abs(noise.mean()) < 5 * 0.03 / 113
    assert abs(np.corrcoef(noise.reshape(200, -1)[:2])[0, 1]) < 0.5


def test_vectors_are_standardised():
    rng = np.random.default_rng(0)
    x = rng.normal(3.0, [1.0, 20.0], (500, 2)).astype(np.float32)
    scaling = data.Scaling(x.mean(axis=0), x.std(axis=0))
    standardised = augment.to_float(x, scaling)
    np.testing.assert_allclose(standardised.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(standardised.std(axis=0), 1, rtol=1e-4)


def test_without_augmentation_for_p_x_outliers_have_none_either():
    """Or noise alone would tell them from the data."""
    x = np.full((2, 4, 4, 1), 100, np.uint8)
    part = {"image": x, "label": np.zeros(2, np.int32)}
    batch = part | {"labelled": part, "outliers": part}

    def brighter(key, x):
        return x + 1

    for plain in (False, True):
        found = augment.augment_batch(
            jax.random.key(0), None, batch, augment_fn=brighter, plain=plain
        )
        images = {name: found[name]["image"] for name in ("labelled", "outliers")}
        images["main"] = found["image"]
        added = {k: float((v - augment.to_float(x)).mean()) for k, v in images.items()}
        other = 0 if plain else 1
        assert added == pytest.approx({"labelled": 1, "outliers": other, "main": other})

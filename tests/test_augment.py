import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ebmjax import augment

IMAGE = np.random.default_rng(0).integers(0, 256, (6, 5, 7, 3), np.uint8)


def keys(num, seed=0):
    return jax.random.split(jax.random.key(seed), num)


def test_to_unit_maps_the_256_values_onto_minus_one_to_one():
    x = np.asarray(augment.to_float(jnp.arange(256, dtype=jnp.uint8)))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x, np.linspace(-1, 1, 256), atol=1e-7)


def test_to_uint8_undoes_to_unit_and_clips():
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
    x = np.asarray(
        augment.crop_and_flip(
            keys(num), jnp.broadcast_to(image, (num, *image.shape)), pad=pad, flip=True
        )
    )
    allowed = dict(windows(image, pad, flip=True))
    counts = [(x == window).all(axis=(1, 2, 3)).sum() for window in allowed.values()]
    assert sum(counts) == num  # each is one of the 18, which all differ
    # 500 expected of each, binomial standard deviation 21.7
    assert min(counts) > 400 and max(counts) < 600


def test_crop_without_flip_never_mirrors():
    x = np.asarray(augment.crop_and_flip(keys(6), IMAGE, pad=2, flip=False))
    for image, cropped in zip(IMAGE, x, strict=True):
        assert any((cropped == w).all() for _, w in windows(image, 2, flip=False))


def test_flip_alone_mirrors_left_and_right_in_half_the_cases():
    image = jnp.broadcast_to(IMAGE[:1], (1_000, *IMAGE.shape[1:]))
    x = np.asarray(augment.crop_and_flip(keys(1_000), image, pad=0, flip=True))
    mirrored = (x == IMAGE[0][:, ::-1]).all(axis=(1, 2, 3))
    same = (x == IMAGE[0]).all(axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    assert 430 < mirrored.sum() < 570  # 500, standard deviation 16


def test_nothing_asked_for_is_the_identity():
    assert augment.crop_and_flip(keys(6), IMAGE, pad=0, flip=False) is IMAGE
    assert augment.add_noise(keys(6), IMAGE, 0.0) is IMAGE


@pytest.mark.parametrize(
    "change",
    [
        lambda k, x: augment.crop_and_flip(k, x, pad=4, flip=True),
        lambda k, x: augment.add_noise(k, augment.to_float(x), 0.3),
    ],
)
def test_an_image_does_not_depend_on_its_neighbours(change):
    whole = change(keys(6), IMAGE)
    half = change(keys(6)[4:], IMAGE[4:])
    np.testing.assert_array_equal(whole[4:], half)


def test_noise_is_normal_with_this_std_and_differs_between_images():
    x = jnp.full((200, 8, 8, 1), 0.5)
    noise = np.asarray(augment.add_noise(keys(200), x, 0.03)) - 0.5
    # 12,800 draws: the std of their std is 0.03 / √25,600, of their mean 0.03 / √12,800
    assert abs(noise.std() - 0.03) < 5 * 0.03 / 160
    assert abs(noise.mean()) < 5 * 0.03 / 113
    assert abs(np.corrcoef(noise.reshape(200, -1)[:2])[0, 1]) < 0.5

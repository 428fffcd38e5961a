import io
import warnings

import numpy as np
import pytest
from PIL import Image

from ebmjax.data import images

RAMP = np.tile(np.arange(0, 256, 17, dtype=np.uint8), (4, 1))  # [4, 16]


def encoded(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def test_8_bit_images_are_decoded_as_they_are():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3), np.uint8)
    image = images.decode(encoded(Image.fromarray(rgb)))
    np.testing.assert_array_equal(image, rgb)
    grey = images.decode(encoded(Image.fromarray(RAMP)))
    np.testing.assert_array_equal(grey, RAMP[..., None])
    colour = images.decode(encoded(Image.fromarray(RAMP)), channels=3)
    np.testing.assert_array_equal(colour, np.repeat(RAMP[..., None], 3, 2))
    ones = images.decode(encoded(Image.new("1", (3, 2), 1)))
    np.testing.assert_array_equal(ones, np.full((2, 3, 1), 255))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("channels", [None, 1, 3])
def test_16_bit_grey_is_scaled(kind, channels):
    wide = Image.fromarray(np.minimum(RAMP * 257.0 + 60, 65535).astype(np.uint16))
    assert wide.mode == "I;16"
    image = images.decode(encoded(wide, kind), channels=channels)
    expected = np.repeat(RAMP[..., None], channels or 1, 2)
    np.testing.assert_array_equal(image, expected)


def test_big_endian_16_bit_tiffs_are_scaled(tmp_path):
    header = b"MM\0*" + (8).to_bytes(4, "big")
    pixels = np.array([0, 257, 257 * 255], ">u2").tobytes()
    entries = [
        (256, 3, 1, 3 << 16),  # width
        (257, 3, 1, 1 << 16),  # height
        (258, 3, 1, 16 << 16),  # bits
        (259, 3, 1, 1 << 16),  # no compression
        (262, 3, 1, 1 << 16),  # black is 0
        (273, 4, 1, 8 + 2 + 12 * 8 + 4),  # where the pixels begin
        (277, 3, 1, 1 << 16),  # samples a pixel
        (279, 4, 1, len(pixels)),
    ]
    body = len(entries).to_bytes(2, "big")
    for tag, kind, count, value in entries:
        body += tag.to_bytes(2, "big") + kind.to_bytes(2, "big")
        body += count.to_bytes(4, "big") + value.to_bytes(4, "big")
    image = images.decode(header + body + bytes(4) + pixels)
    np.testing.assert_array_equal(image.ravel(), [0, 1, 255])


@pytest.mark.parametrize(
    ("dtype", "words"), [(np.float32, "32-bit floats"), (np.int32, "32-bit integers")]
)
def test_32_bit_pixels_are_refused(dtype, words):
    image = encoded(Image.fromarray(RAMP.astype(dtype)), "TIFF")
    with pytest.raises(OSError, match=f"its pixels are {words}, whose range"):
        images.decode(image)


def test_the_exif_orientation_is_applied():
    stored = Image.fromarray(np.arange(6, dtype=np.uint8).reshape(2, 3) * 40)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    image = images.decode(encoded(stored, exif=exif))
    np.testing.assert_array_equal(image[..., 0], np.rot90(np.asarray(stored), k=-1))


def transparent(mode):
    """Red where opaque, and hidden green where transparent; half of each between."""
    rgba = np.array([[[255, 0, 0, 255], [0, 255, 0, 0], [255, 0, 0, 51]]], np.uint8)
    return Image.fromarray(rgba).convert(mode) if mode != "RGBA" else rgba


def test_transparency_is_blended_with_white():
    expected = [[[255, 0, 0], [255, 255, 255], [255, 204, 204]]]  # 255 - 51 = 204
    rgba = transparent("RGBA")
    image = encoded(Image.fromarray(rgba))
    for channels in (None, 3):
        np.testing.assert_array_equal(images.decode(image, None, channels), expected)
    np.testing.assert_array_equal(images.decode(image, None, 4), rgba)
    np.testing.assert_array_equal(images.resize(rgba[None], (1, 3), 3)[0], expected)
    la = Image.merge("LA", [Image.new("L", (2, 1), 0), Image.new("L", (2, 1), 51)])
    np.testing.assert_array_equal(images.decode(encoded(la)), np.full((1, 2, 1), 204))


def test_palettes_and_their_transparency_are_resolved():
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opaque = images.decode(encoded(image))
        np.testing.assert_array_equal(opaque, [[[255, 0, 0], [0, 0, 255]]])
        hidden = images.decode(encoded(image, transparency=bytes([255, 0])))
        np.testing.assert_array_equal(hidden, [[[255, 0, 0], [255, 255, 255]]])
        keyed = images.decode(encoded(image, "GIF", transparency=0))
        np.testing.assert_array_equal(keyed, [[[255, 255, 255], [0, 0, 255]]])


def test_cmyk_is_converted():
    cyan = Image.new("CMYK", (8, 8), (255, 0, 0, 0))
    for kind in ("JPEG", "TIFF"):
        image = images.decode(encoded(cyan, kind))
        np.testing.assert_allclose(image.mean((0, 1)), [0, 255, 255], atol=3)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no image",
        encoded(Image.fromarray(RAMP))[:50],
        encoded(Image.new("1", (14_000, 14_000))),
    ],
    ids=["empty", "text", "cut", "huge"],
)
def test_what_cannot_be_decoded_is_an_os_error(content):
    with pytest.raises(OSError, match=".+"):
        images.decode(content, (4, 4), 3)


def test_resize_crops_to_the_proportions_and_averages():
    image = np.zeros((2, 4, 8, 1), np.uint8)
    image[:, :, 2:4], image[:, :, 4:6] = 100, 200
    np.testing.assert_array_equal(images.resize(image, 4, 1), image[:, :, 2:6])
    # To one pixel, the filter is a triangle as wide as all 8 columns:
    # (0.625 * 100 + 0.875 * 100 + 0.875 * 200 + 0.625 * 200) / 4
    one = images.resize(image, 1, 3)
    assert one.shape == (2, 1, 1, 3)
    np.testing.assert_allclose(one, 112.5, atol=1)
    assert images.resize(image, (4, 8), 1) is image
    with pytest.raises(ValueError, match="channels must be 1, 3 or 4, not 2"):
        images.resize(image, 4, 2)


def test_sizes_are_integers_of_any_kind_and_positive():
    assert images.check_size(np.int64(4)) == images.check_size([4, 4]) == (4, 4)
    assert images.check_size((np.int32(2), 3)) == (2, 3)
    assert images.check_size(0) is images.check_size(None) is None
    for size in (-1, (4, 0)):
        with pytest.raises(ValueError, match="size must be positive"):
            images.check_size(size)
    for size in (4.5, "4x", (1, 2, 3)):
        with pytest.raises(ValueError, match="size must be an integer or two"):
            images.check_size(size)


def test_grey_and_colour_together_become_colour():
    grey, colour = np.full((2, 2, 1), 7, np.uint8), np.arange(12).reshape(2, 2, 3)
    for order in ([grey, colour], [colour, grey]):
        stacked = images.stack(order, 2, "the set")
        assert stacked.dtype == np.uint8
        for got, image in zip(stacked, order, strict=True):
            np.testing.assert_array_equal(got, np.broadcast_to(image, (2, 2, 3)))
    with pytest.raises(ValueError, match="the set differ in size .2x2 and 1x2.: set"):
        images.stack([grey, grey[:1]], 2, "the set")
    with pytest.raises(ValueError, match="the set holds no images"):
        images.stack([], 0, "the set")

"""Tests of decoding and resizing images."""

import io

import numpy as np
import pytest
from PIL import Image

from d4a_jax.data import DatasetError, decode


def _encode(image, file_format="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def _noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def test_png_is_read_without_loss():
    pixels = _noise(7, 9, 3)
    data = _encode(Image.fromarray(pixels))
    np.testing.assert_array_equal(decode.decode_image(data, "a.png", 3), pixels)


def test_greyscale_is_repeated_or_kept():
    pixels = _noise(7, 9)
    data = _encode(Image.fromarray(pixels))
    rgb = decode.decode_image(data, "a.png", 3)
    np.testing.assert_array_equal(rgb, np.repeat(pixels[..., None], 3, axis=2))
    grey = decode.decode_image(data, "a.png", 1)
    np.testing.assert_array_equal(grey, pixels[..., None])


def test_jpeg_is_read_as_pillow_reads_it():
    smooth = np.add.outer(np.arange(32) * 4, np.arange(32) * 3).astype(np.uint8)
    rgb = Image.fromarray(np.stack([smooth, smooth[::-1], smooth.T], axis=2))
    for image in (rgb, rgb.convert("L"), rgb.convert("CMYK")):
        data = _encode(image, "JPEG")
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(decode.decode_image(data, "a.jpg", 3), expected)


def test_transparent_images_are_laid_over_white():
    pixels = np.full((1, 3, 4), 100, np.uint8)
    pixels[0, :, 3] = (0, 255, 51)
    data = _encode(Image.fromarray(pixels))
    result = decode.decode_image(data, "a.png", 3)
    # A fifth of 100 and four fifths of 255.
    np.testing.assert_array_equal(result[0, :, 0], [255, 100, 224])
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    data = _encode(palette, transparency=0)
    result = decode.decode_image(data, "a.png", 3)
    np.testing.assert_array_equal(result, [[[255, 255, 255], [40, 50, 60]]])


def test_16_bits_are_scaled_to_8():
    pixels = np.array([[0, 257, 128 * 257, 65535, 300]], np.uint16)
    data = _encode(Image.fromarray(pixels))
    result = decode.decode_image(data, "a.png", 1)[0, :, 0]
    np.testing.assert_array_equal(result, [0, 1, 128, 255, 1])


def test_what_is_no_image_or_damaged_is_named():
    good = _encode(Image.fromarray(_noise(64, 64, 3)), "JPEG")
    with pytest.raises(DatasetError, match="notes.txt is not an image"):
        decode.decode_image(b"some text", "notes.txt", 3)
    with pytest.raises(DatasetError, match="is not an image"):
        decode.decode_image(b"", "empty.jpg", 3)
    with pytest.raises(DatasetError, match="cut.jpg is a damaged image: .*truncated"):
        decode.decode_image(good[: len(good) // 2], "cut.jpg", 3)
    png = _encode(Image.fromarray(_noise(64, 64, 3)))
    with pytest.raises(DatasetError, match="cut.png is a damaged image"):
        decode.decode_image(png[: len(png) // 2], "cut.png", 3)
    tiff = _encode(Image.fromarray(np.zeros((4, 4), np.float32)), "TIFF")
    with pytest.raises(DatasetError, match="float.tif has 32-bit pixels"):
        decode.decode_image(tiff, "float.tif", 3)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_images_of_too_many_pixels_are_refused(monkeypatch):
    data = _encode(Image.fromarray(_noise(8, 8, 3)))
    for limit in (50, 20):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(DatasetError, match="big.png has too many pixels"):
            decode.decode_image(data, "big.png", 3)


def test_a_wrong_size_is_named_with_both_sizes():
    data = _encode(Image.fromarray(_noise(7, 9, 3)))
    with pytest.raises(DatasetError, match="a.png is 7 x 9 pixels, .* is 8 x 9"):
        decode.decode_image(data, "a.png", 3, shape=(8, 9, 3))


def test_resizing_takes_the_centered_square():
    pixels = np.zeros((4, 8, 3), np.uint8)
    pixels[:, 2:6] = _noise(4, 4, 3)
    data = _encode(Image.fromarray(pixels))
    result = decode.decode_image(data, "a.png", 3, size=4)
    np.testing.assert_array_equal(result, pixels[:, 2:6])
    tall = _encode(Image.fromarray(pixels.transpose(1, 0, 2)))
    result = decode.decode_image(tall, "a.png", 3, size=4)
    np.testing.assert_array_equal(result, pixels[:, 2:6].transpose(1, 0, 2))


def test_shrinking_averages():
    # Alternate black and white columns: sampling single pixels would keep extremes.
    pixels = np.zeros((1, 64, 64, 1), np.uint8)
    pixels[:, :, ::2] = 255
    small = decode.resize_arrays(pixels, 8)
    assert small.shape == (1, 8, 8, 1)
    assert np.abs(small.astype(int) - 127).max() <= 8
    assert decode.resize_arrays(pixels, None) is pixels
    assert decode.resize_arrays(pixels, 64) is pixels


def test_resizing_is_the_same_for_arrays_and_files():
    pixels = _noise(2, 12, 10, 3)
    arrays = decode.resize_arrays(pixels, 5)
    for image, expected in zip(pixels, arrays, strict=True):
        data = _encode(Image.fromarray(image))
        result = decode.decode_image(data, "a.png", 3, size=5)
        np.testing.assert_array_equal(result, expected)

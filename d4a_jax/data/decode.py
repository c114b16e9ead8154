"""Encoded images to uint8 arrays.

Conversions: greyscale, palette and CMYK images become RGB where three channels are
wanted; transparent ones are laid over white; 16-bit greyscale is scaled to 8 bits
(divided by 257 and rounded), 16-bit color keeps its upper 8 bits, as Pillow reads it.
Of an animation the first frame is taken. An EXIF orientation is not applied, as in
tfds. OpenCV, where it is installed, decodes ordinary JPEG files to the same pixels as
Pillow in about half the time; all else is Pillow's.
"""

import functools
import importlib.util
import io
import struct

import numpy as np
from PIL import Image, UnidentifiedImageError

from d4a_jax.data.errors import DatasetError

GREY_MODES = frozenset({"1", "L", "I;16", "I;16B", "I;16L", "I;16N"})

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)
_JPEG_END = b"\xff\xd9"


@functools.cache
def decoder_name() -> str:
    """Returns the library that decodes JPEG files here: `opencv` or `pillow`."""
    return "opencv" if importlib.util.find_spec("cv2") else "pillow"


def open_image(data: bytes, what: str) -> Image.Image:
    """Reads an image's header.

    Args:
      data: the encoded image.
      what: the name of its file.

    Returns:
      The image, not yet decoded.

    Raises:
      DatasetError: the data are no image, or one of too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise DatasetError(f"{what} has too many pixels: {error}") from None
    except UnidentifiedImageError:
        raise DatasetError(f"{what} is not an image that can be read.") from None
    except _BROKEN as error:
        raise DatasetError(f"{what} is a damaged image: {error}.") from None
    limit = Image.MAX_IMAGE_PIXELS
    if limit and image.width * image.height > limit:
        raise DatasetError(
            f"{what} has too many pixels: {image.width} x {image.height} are more than "
            f"the limit of {limit} (PIL.Image.MAX_IMAGE_PIXELS)."
        )
    return image


def decode_image(
    data: bytes,
    what: str,
    channels: int,
    shape: tuple[int, int, int] | None = None,
    size: int | None = None,
) -> np.ndarray:
    """Decodes an image, and resizes it where that is asked for.

    Args:
      data: the encoded image.
      what: the name of its file.
      channels: 1 or 3.
      shape: the height and width that the image must have; None allows all.
      size: side of the square to resize to, see `resize_square`; None keeps the size.

    Returns:
      uint8 `[h, w, channels]`, values 0..255.

    Raises:
      DatasetError: the image is damaged or has another size.
    """
    image = open_image(data, what)
    if shape is not None and (image.height, image.width) != shape[:2]:
        raise DatasetError(
            f"{what} is {image.height} x {image.width} pixels, but every image of "
            f"this data set is {shape[0]} x {shape[1]}."
        )
    if channels == 3 and _is_plain_jpeg(image, data):
        image = Image.fromarray(_decode_opencv(data, what))
    else:
        image = _decode_pillow(image, what, channels)
    if size is not None:
        image = resize_square(image, size)
    return np.asarray(image).reshape(image.height, image.width, channels)


def _is_plain_jpeg(image: Image.Image, data: bytes) -> bool:
    # OpenCV fills up a truncated file silently, so that only complete ones go there.
    return (
        decoder_name() == "opencv"
        and image.format == "JPEG"
        and image.mode in ("RGB", "L")
        and data.endswith(_JPEG_END)
    )


def _decode_opencv(data: bytes, what: str) -> np.ndarray:
    import cv2

    flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if pixels is None:
        raise DatasetError(f"{what} is a damaged image: OpenCV cannot decode it.")
    return cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)


def _decode_pillow(image: Image.Image, what: str, channels: int) -> Image.Image:
    try:
        image.load()
        return _convert(image, what, "L" if channels == 1 else "RGB")
    except DatasetError:
        raise
    except _BROKEN as error:
        raise DatasetError(f"{what} is a damaged image: {error}.") from None


def _convert(image: Image.Image, what: str, mode: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        pixels = np.rint(np.asarray(image).astype(np.float64) / 257)
        image = Image.fromarray(pixels.astype(np.uint8))
    elif image.mode in ("I", "F"):
        raise DatasetError(
            f"{what} has 32-bit pixels (mode {image.mode}); 8 or 16 bits are supported."
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)


def resize_square(image: Image.Image, size: int) -> Image.Image:
    """Resizes the centered square of an image, whose side is the image's shorter one.

    Pillow's bilinear filter, which averages over all the pixels that one new pixel
    covers (antialiasing) where the image shrinks.

    Args:
      image: of mode L or RGB.
      size: side of the result.
    """
    width, height = image.size
    side = min(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    box = (left, top, left + side, top + side)
    return image.resize((size, size), Image.Resampling.BILINEAR, box=box)


def resize_arrays(images: np.ndarray, size: int | None) -> np.ndarray:
    """Applies `resize_square` to uint8 `[n, h, w, c]`, c = 1 or 3."""
    if size is None or images.shape[1:3] == (size, size):
        return images
    channels = images.shape[3]
    resized = np.empty((len(images), size, size, channels), np.uint8)
    for image, out in zip(images, resized, strict=True):
        picture = Image.fromarray(image[..., 0] if channels == 1 else image)
        out[...] = np.asarray(resize_square(picture, size)).reshape(out.shape)
    return resized

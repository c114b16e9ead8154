"""Encoded images to uint8 arrays.

Conversions: greyscale, palette and CMYK images become RGB where three channels are
wanted; transparent ones are laid over white; 16-bit greyscale is scaled to 8 bits by
the range of values that the caller gives, 16-bit color keeps its upper 8 bits, as
Pillow reads it. Of an animation the first frame is taken. The orientation that EXIF
gives is applied where the caller asks for it, as for a user's own photographs; the
published data sets are read without it, as in tfds. OpenCV, where it is installed,
decodes ordinary JPEG files to the same pixels as Pillow in about half the time; all
else is Pillow's.
"""

import functools
import importlib.util
import io
import struct

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from d4a_jax.data import pixel_range
from d4a_jax.data.errors import DatasetError
from d4a_jax.data.pixel_range import PixelRange

WHOLE_16_BITS = PixelRange(0, 65535)

GREY_MODES = frozenset({"1", "L", "I;16", "I;16B", "I;16L", "I;16N"})

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error)
_JPEG_END = b"\xff\xd9"
# A PNG file without any of these has no EXIF data, and need not be decoded to see that.
_PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"xmp")
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Of ISO media files: https://nokiatech.github.io/heif/technical.html, table of brands.
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"heim", b"heis", b"mif1"})


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
    if data[4:8] == b"ftyp" and data[8:12] in _HEIC_BRANDS and not _reads_heic():
        raise DatasetError(
            f"{what} is a HEIC image; install pillow-heif to read it, or save it as "
            "JPEG."
        )
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


@functools.cache
def _reads_heic() -> bool:
    """Teaches Pillow to read HEIC, where that is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def is_16_bit(image: Image.Image) -> bool:
    """Whether an image is greyscale of 16 bits."""
    return image.mode.startswith("I;16")


def raw_pixels(image: Image.Image, what: str) -> np.ndarray:
    """The values of an image as they are stored.

    Raises:
      DatasetError: the image is damaged.
    """
    try:
        image.load()
    except _BROKEN as error:
        raise DatasetError(f"{what} is a damaged image: {error}.") from None
    return np.asarray(image)


def orientation(image: Image.Image, data: bytes) -> int:
    """The EXIF orientation of an opened image, 1 where it needs no turn.

    A TIFF file needs none: Pillow turns it itself.

    Args:
      image: from `open_image`.
      data: its encoded form.
    """
    if image.format == "TIFF":
        return 1
    if image.format == "PNG" and not any(sign in data for sign in _PNG_EXIF):
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:
        # EXIF data are often damaged where the image is not.
        return 1
    return found if found in _TURNS else 1


def upright_sides(image: Image.Image, data: bytes) -> tuple[int, int]:
    """Height and width of an image once it is turned as EXIF says."""
    sides = (image.height, image.width)
    return sides[::-1] if orientation(image, data) >= 5 else sides


def decode_image(
    data: bytes,
    what: str,
    channels: int,
    shape: tuple[int, int, int] | None = None,
    size: int | None = None,
    values: PixelRange = WHOLE_16_BITS,
    upright: bool = False,
) -> np.ndarray:
    """Decodes an image, and resizes it where that is asked for.

    Args:
      data: the encoded image.
      what: the name of its file.
      channels: 1 or 3.
      shape: the height and width that the image must have; None allows all.
      size: side of the square to resize to, see `resize_square`; None keeps the size.
      values: the values that become 0 and 255 in a 16-bit image; (0, 1) is applied to
        any image.
      upright: whether to turn the image as EXIF says.

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
    turn = orientation(image, data) if upright else 1
    if channels == 3 and _is_plain_jpeg(image, data):
        image = Image.fromarray(_decode_opencv(data, what))
    else:
        image = _decode_pillow(image, what, channels, values)
    if turn != 1:
        image = image.transpose(_TURNS[turn])
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


def _decode_pillow(
    image: Image.Image, what: str, channels: int, values: PixelRange
) -> Image.Image:
    try:
        image.load()
        return _convert(image, what, "L" if channels == 1 else "RGB", values)
    except DatasetError:
        raise
    except _BROKEN as error:
        raise DatasetError(f"{what} is a damaged image: {error}.") from None


def _convert(image, what, mode, values) -> Image.Image:
    if is_16_bit(image) or values == (0, 1):
        image = Image.fromarray(pixel_range.scale(np.asarray(image), values))
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

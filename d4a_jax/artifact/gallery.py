"""Grids of images: one row per class, one group of columns per segment."""

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from d4a_jax.storage import fileio

_BACKGROUND = (255, 255, 255)
_INK = (40, 40, 40)
_MUTED = (120, 120, 120)
_MARGIN = 8
_GAP = 2
_SEGMENT_GAP = 8
_FONT_SIZE = 14
_LINE = 20
_LARGEST_NAME = 180
_SMALL = 32
_ENLARGED = 64


def render_gallery(
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    segments: np.ndarray | None = None,
    per_class: int = 10,
    scale: int | None = None,
    max_classes: int = 50,
) -> Image.Image:
    """Draws images as a grid, see `save_gallery`.

    Args:
      images: uint8 `[n, h, w, c]`, `c` 1 or 3.
      labels: integers `[n]`.
      class_names: a name per label.
      segments: integers `[n]`, 0-based; columns are grouped by them.
      per_class: most images of a class, shared out evenly among the segments (at
        least one each).
      scale: integer enlargement; by default small images come to about 64 pixels.
      max_classes: most rows. What is left out is said below the grid.

    Returns:
      An RGB image.

    Raises:
      ValueError: the images are not uint8 or have another number of channels.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] not in (1, 3):
        raise ValueError(
            f"A gallery needs uint8 [n, h, w, 1 or 3] images, not {images.dtype} "
            f"{list(images.shape)}."
        )
    labels = np.asarray(labels)
    segments = np.zeros_like(labels) if segments is None else np.asarray(segments)
    shown = range(min(len(class_names), max_classes))
    groups = _group_widths(labels, segments, per_class)
    scale = _default_scale(images) if scale is None else scale
    cell_h, cell_w = images.shape[1] * scale, images.shape[2] * scale

    font = ImageFont.load_default(_FONT_SIZE)
    names = [_fit(class_names[label], font) for label in shown]
    name_width = max(int(font.getlength(name)) for name in names)
    left = _column_starts(groups, _MARGIN + name_width + _MARGIN, cell_w)
    top = _MARGIN + (_LINE if len(groups) > 1 else 0)
    row_height = max(cell_h, _LINE) + _GAP
    notes = _notes(labels, class_names, groups, len(shown))

    width = max(left[-1][-1] + cell_w, _MARGIN + int(_widest(notes, font))) + _MARGIN
    height = top + row_height * len(shown) + _LINE * len(notes) + _MARGIN
    canvas = Image.new("RGB", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    _draw_headings(draw, font, left, cell_w)
    for row, label in enumerate(shown):
        y = top + row * row_height
        middle = (_MARGIN, y + cell_h / 2)
        draw.text(middle, names[row], fill=_INK, font=font, anchor="lm")
        for x, index in _members(label, labels, segments, left):
            canvas.paste(_to_image(images[index], scale), (x, y))
    for line, note in enumerate(notes):
        y = top + row_height * len(shown) + _LINE * line + 4
        draw.text((_MARGIN, y), note, fill=_MUTED, font=font)
    return canvas


def _members(label: int, labels, segments, left) -> Iterator[tuple[int, int]]:
    """Yields the column start and the index of each image in the row of a class."""
    for segment, columns in enumerate(left):
        indices = np.flatnonzero((labels == label) & (segments == segment))
        yield from zip(columns, indices, strict=False)


def save_gallery(
    path: fileio.PathLike,
    images: np.ndarray,
    labels: np.ndarray,
    class_names: Sequence[str],
    segments: np.ndarray | None = None,
    per_class: int = 10,
    scale: int | None = None,
    max_classes: int = 50,
) -> None:
    """Writes a grid of images as PNG: a row per class, a column group per segment.

    Args:
      path: file to write.
      images: uint8 `[n, h, w, c]`, `c` 1 or 3.
      labels: integers `[n]`.
      class_names: a name per label.
      segments: integers `[n]`, 0-based, or None.
      per_class: most images of a class.
      scale: integer enlargement; chosen by the size of the images if None.
      max_classes: most rows.

    Raises:
      ValueError: the images are not uint8 or have another number of channels.
    """
    picture = render_gallery(
        images, labels, class_names, segments, per_class, scale, max_classes
    )
    fileio.write_bytes_atomic(path, encode_png(np.asarray(picture)))


def encode_png(image: np.ndarray) -> bytes:
    """Returns a uint8 `[h, w, c]` image, `c` 1 or 3, as the content of a PNG file.

    Raises:
      ValueError: the image has another number of channels.
    """
    if image.shape[-1] not in (1, 3):
        raise ValueError(f"PNG files hold 1 or 3 channels, not {image.shape[-1]}.")
    content = io.BytesIO()
    _to_image(image).save(content, "PNG")
    return content.getvalue()


def _group_widths(labels, segments, per_class: int) -> list[int]:
    """Returns how many columns each segment gets."""
    count = int(segments.max()) + 1 if len(segments) else 1
    share = [per_class // count + (k < per_class % count) for k in range(count)]
    widths = []
    for segment in range(count):
        of_class = np.bincount(labels[segments == segment], minlength=1)
        widths.append(max(1, min(share[segment], int(of_class.max()))))
    return widths


def _default_scale(images: np.ndarray) -> int:
    side = max(images.shape[1:3])
    return max(1, round(_ENLARGED / side)) if side <= _SMALL else 1


def _column_starts(groups: Sequence[int], x: int, cell: int) -> list[list[int]]:
    starts = []
    for width in groups:
        starts.append([x + column * (cell + _GAP) for column in range(width)])
        x = starts[-1][-1] + cell + _SEGMENT_GAP
    return starts


def _fit(name: str, font) -> str:
    if font.getlength(name) <= _LARGEST_NAME:
        return name
    while name and font.getlength(name + "...") > _LARGEST_NAME:
        name = name[:-1]
    return name + "..."


def _notes(labels, class_names, groups, rows: int) -> list[str]:
    notes = []
    if rows < len(class_names):
        notes.append(f"The first {rows} of {len(class_names)} classes.")
    most = int(np.bincount(labels, minlength=1).max())
    if sum(groups) < most:
        notes.append(f"{sum(groups)} of up to {most} images per class.")
    return notes


def _widest(lines: Sequence[str], font) -> float:
    return max((font.getlength(line) for line in lines), default=0)


def _draw_headings(draw, font, left, cell: int) -> None:
    if len(left) < 2:
        return
    for segment, columns in enumerate(left, start=1):
        room = columns[-1] + cell - columns[0] + _GAP
        for heading in (f"segment {segment}", f"S{segment}"):
            if font.getlength(heading) <= room:
                break
        draw.text((columns[0], _MARGIN - 2), heading, fill=_MUTED, font=font)


def _to_image(image: np.ndarray, scale: int = 1) -> Image.Image:
    picture = Image.fromarray(image[:, :, 0] if image.shape[-1] == 1 else image)
    size = (picture.width * scale, picture.height * scale)
    return picture.resize(size, Image.Resampling.NEAREST)

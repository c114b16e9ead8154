"""The images of a distilled set, class by class and segment by segment, for a page."""

import base64
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from d4a_jax.analysis.forgetting import FilterMasks
from d4a_jax.artifact import DistilledDataset
from d4a_jax.artifact.gallery import encode_png
from d4a_jax.data import Dataset

# Larger images are shrunk, and fewer classes shown where the page would grow too large.
_LARGEST_SIDE = 96
_MOST_BYTES = 12_000_000
_BASE64 = 4 / 3


class Strip(NamedTuple):
    """Images of one kind side by side.

    Attributes:
      kind: "stored", "formed" or "real".
      sources: data URIs of PNG files.
      total: how many there are, of which these are shown.
    """

    kind: str
    sources: list[str]
    total: int


class Group(NamedTuple):
    """One segment of one class.

    Attributes:
      label: class.
      segment: number from 0.
      strips: its images, and the real ones that it was matched against.
    """

    label: int
    segment: int
    strips: list[Strip]


def shown_classes(
    distilled: DistilledDataset, per_group: int, most_classes: int
) -> list[int]:
    """Which classes fit on a page: all of them, or some spread evenly.

    Args:
      distilled: the set.
      per_group: most images of a kind in a group.
      most_classes: upper bound.
    """
    side = [min(length, _LARGEST_SIDE) for length in distilled.images.shape[1:3]]
    kinds = 3 if distilled.factor > 1 else 2
    count = per_group * kinds * distilled.num_segments
    size = count * np.prod(side) * distilled.images.shape[3] * _BASE64
    fitting = max(1, int(_MOST_BYTES / size))
    shown = min(distilled.num_classes, most_classes, fitting)
    return sorted({int(c) for c in np.linspace(0, distilled.num_classes - 1, shown)})


def groups(
    distilled: DistilledDataset,
    classes: Sequence[int],
    per_group: int = 10,
    dataset: Dataset | None = None,
    masks: FilterMasks | None = None,
    seed: int = 0,
) -> Iterator[Group]:
    """The images to show, ordered by class and segment.

    Args:
      distilled: the set.
      classes: which classes.
      per_group: most images of a kind in a group.
      dataset: what it was distilled from; without it no real images are shown.
      masks: what the filter kept; without them a segment was matched to all images.
      seed: of the draw of real images.
    """
    for label in classes:
        for segment in range(distilled.num_segments):
            chosen = (distilled.labels == label) & (distilled.segments == segment)
            stored = distilled.images[chosen]
            strips = [_strip("stored", stored, per_group)]
            if distilled.factor > 1 and len(stored):
                strips.append(_formed(distilled, stored, per_group))
            if dataset is not None:
                strips.append(_real(dataset, masks, label, segment, per_group, seed))
            yield Group(label, segment, strips)


def data_uri(content: bytes) -> str:
    """A PNG file as the address of an image within the page."""
    return "data:image/png;base64," + base64.b64encode(content).decode()


def _strip(kind, images, per_group, total=None):
    shown = [data_uri(encode_png(_shrink(image))) for image in images[:per_group]]
    return Strip(kind, shown, len(images) if total is None else total)


def _formed(distilled, stored, per_group):
    """All parts of the first stored images."""
    # Imported here: JAX is not needed for anything else on the page.
    from d4a_jax.formation import form

    tiles = distilled.factor**2
    first = stored[: -(-per_group // tiles)].astype(np.float32) / 255
    formed = np.asarray(form(first, distilled.factor))
    by_image = formed.reshape(tiles, len(first), *formed.shape[1:]).swapaxes(0, 1)
    pixels = np.rint(255 * by_image.reshape(formed.shape)).astype(np.uint8)
    return _strip("formed", pixels, per_group, len(stored) * tiles)


def _real(dataset, masks, label, segment, per_group, seed):
    """A random draw of the real images that the segment was matched against."""
    pool = np.asarray(dataset.train_labels) == label
    if masks is not None and segment:
        pool = pool & masks.kept[segment - 1]
    rows = np.flatnonzero(pool)
    drawn = np.random.default_rng([seed, label, segment]).permutation(rows)
    images = np.asarray(dataset.train_images[np.sort(drawn[:per_group])])
    return _strip("real", images, per_group, len(rows))


def _shrink(image):
    height, width, channels = image.shape
    if max(height, width) <= _LARGEST_SIDE:
        return image
    scale = _LARGEST_SIDE / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = Image.fromarray(image[:, :, 0] if channels == 1 else image)
    small = np.asarray(picture.resize(size, Image.Resampling.LANCZOS))
    return small.reshape(*small.shape[:2], channels)

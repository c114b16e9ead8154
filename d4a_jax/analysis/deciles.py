"""Accuracy by difficulty (D4A, Figure 1): easy and hard images apart.

The real images are ordered by how hard they are for networks trained on real data and
cut into equal segments, easy to hard. Networks trained on distilled sets are then
tested on each segment. Pure functions of arrays.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from d4a_jax.artifact import DistilledDataset
from d4a_jax.data import Dataset


class Spread(NamedTuple):
    """Mean and sample standard deviation over networks; the latter 0 for one of them."""

    mean: np.ndarray
    std: np.ndarray


class Saturation(NamedTuple):
    """How the accuracy on hard images grows with the number of images per class.

    Slopes of least-squares lines; None with fewer than two different numbers.

    Attributes:
      per_image: gain in accuracy for one more image per class.
      per_doubling: gain for twice as many images per class.
    """

    per_image: float | None
    per_doubling: float | None


def spread_over_networks(values: np.ndarray) -> Spread:
    """Mean and standard deviation along the first axis, which counts networks."""
    values = np.asarray(values, np.float64)
    mean = values.mean(0)
    std = values.std(0, ddof=1) if len(values) > 1 else np.zeros_like(mean)
    return Spread(mean, std)


def segments_by_difficulty(
    difficulty: np.ndarray,
    labels: np.ndarray | None = None,
    bins: int = 10,
    per_class: bool = False,
) -> np.ndarray:
    """Cuts images into equal segments, easy to hard.

    Args:
      difficulty: `[n]`, larger is harder; infinity is allowed. Equal values are
        ordered by a fixed shuffle, not by their place in the data set.
      labels: `[n]`, needed with `per_class`.
      bins: number of segments.
      per_class: cut every class on its own, so that all classes are equally frequent
        in every segment.

    Returns:
      int32 `[n]` in `[0, bins)`, 0 the easiest segment. Sizes differ by at most one
      (within a class with `per_class`).

    Raises:
      ValueError: a difficulty is NaN, or there are fewer images than segments.
    """
    difficulty = np.asarray(difficulty, np.float64)
    if np.isnan(difficulty).any():
        raise ValueError(
            f"difficulty is NaN for {int(np.isnan(difficulty).sum())} of "
            f"{len(difficulty)} images; every image needs a number."
        )
    if per_class and labels is None:
        raise ValueError("labels is None, but cutting per class needs them.")
    groups = np.asarray(labels) if per_class else np.zeros(len(difficulty), int)
    segments = np.empty(len(difficulty), np.int32)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        if not 1 <= bins <= len(members):
            raise ValueError(
                f"bins is {bins}, but there are {len(members)} images to cut; it must "
                f"be from 1 to {len(members)}."
            )
        tie_break = np.random.default_rng(0).permutation(len(members))
        order = members[np.lexsort((tie_break, difficulty[members]))]
        segments[order] = np.arange(len(members)) * bins // len(members)
    return segments


def accuracy_by_segment(correct: np.ndarray, segments: np.ndarray, bins: int) -> Spread:
    """Accuracy of each segment.

    Args:
      correct: bool `[E, n]`, whether network e classifies image i correctly.
      segments: int `[n]` in `[0, bins)`.
      bins: number of segments.

    Returns:
      Arrays `[bins]` in [0, 1]; NaN for a segment without images.
    """
    counts = np.bincount(segments, minlength=bins)
    hits = [np.bincount(segments, weights=row, minlength=bins) for row in correct]
    with np.errstate(invalid="ignore"):
        return spread_over_networks(np.stack(hits) / counts)


def coverage(correct: np.ndarray) -> float:
    """Share of the images that any of the networks classifies correctly.

    It grows with the number of networks, so compare equal numbers only.

    Args:
      correct: bool `[E, n]`.
    """
    return float(np.asarray(correct).any(0).mean())


def hard_accuracy(by_segment: Sequence[float], hardest: int = 3) -> float:
    """Mean accuracy of the `hardest` last segments."""
    return float(np.mean(np.asarray(by_segment)[-hardest:]))


def saturation(
    images_per_class: Sequence[int], accuracy: Sequence[float]
) -> Saturation:
    """Slope of (hard images') accuracy against the number of images per class.

    Close to zero: more synthetic images do not teach the hard images any better.

    Args:
      images_per_class: `[m]`.
      accuracy: `[m]`, in any unit; the slopes have the same.
    """
    images = np.asarray(images_per_class, np.float64)
    if len(np.unique(images)) < 2:
        return Saturation(None, None)
    slope = lambda x: float(np.polyfit(x, np.asarray(accuracy, np.float64), 1)[0])
    return Saturation(slope(images), slope(np.log2(images)))


def random_real(
    dataset: Dataset,
    images_per_class: int | Sequence[int],
    factor: int = 1,
    seed: int = 0,
) -> DistilledDataset:
    """Random real images in the storage of a distilled set: the baseline of all.

    Args:
      dataset: the real data.
      images_per_class: stored images per class; several numbers make as many
        segments, whose prefixes are nested random sets.
      factor: with 1 plain images; else mosaics of `factor ** 2` shrunk images each, as
        IDC stores them (Kim et al. 2022).
      seed: of the draw.

    Returns:
      A set like a distilled one, drawn without replacement within each class where
      the class has enough images.

    Raises:
      ValueError: a number is below 1.
    """
    sizes = (
        [int(images_per_class)]
        if np.ndim(images_per_class) == 0
        else [int(size) for size in images_per_class]
    )
    if not sizes or min(sizes) < 1 or factor < 1:
        raise ValueError(
            f"images_per_class is {images_per_class} and factor is {factor}; both must "
            "be at least 1."
        )
    tiles, generator = factor**2, np.random.default_rng(seed)
    drawn = []
    for label in range(dataset.num_classes):
        members = np.flatnonzero(np.asarray(dataset.train_labels) == label)
        order = generator.permutation(members)
        drawn.append(np.resize(order, sum(sizes) * tiles).reshape(-1, tiles))
    images, labels, segments = [], [], []
    for segment, size in enumerate(sizes):
        first = sum(sizes[:segment])
        rows = np.concatenate([part[first : first + size] for part in drawn])
        images.append(_mosaics(np.asarray(dataset.train_images[rows.ravel()]), factor))
        labels.append(np.repeat(np.arange(dataset.num_classes, dtype=np.int32), size))
        segments.append(np.full(len(rows), segment, np.int32))
    parts = (np.concatenate(part) for part in (images, labels, segments))
    return DistilledDataset(*parts, _metadata(dataset, sizes, factor, seed))


def _mosaics(images: np.ndarray, factor: int) -> np.ndarray:
    """uint8 `[n factor^2, ...]`, a stored image's parts together, to `[n, ...]`."""
    if factor == 1:
        return images
    # Imported here so that the arithmetic needs no accelerator library.
    from d4a_jax.formation import compose

    tiles = factor**2
    by_tile = images.reshape(-1, tiles, *images.shape[1:]).swapaxes(0, 1)
    mosaics = compose(by_tile.reshape(images.shape).astype(np.float32), factor)
    return np.rint(np.asarray(mosaics)).astype(np.uint8)


def _metadata(dataset, sizes, factor, seed):
    return {
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "class_names": list(dataset.class_names),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "flip": dataset.flip,
        "factor": factor,
        "images_per_class": sum(sizes),
        "segment_sizes": list(sizes),
        "seed": seed,
    }

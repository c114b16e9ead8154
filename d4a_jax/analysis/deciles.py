"""Accuracy by difficulty (D4A, Figure 1): easy and hard images apart.

The real images are ordered by how hard they are for networks trained on real data and
cut into equal segments, easy to hard. Networks trained on distilled sets are then
tested on each segment. Pure functions of arrays.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Spread(NamedTuple):
    """Mean and sample standard deviation; the latter is 0 for a single value."""

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


def spread_over_networks(
    values: np.ndarray, distillations: np.ndarray | None = None
) -> Spread:
    """Mean and standard deviation along the first axis, which counts networks.

    Args:
      values: `[E, ...]`.
      distillations: int `[E]`, the distilled set that each network was trained on.
        Where there are several, the deviation is that of their means, which is what
        another distillation would differ by.
    """
    values = np.asarray(values, np.float64)
    if distillations is not None and len(np.unique(distillations)) > 1:
        values = np.stack(
            [values[distillations == d].mean(0) for d in np.unique(distillations)]
        )
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


def accuracy_by_segment(
    correct: np.ndarray,
    segments: np.ndarray,
    bins: int,
    distillations: np.ndarray | None = None,
) -> Spread:
    """Accuracy of each segment.

    Args:
      correct: bool `[E, n]`, whether network e classifies image i correctly.
      segments: int `[n]` in `[0, bins)`.
      bins: number of segments.
      distillations: see `spread_over_networks`.

    Returns:
      Arrays `[bins]` in [0, 1]; NaN for a segment without images.
    """
    counts = np.bincount(segments, minlength=bins)
    hits = [np.bincount(segments, weights=row, minlength=bins) for row in correct]
    with np.errstate(invalid="ignore"):
        return spread_over_networks(np.stack(hits) / counts, distillations)


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

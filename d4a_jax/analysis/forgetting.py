"""Forgetting between segments, in the terms of continual learning.

Segment t + 1 is not matched to the images that the filter discarded after segment t:
are they still right once networks also train on the later segments? Pure functions of
arrays. Stages are counted from 1: stage s is the prefix S_1 ... S_s.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from d4a_jax.analysis.deciles import spread_over_networks
from d4a_jax.storage.fileio import load_sealed_array


class FilterMasks(NamedTuple):
    """What the filter decided after stages 1 ... K - 1, bool `[K - 1, n]` each.

    Attributes:
      kept: matched by the next segment.
      easy: classified correctly by the filter's networks.
    """

    kept: np.ndarray
    easy: np.ndarray


class Forgetting(NamedTuple):
    """Accuracy on the groups of discarded images, stage by stage.

    Row s - 1 belongs to networks trained on S_1 ... S_s, column t - 1 to the images
    first discarded after segment t. NaN before a group's discarding (s < t) and for
    empty groups.

    Attributes:
      accuracy: `[K, K - 1]`, mean over networks.
      std: `[K, K - 1]`, over networks.
      sizes: int `[K - 1]`, images in each group.
      forgetting: `[K - 1]`, best accuracy before the last stage minus the final one
        (Chaudhry et al. 2018); negative where the last stage is the best.
      backward_transfer: mean over groups of the final accuracy minus that at the
        discarding (Lopez-Paz & Ranzato 2017); negative where images are forgotten. NaN
        without a group.
    """

    accuracy: np.ndarray
    std: np.ndarray
    sizes: np.ndarray
    forgetting: np.ndarray
    backward_transfer: float


class Flips(NamedTuple):
    """Images whose majority vote changes from one stage to the next.

    Shares of a class's images, `[K - 1, C]`; row s - 1 is the step from stage s to
    s + 1.

    Attributes:
      forgotten: right, then wrong.
      learned: wrong, then right.
    """

    forgotten: np.ndarray
    learned: np.ndarray


def load_masks(directory: str | Path, stages: int, count: int) -> FilterMasks | None:
    """Reads what a run's filter decided.

    Args:
      directory: the run's `filter` directory.
      stages: number K of segments.
      count: number n of training images.

    Returns:
      The masks, None where the run left none (one segment, or no filter).

    Raises:
      ValueError: a file is damaged or of another data set.
    """
    directory = Path(directory)
    parts = []
    for name in ("kept", "easy"):
        files = [directory / f"{name}-after-{k}.npy" for k in range(1, stages)]
        if not files or not all(file.exists() for file in files):
            return None
        masks = [load_sealed_array(file) for file in files]
        wrong = [f for f, mask in zip(files, masks) if mask.shape != (count,)]
        if wrong:
            raise ValueError(
                f"{wrong[0]} does not belong to this data set: it is not of "
                f"{count} images."
            )
        parts.append(np.stack(masks).astype(bool))
    return FilterMasks(*parts)


def first_discarded(masks: FilterMasks) -> np.ndarray:
    """The stage after which each image was first discarded because it was right.

    What the noise guard alone removed (wrong, and not kept) is no member of any group.

    Args:
      masks: `[K - 1, n]` each.

    Returns:
      int `[n]` in `[1, K - 1]`, 0 for images that never were.
    """
    return first_stage(masks.easy & ~masks.kept)


def first_stage(happened: np.ndarray) -> np.ndarray:
    """The first True stage, from 1, of a bool `[K - 1, n]` history; 0 for none."""
    happened = np.asarray(happened, bool)
    return np.where(happened.any(0), happened.argmax(0) + 1, 0)


def majority(correct: np.ndarray) -> np.ndarray:
    """bool `[n]`: more than half of the networks of bool `[E, n]` are right."""
    return np.asarray(correct).mean(0) > 0.5


def measure_forgetting(correct: Sequence[np.ndarray], groups: np.ndarray) -> Forgetting:
    """The matrix of accuracies and what follows from it.

    Args:
      correct: for each stage s = 1 ... K bool `[E, n]`, the answers of networks
        trained on S_1 ... S_s.
      groups: int `[n]` from `first_discarded`.
    """
    stages = len(correct)
    shape = (stages, max(stages - 1, 0))
    accuracy, std = np.full(shape, np.nan), np.full(shape, np.nan)
    sizes = np.bincount(groups, minlength=stages)[1:stages]
    for t in range(1, stages):
        if not sizes[t - 1]:
            continue
        for s in range(t, stages + 1):
            rights = np.asarray(correct[s - 1])[:, groups == t].mean(1)
            mean, deviation = spread_over_networks(rights)
            accuracy[s - 1, t - 1], std[s - 1, t - 1] = mean, deviation
    present = np.flatnonzero(sizes)
    lost = np.full(shape[1], np.nan)
    if len(present):
        lost[present] = np.nanmax(accuracy[:-1, present], 0) - accuracy[-1, present]
    transfer = accuracy[-1, present] - accuracy[present, present]
    mean_transfer = float(transfer.mean()) if len(present) else float("nan")
    return Forgetting(accuracy, std, sizes, lost, mean_transfer)


def count_flips(
    correct: Sequence[np.ndarray], labels: np.ndarray, num_classes: int
) -> Flips:
    """Right -> wrong and wrong -> right, by majority vote, per stage and class.

    Args:
      correct: for each stage bool `[E, n]`.
      labels: int `[n]`.
      num_classes: C; every class has an image.
    """
    votes = [majority(answers) for answers in correct]
    counts = np.bincount(labels, minlength=num_classes)
    share = lambda flips: np.bincount(labels, flips, num_classes) / counts
    pairs = list(zip(votes[:-1], votes[1:]))
    forgotten = [share(before & ~after) for before, after in pairs]
    learned = [share(~before & after) for before, after in pairs]
    empty = np.zeros((0, num_classes))
    return Flips(np.array(forgotten or empty), np.array(learned or empty))

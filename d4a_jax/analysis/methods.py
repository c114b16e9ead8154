"""The sets that a study compares: distilled ones, random images, all real images."""

import dataclasses
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np

from d4a_jax.analysis import deciles, forgetting
from d4a_jax.analysis.answers import TrainingSet, prefixes, whole_data
from d4a_jax.artifact import DistilledDataset, load_distilled
from d4a_jax.data import Dataset
from d4a_jax.difficulty import Difficulty

# Measures of which a small value means hard.
_SMALL_IS_HARD = ("margin", "accuracy", "aum")


@dataclasses.dataclass(frozen=True, eq=False)
class Method:
    """A distilled set under the name that tables give it.

    Attributes:
      label: the name.
      distilled: the set.
      masks: what the filter of its run decided, where that is known.
    """

    label: str
    distilled: DistilledDataset
    masks: forgetting.FilterMasks | None = None

    @cached_property
    def digest(self) -> str:
        """The digest of all its training sets."""
        return next(prefixes("", "", self.distilled)).digest


def load_method(label: str, path: str | Path, dataset: Dataset) -> Method:
    """Reads a distilled set, with the decisions of its run's filter where it has them.

    Args:
      label: name in tables.
      path: the directory of the set, or of the run that made it.
      dataset: what it was distilled from.

    Raises:
      ValueError: it was distilled from other data, or has soft labels.
    """
    path = Path(path)
    path = path / "distilled" if (path / "distilled").is_dir() else path
    distilled = load_distilled(path)
    made_from = distilled.metadata.get("dataset_fingerprint")
    if made_from not in (None, dataset.fingerprint):
        raise ValueError(
            f"{path} was distilled from other data than this {dataset.name}: the "
            "fingerprints differ."
        )
    if distilled.soft_logits is not None:
        raise ValueError(
            f"{path} has soft labels; a study compares sets with hard labels only."
        )
    count = len(dataset.train_labels)
    masks = forgetting.load_masks(
        path.parent / "filter", distilled.num_segments, count
    )
    return Method(label, distilled, masks)


def hardness(difficulty: Difficulty, measure: str) -> np.ndarray:
    """A measure, turned so that larger is harder.

    Raises:
      ValueError: the measure is unknown.
    """
    if measure not in Difficulty._fields:
        raise ValueError(
            f"measure is {measure!r}; it must be one of "
            f"{', '.join(Difficulty._fields)}."
        )
    values = np.asarray(getattr(difficulty, measure), np.float64)
    return -values if measure in _SMALL_IS_HARD else values


def training_sets(
    dataset: Dataset,
    methods: Iterable[Method],
    random: bool = False,
    full: bool = False,
    not_augmented: bool = False,
    seed: int = 0,
) -> list[TrainingSet]:
    """Every set that a study trains on.

    Args:
      dataset: the real data.
      methods: whose prefixes are taken.
      random: add random real images in the same storage, for every prefix: plain ones
        and, for a factor above 1, mosaics.
      full: add all real images.
      not_augmented: train on every whole set and its random counterpart a second time
        without augmentation and CutMix.
      seed: of the random draw.
    """
    methods = list(methods)
    found = []
    for method in methods:
        found += prefixes(method.label, "artifact", method.distilled)
    for sizes, factor in _storages(methods) if random else ():
        label = "Random images" if factor == 1 else f"Random {factor}×{factor} mosaics"
        drawn = deciles.random_real(dataset, sizes, factor, seed)
        found += prefixes(label, "random", drawn)
    if not_augmented:
        found += [dataclasses.replace(x, augmented=False) for x in _whole(found)]
    return found + ([whole_data(dataset)] if full else [])


def _whole(items):
    """The whole distilled sets, and as many plain random images."""
    whole = [x for x in items if x.kind == "artifact" and x.stage == x.stages]
    sizes = {x.images_per_class for x in whole}
    plain = [x for x in items if x.kind == "random" and x.factor == 1]
    return whole + [x for x in plain if x.images_per_class in sizes]


def _storages(methods):
    """(segment sizes, factor) of the random sets: all prefixes' sizes, nested."""
    totals, factors = set(), {1}
    for method in methods:
        distilled = method.distilled
        factors.add(distilled.factor)
        for stage in range(1, distilled.num_segments + 1):
            count = int((distilled.segments < stage).sum())
            totals.add(max(1, round(count / distilled.num_classes)))
    ends = [0, *sorted(totals)]
    sizes = [last - first for first, last in zip(ends, ends[1:])]
    return [(sizes, factor) for factor in sorted(factors)]

"""The sets that a study compares: distilled ones, random images, all real images."""

import dataclasses
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

from d4a_jax.analysis import forgetting
from d4a_jax.analysis.answers import TrainingSet, prefixes, whole_data
from d4a_jax.artifact import DistilledDataset, load_distilled
from d4a_jax.artifact.provenance import with_class_order
from d4a_jax.data import Dataset
from d4a_jax.selection.baselines import random_images


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

    @property
    def regularizer(self) -> str | None:
        """Name and weight of the regularizer it was made with, where that is known."""
        section = self.distilled.metadata.get("config", {}).get("regularizer")
        if section is None:
            return None
        name, weight = section["name"], section["weight"]
        return name if name == "none" else f"{name}, λ {weight:g}"

    @property
    def filter(self) -> str | None:
        """What its filter kept, in a word or two, where that is known."""
        section = self.distilled.metadata.get("config", {}).get("filter")
        if section is None:
            return None
        if not section["enabled"]:
            return "everything"
        return "misclassified, learnable" if section["guard"] else "misclassified"


def distilled_directory(path: str | Path) -> Path:
    """The directory of a distilled set, given it or that of the run that made it."""
    path = Path(path)
    return path / "distilled" if (path / "distilled").is_dir() else path


def load_method(label: str, path: str | Path, dataset: Dataset) -> Method:
    """Reads a distilled set, with the decisions of its run's filter where it has them.

    Args:
      label: name in tables.
      path: the directory of the set, or of the run that made it.
      dataset: what it was distilled from.

    Raises:
      ArtifactError: its classes have other names than those of the data.
      ValueError: it was distilled from other data, or has a teacher's soft labels.
    """
    path = distilled_directory(path)
    distilled = with_class_order(load_distilled(path), dataset)
    made_from = distilled.metadata.get("dataset_fingerprint")
    if made_from not in (None, dataset.fingerprint):
        raise ValueError(
            f"{path} was distilled from other data than this {dataset.name}: the "
            "fingerprints differ."
        )
    if distilled.soft_logits is not None:
        raise ValueError(
            f"{path} has soft labels of a teacher, which a study cannot train on; it "
            "compares sets with hard or learned labels."
        )
    count = len(dataset.train_labels)
    masks = forgetting.load_masks(path.parent / "filter", distilled.num_segments, count)
    return Method(label, distilled, masks)


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
        drawn = random_images(dataset, sizes, factor, seed)
        found += prefixes(label, "random", drawn)
    if not_augmented:
        found += [dataclasses.replace(x, augmented=False) for x in whole(found)]
    return found + ([whole_data(dataset)] if full else [])


def whole(items: Iterable[TrainingSet]) -> list[TrainingSet]:
    """The whole distilled sets, and as many plain random images."""
    complete = [x for x in items if x.kind == "artifact" and x.stage == x.stages]
    sizes = {x.images_per_class for x in complete}
    plain = [x for x in items if x.kind == "random" and x.factor == 1]
    return complete + [x for x in plain if x.images_per_class in sizes]


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

"""A study: networks trained on a list of sets, and every figure about them.

Training is done by `answers`, set by set; `Study.summary` is arithmetic on what is
finished, so it can be written after every set. Sets of one label and size count as
several distillations by one method.
"""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from d4a_jax.analysis import deciles, forgetting, judging
from d4a_jax.analysis.answers import Answers, Examiner, TrainingSet
from d4a_jax.analysis.document import make_document
from d4a_jax.analysis.methods import Method
from d4a_jax.data import Dataset
from d4a_jax.difficulty import RealDifficulty


@dataclasses.dataclass(frozen=True)
class Settings:
    """How a study looks at its answers.

    Attributes:
      bins: difficulty segments.
      measure: which measure of `Difficulty` orders the images.
      per_class: whether every class is cut into segments on its own.
      hardest: how many of the last segments count as hard.
    """

    bins: int = 10
    measure: str = "loss"
    per_class: bool = False
    hardest: int = 3

    def __post_init__(self):
        if not 1 <= self.hardest <= self.bins:
            raise ValueError(
                f"hardest is {self.hardest}; it must be from 1 to the {self.bins} "
                "segments."
            )


@dataclasses.dataclass(eq=False)
class Study:
    """Answers that are finished, and what they mean.

    Attributes:
      dataset: the real data.
      methods: the distilled sets.
      train_segments: int `[n]`, the difficulty segment of every training image.
      test_segments: int `[m]`, of every test image, by the same networks.
      settings: how it is looked at.
      facts: what is written beside the figures, such as the protocol.
      finished: sets with their answers, in the order of the study.
      transfers: (network, set, answers) of other architectures.
    """

    dataset: Dataset
    methods: list[Method]
    train_segments: np.ndarray
    test_segments: np.ndarray
    settings: Settings
    facts: dict[str, Any]
    finished: list[tuple[TrainingSet, Answers]] = dataclasses.field(
        default_factory=list
    )
    transfers: list[tuple[str, TrainingSet, Answers]] = dataclasses.field(
        default_factory=list
    )

    def summary(self) -> dict[str, Any]:
        """Every figure, as plain values; None where a figure does not exist."""
        rows = [self._row(group) for group in _grouped(self.finished)]
        everything = [answers for *_, answers in (*self.finished, *self.transfers)]
        storages = {m.digest: judging.storage(m.distilled) for m in self.methods}
        summary = {
            "dataset": self.dataset.name,
            "dataset_fingerprint": self.dataset.fingerprint,
            "class_names": list(self.dataset.class_names),
            "train_images": len(self.dataset.train_labels),
            "test_images": len(self.dataset.test_labels),
            "settings": dataclasses.asdict(self.settings),
            "rows": rows,
            "saturation": self._saturation(rows),
            "forgetting": self._forgetting(),
            "judging": judging.judge(rows, storages),
            "architectures": self._architectures(),
            "seconds": sum(answers.seconds for answers in everything),
        }
        return make_document(summary | self.facts)

    def _row(self, group):
        item, distillations = group[0][0], _distillations(group)
        train, test = (
            np.concatenate([getattr(answers, split) for _, answers in group])
            for split in ("train", "test")
        )
        spread = lambda values: deciles.spread_over_networks(values, distillations)
        bins = self.settings.bins
        by_segment = {
            "train_by_segment": (train, self.train_segments),
            "test_by_segment": (test, self.test_segments),
        }
        best = [answers.best for _, answers in group]
        covered = np.mean([answers.train.any(0) for _, answers in group], axis=0)
        return {
            "name": item.name,
            "label": item.label,
            "kind": item.kind,
            "sets": [other.digest for other, _ in group],
            "stage": item.stage,
            "stages": item.stages,
            "images_per_class": item.images_per_class,
            "factor": item.factor,
            "augmented": item.augmented,
            "distillations": len(group),
            "networks": len(test),
            "steps": group[0][1].steps,
            "test": {**spread(test.mean(1))._asdict(), "each": test.mean(1)},
            "test_best": None
            if any(values is None for values in best)
            else spread(np.concatenate(best))._asdict(),
            "train": spread(train.mean(1))._asdict(),
            "coverage": covered.mean(),
            "coverage_by_segment": [
                covered[self.train_segments == segment].mean()
                for segment in range(bins)
            ],
            **{
                name: deciles.accuracy_by_segment(
                    correct, segments, bins, distillations
                )._asdict()
                for name, (correct, segments) in by_segment.items()
            },
            "seconds": sum(answers.seconds for _, answers in group),
        }

    def _saturation(self, rows):
        """Per method: hard images' accuracy against images per class."""
        out = []
        for label in dict.fromkeys(row["label"] for row in rows):
            own = [r for r in rows if r["label"] == label and r["augmented"]]
            own.sort(key=lambda row: row["images_per_class"])
            images = [row["images_per_class"] for row in own]
            entry = {"label": label, "kind": own[0]["kind"], "images_per_class": images}
            for split in ("train", "test"):
                hard = [
                    deciles.hard_accuracy(
                        row[f"{split}_by_segment"]["mean"], self.settings.hardest
                    )
                    for row in own
                ]
                slopes = deciles.saturation(images, hard)._asdict()
                entry[split] = {"hard_accuracy": hard, **slopes}
            out.append(entry)
        return out

    def _forgetting(self):
        """One entry for every distilled set of several segments."""
        out = []
        for method in self.methods:
            stages = self._stages(method)
            if stages is None:
                continue
            masks, labels = method.masks, np.asarray(self.dataset.train_labels)
            if masks is not None:
                groups, source = forgetting.first_discarded(masks), "filter"
            else:
                votes = np.stack([forgetting.majority(c) for c in stages[:-1]])
                groups, source = forgetting.first_stage(votes), "answers"
            matrix = forgetting.measure_forgetting(stages, groups)
            flips = forgetting.count_flips(stages, labels, self.dataset.num_classes)
            whole = forgetting.count_flips(stages, np.zeros_like(labels), 1)
            out.append(
                {"label": method.label, "set": method.digest, "groups": source}
                | {"regularizer": method.regularizer, "filter": method.filter}
                | matrix._asdict()
                | {"flips": flips._asdict()}
                | {
                    f"{name}_share": share[:, 0]
                    for name, share in whole._asdict().items()
                }
            )
        return out

    def _stages(self, method):
        """Answers on the training images of all K stages; None while one is missing."""
        own = {
            item.stage: answers.train
            for item, answers in self.finished
            if (item.kind, item.digest) == ("artifact", method.digest)
            and item.augmented
        }
        count = method.distilled.num_segments
        if count < 2 or set(own) != set(range(1, count + 1)):
            return None
        return [own[stage] for stage in range(1, count + 1)]

    def _architectures(self):
        """Test accuracy of every set on every other architecture."""
        groups = {}
        for network, item, answers in self.transfers:
            key = (network, item.label, item.images_per_class)
            groups.setdefault(key, []).append((item, answers))
        out = []
        for (network, label, images), group in groups.items():
            each = np.concatenate([answers.test.mean(1) for _, answers in group])
            test = deciles.spread_over_networks(each, _distillations(group))
            out.append(
                {"network": network, "label": label, "images_per_class": images}
                | {"name": group[0][0].name, "kind": group[0][0].kind}
                | {"steps": group[0][1].steps, "networks": len(each)}
                | {"test": {**test._asdict(), "each": each}}
            )
        return out


def _grouped(finished):
    """Lists of (set, answers): the distillations of one method, size and recipe."""
    groups = {}
    for item, answers in finished:
        size = (item.stage, item.stages, item.images_per_class, item.factor)
        key = (item.label, item.kind, *size, item.augmented)
        groups.setdefault(key, []).append((item, answers))
    return list(groups.values())


def _distillations(group):
    """int `[E]`: the set that each network of a group was trained on."""
    return np.repeat(np.arange(len(group)), [len(answers.test) for _, answers in group])


def run(
    examiner: Examiner,
    sets: Iterable[TrainingSet],
    report: Callable[[TrainingSet, Answers, bool], None],
    progress: Callable[[TrainingSet], Any],
) -> None:
    """Trains on every set that has no answers yet.

    Args:
      examiner: trains and asks.
      sets: what to train on.
      report: called with (set, answers, whether they were found) after every set.
      progress: of a set: a context manager that gives `Ensemble.fit`'s hook.
    """
    for item in sets:
        known = examiner.find(item)
        if known is None:
            with progress(item) as hook:
                answers = examiner.ask(item, hook)
        else:
            answers = known
        report(item, answers, known is not None)


def order_by_difficulty(
    dataset: Dataset, difficulty: RealDifficulty, settings: Settings
) -> tuple[np.ndarray, np.ndarray]:
    """The difficulty segments of the training and of the test images, easy to hard.

    Args:
      dataset: the data.
      difficulty: of both splits.
      settings: number of segments, measure, and whether classes are cut separately.
    """
    train, test = (
        deciles.segments_by_difficulty(
            values.hardness(settings.measure), labels, settings.bins, settings.per_class
        )
        for values, labels in zip(
            difficulty, (dataset.train_labels, dataset.test_labels)
        )
    )
    return train, test

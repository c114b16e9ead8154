"""A study: networks trained on a list of sets, and every figure about them.

Training is done by `answers`, set by set; `Study.summary` is arithmetic on what is
finished, so it can be written after every set.
"""

import dataclasses
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from d4a_jax.analysis import deciles, forgetting, judging
from d4a_jax.analysis.answers import Answers, Examiner, TrainingSet
from d4a_jax.analysis.methods import Method
from d4a_jax.data import Dataset

SCHEMA_VERSION = 1

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
    """

    dataset: Dataset
    methods: list[Method]
    train_segments: np.ndarray
    test_segments: np.ndarray
    settings: Settings
    facts: dict[str, Any]
    finished: list[tuple[TrainingSet, Answers]] = dataclasses.field(default_factory=list)

    def summary(self) -> dict[str, Any]:
        """Every figure, as plain values; None where a figure does not exist."""
        rows = [self._row(*item) for item in self.finished]
        summary = {
            "format": "d4a_jax.analysis",
            "schema_version": SCHEMA_VERSION,
            "dataset": self.dataset.name,
            "dataset_fingerprint": self.dataset.fingerprint,
            "class_names": list(self.dataset.class_names),
            "train_images": len(self.dataset.train_labels),
            "test_images": len(self.dataset.test_labels),
            "settings": dataclasses.asdict(self.settings),
            "rows": rows,
            "saturation": self._saturation(rows),
            "forgetting": self._forgetting(),
            "judging": self._judging(rows),
            "seconds": sum(answers.seconds for _, answers in self.finished),
        }
        return _plain(summary | self.facts)

    def _row(self, item, answers):
        train, test = (
            deciles.spread_over_networks(correct.mean(1))
            for correct in (answers.train, answers.test)
        )
        bins = self.settings.bins
        by_segment = {
            "train_by_segment": (answers.train, self.train_segments),
            "test_by_segment": (answers.test, self.test_segments),
        }
        return {
            "name": item.name,
            "label": item.label,
            "kind": item.kind,
            "set": item.digest,
            "stage": item.stage,
            "stages": item.stages,
            "images_per_class": item.images_per_class,
            "factor": item.factor,
            "augmented": item.augmented,
            "networks": len(answers.test),
            "steps": answers.steps,
            "test": {**test._asdict(), "each": answers.test.mean(1)},
            "train": train._asdict(),
            "coverage": deciles.coverage(answers.train),
            "coverage_by_segment": [
                deciles.coverage(answers.train[:, self.train_segments == segment])
                for segment in range(bins)
            ],
            **{
                name: deciles.accuracy_by_segment(correct, segments, bins)._asdict()
                for name, (correct, segments) in by_segment.items()
            },
            "seconds": answers.seconds,
        }

    def _saturation(self, rows):
        """Per method: hard images' accuracy against images per class."""
        out = []
        for label in _labels(rows):
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
            out.append(
                {"label": method.label, "set": method.digest, "groups": source}
                | matrix._asdict()
                | {"flips": flips._asdict()}
            )
        return out

    def _stages(self, method):
        """Answers on the training images of all K stages; None while one is missing."""
        own = {
            item.stage: answers.train
            for item, answers in self.finished
            if item.digest == method.digest and item.augmented
        }
        count = method.distilled.num_segments
        if count < 2 or set(own) != set(range(1, count + 1)):
            return None
        return [own[stage] for stage in range(1, count + 1)]

    def _judging(self, rows):
        full = [row["test"]["mean"] for row in rows if row["kind"] == "full"]
        out = []
        for method in self.methods:
            own = [r for r in rows if r["set"] == method.digest]
            whole = {r["augmented"]: r for r in own if r["stage"] == r["stages"]}
            if True not in whole:
                continue
            random = _random_counterpart(rows, whole[True])
            storage = judging.storage(method.distilled)
            entry = {
                "label": method.label,
                "images_per_class": whole[True]["images_per_class"],
                "test": whole[True]["test"]["mean"],
                "pixel_bytes": storage.pixels,
                "label_bytes": storage.labels,
            }
            accuracies = {mode: row["test"]["mean"] for mode, row in whole.items()}
            out.append(entry | _scores(accuracies, random, full[0] if full else None))
        return out


def _random_counterpart(rows, row):
    """Accuracy of as many plain random images, by whether the recipe augments."""
    return {
        r["augmented"]: r["test"]["mean"]
        for r in rows
        if r["kind"] == "random"
        and r["factor"] == 1
        and r["images_per_class"] == row["images_per_class"]
    }


def _scores(own, random, full):
    """Judging figures of one set; None where an accuracy that they need is missing."""
    hlr = None if full is None else judging.hard_label_recovery(full, own[True])
    ior = lrs = ars = None
    if True in random:
        ior = judging.improvement_over_random(own[True], random[True])
    if hlr is not None and ior is not None:
        lrs = judging.label_robust_score(hlr, ior)
    if {True, False} <= own.keys() & random.keys():
        ars = judging.augmentation_robust_score(
            own[True], random[True], own[False], random[False]
        )
    return {"full": full, "random": random.get(True)} | {
        "hlr": hlr,
        "ior": ior,
        "lrs": lrs,
        "ars": ars,
    }


def run(
    study: Study,
    examiner: Examiner,
    sets: Iterable[TrainingSet],
    report: Callable[[TrainingSet, Answers, bool], None],
    progress: Callable[[TrainingSet], Any],
) -> None:
    """Trains on every set that has no answers yet.

    Args:
      study: gets the answers, set by set.
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
        study.finished.append((item, answers))
        report(item, answers, known is not None)


def load_analysis(directory: str | Path) -> dict[str, Any]:
    """Reads `analysis.json`.

    Args:
      directory: where it lies, or the file itself.

    Raises:
      ValueError: there is none, or it is something else.
    """
    path = Path(directory)
    path = path / "analysis.json" if path.is_dir() else path
    try:
        document = json.loads(path.read_bytes())
        known = document["format"] == "d4a_jax.analysis"
        known = known and document["schema_version"] == SCHEMA_VERSION
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no analysis that can be read: {error}.") from error
    if not known:
        raise ValueError(f"{path} is no analysis of schema version {SCHEMA_VERSION}.")
    return document


def _labels(rows):
    return list(dict.fromkeys(row["label"] for row in rows))


def _plain(value):
    """JSON's types; NaN becomes None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value

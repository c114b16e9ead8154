"""Networks trained from scratch on a set, and which real images they get right.

The answers of every trained group of networks are kept as packed bits on the disk, so
that a study which stops continues with the next set, and every figure can be computed
again without training.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax.artifact import DistilledDataset
from d4a_jax.config import EvaluationConfig, RuntimeConfig
from d4a_jax.data import Dataset
from d4a_jax.devices.parallel import Layout, make_layout, spread
from d4a_jax.ensemble import (
    Ensemble,
    ProgressHook,
    TrainingImages,
    checkpoints,
    everything,
)
from d4a_jax.evaluation import hits
from d4a_jax.networks import create_network
from d4a_jax.options import all_but
from d4a_jax.storage.entries import data_identity, name_of_entry
from d4a_jax.storage.fileio import save_array_atomic, write_json_atomic
from d4a_jax.training import Normalization

# Of a set's answers: the record and the packed bits.
_KINDS = ("json", "npy")


@dataclasses.dataclass(frozen=True, eq=False)
class TrainingSet:
    """A set that networks are trained on.

    Attributes:
      label: name of the method in tables.
      kind: "artifact", "random" or "full".
      stage: how many segments of it, k of S_1 ... S_k.
      stages: how many segments the whole set has.
      images_per_class: stored images per class of the prefix, on average.
      factor: multi-formation factor.
      images: uint8 `[capacity, h, w, c]` of the whole set, the prefix first.
      labels: int32 `[capacity]`.
      count: how many of them are the prefix.
      augmented: whether the recipe augments and mixes images.
      digest: identifies images and labels.
      label_logits: float16 `[capacity * factor ** 2, classes]`, logits of labels that
        were learned, in the order of formed images; None where labels are hard.
    """

    label: str
    kind: str
    stage: int
    stages: int
    images_per_class: float
    factor: int
    images: np.ndarray
    labels: np.ndarray
    count: int
    augmented: bool
    digest: str
    label_logits: np.ndarray | None = None

    @property
    def name(self) -> str:
        """What distinguishes it from the other sets of a study, for people."""
        if self.kind == "full":
            text = self.label
        else:
            text = f"{self.label}, {self.images_per_class:g} per class"
        return text if self.augmented else f"{text}, not augmented"


class Answers(NamedTuple):
    """Which images each of E networks classifies correctly, bool `[E, n]`.

    Attributes:
      train: on the real training images.
      test: on the real test images.
      steps: SGD steps that each network was trained for.
      seconds: what training and classifying took, with compilation.
      best: test accuracy `[E]` of each network's best checkpoint, chosen on the test
        images, where that was asked for.
    """

    train: np.ndarray
    test: np.ndarray
    steps: int
    seconds: float
    best: np.ndarray | None = None


def prefixes(
    label: str, kind: str, distilled: DistilledDataset
) -> Iterator[TrainingSet]:
    """The sets S_1, S_1 u S_2, ... of a distilled set, smallest first."""
    # A stable order, so that every prefix is the beginning of the arrays.
    order = np.argsort(distilled.segments, kind="stable")
    images, labels = distilled.images[order], distilled.labels[order]
    content, logits = images.tobytes() + labels.tobytes(), distilled.label_logits
    if logits is not None:
        by_tile = logits.reshape(-1, len(order), distilled.num_classes)
        logits = by_tile[:, order].reshape(logits.shape)
        content += logits.tobytes()
    digest = hashlib.sha256(content).hexdigest()
    stages = distilled.num_segments
    for stage in range(1, stages + 1):
        count = int((distilled.segments < stage).sum())
        yield TrainingSet(
            label,
            kind,
            stage,
            stages,
            count / distilled.num_classes,
            distilled.factor,
            images,
            labels,
            count,
            augmented=True,
            digest=digest,
            label_logits=logits,
        )


def whole_data(dataset: Dataset) -> TrainingSet:
    """All real training images, the reference that recovery is measured against."""
    count = len(dataset.train_labels)
    return TrainingSet(
        label="All real images",
        kind="full",
        stage=1,
        stages=1,
        images_per_class=count / dataset.num_classes,
        factor=1,
        images=np.asarray(dataset.train_images),
        labels=np.asarray(dataset.train_labels),
        count=count,
        augmented=True,
        digest=dataset.fingerprint,
    )


class Examiner:
    """Trains networks by one recipe and asks them about all real images.

    Args:
      dataset: the real data, kept on the devices.
      network: specification.
      recipe: the evaluation recipe of every set; its `network` is not used.
      full_recipe: the same for a set of kind "full", whose epochs are longer.
      runtime: layout on the hardware.
      seed: of initializations, batches and augmentation.
      directory: where answers are kept.
      best_of: how many test accuracies in the course of training to take for
        `Answers.best`; zero for none.
    """

    def __init__(
        self,
        dataset: Dataset,
        network: str,
        recipe: EvaluationConfig,
        full_recipe: EvaluationConfig,
        runtime: RuntimeConfig,
        seed: int,
        directory: Path,
        best_of: int = 0,
    ):
        dtype = jnp.dtype(runtime.compute_dtype)
        self.network = create_network(
            network, dataset.num_classes, dataset.image_shape, dtype
        )
        self.dataset = dataset
        self.recipe = recipe
        self.full_recipe = full_recipe
        self.runtime = runtime
        self.seed = seed
        self.directory = directory
        self.best_of = best_of
        self.layout: Layout = make_layout(runtime.devices, runtime.class_chunk)
        self._ensembles: dict[tuple, Ensemble] = {}

    def find(self, training_set: TrainingSet) -> Answers | None:
        """The answers of an earlier study by the same recipe, None without them."""
        record, bits = self._files(training_set)
        if not (record.exists() and bits.exists()):
            return None
        facts = json.loads(record.read_bytes())
        curve = facts.get("test_curve", [])
        if self.best_of and facts.get("best_of") != self.best_of:
            return None
        train = len(self.dataset.train_labels)
        count = train + len(self.dataset.test_labels)
        correct = np.unpackbits(np.load(bits, allow_pickle=False), axis=1, count=count)
        correct = correct.astype(bool)
        return Answers(
            correct[:, :train],
            correct[:, train:],
            facts["steps"],
            facts["seconds"],
            np.max(curve, 0) if self.best_of else None,
        )

    def ask(
        self, training_set: TrainingSet, progress: ProgressHook | None = None
    ) -> Answers:
        """Trains and asks networks, and keeps their answers."""
        start = time.monotonic()
        ensemble = self._ensemble(training_set)
        steps = self._steps(training_set)
        capacity, count = len(training_set.labels), training_set.count
        curve = []
        variables = ensemble.fit(
            jax.random.key(self.seed),
            TrainingImages(
                training_set.images,
                training_set.labels,
                label_logits=training_set.label_logits,
            ),
            everything(count, capacity, self.recipe.repeats),
            steps,
            progress,
            observe=lambda _, networks: curve.append(
                self._correct(ensemble, networks, "test").mean(1)
            ),
            observe_at=checkpoints(steps, self.best_of) if self.best_of else (),
        )
        train, test = (self._correct(ensemble, variables, s) for s in ("train", "test"))
        seconds = time.monotonic() - start
        record, bits = self._files(training_set)
        self.directory.mkdir(parents=True, exist_ok=True)
        save_array_atomic(bits, np.packbits(np.hstack([train, test]), axis=1))
        facts = {"steps": steps, "seconds": seconds}
        if self.best_of:
            facts |= {"best_of": self.best_of, "test_curve": curve}
        # Last: answers count as finished where their record exists.
        write_json_atomic(record, self._identity(training_set) | facts)
        best = np.max(curve, 0) if self.best_of else None
        return Answers(train, test, steps, seconds, best)

    def _correct(self, ensemble, variables, split):
        """bool `[E, n]`: which real images of a split the networks get right."""
        arrays, count = self._real[split]
        return np.asarray(ensemble.predict(variables, *arrays, hits)[0])[:count].T

    @cached_property
    def _real(self):
        """For each split: its arrays on the devices, and how many images it has."""
        data = self.dataset
        parts = {
            "train": (data.train_images, data.train_labels),
            "test": (data.test_images, data.test_labels),
        }
        return {
            split: (spread(self.layout, tuple(map(np.asarray, part))), len(part[1]))
            for split, part in parts.items()
        }

    def _recipe(self, training_set):
        recipe = self.full_recipe if training_set.kind == "full" else self.recipe
        if training_set.augmented:
            return recipe
        return dataclasses.replace(recipe, augmentation="none", cutmix_probability=0.0)

    def _ensemble(self, training_set):
        key = (training_set.factor, training_set.augmented)
        if key not in self._ensembles:
            self._ensembles[key] = Ensemble(
                self.network,
                self._recipe(training_set),
                Normalization(self.dataset.mean, self.dataset.std),
                training_set.factor,
                self.layout,
                self.runtime.predict_batch,
            )
        return self._ensembles[key]

    def _steps(self, training_set):
        recipe = self._recipe(training_set)
        return self._ensemble(training_set).total_steps(
            training_set.count, recipe.epochs, recipe.max_steps
        )

    def _identity(self, training_set):
        data = data_identity(self.dataset)
        # `network` and `steps` stand for what is left out of the recipe.
        names = ("enabled", "network", "prefix_repeats", "epochs", "max_steps")
        return {
            "dataset_fingerprint": data.pop("fingerprint"),
            **data,
            "set": training_set.digest,
            "count": training_set.count,
            "factor": training_set.factor,
            "network": self.network.spec,
            **self.runtime.identity(),
            "recipe": all_but(self._recipe(training_set), names),
            "steps": self._steps(training_set),
            "seed": self.seed,
        }

    def _files(self, training_set):
        files = lambda name: [self.directory / f"{name}.{kind}" for kind in _KINDS]
        identity = self._identity(training_set)
        # Older versions took this for a part of the recipe.
        repeats = {"prefix_repeats": self._recipe(training_set).prefix_repeats}
        name = name_of_entry(
            identity,
            self.dataset,
            lambda name: files(name)[0].exists(),
            older=identity | {"recipe": identity["recipe"] | repeats},
        )
        return files(name)

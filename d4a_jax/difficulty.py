"""How hard each real image is, measured by networks trained on real data.

The networks are cross-fitted: the training set is cut into folds, and an image is
judged only by networks that were not trained on its fold, so memorized images do not
look easy. Test images are judged by all of them. Measures are averaged over networks
of several seeds and over late checkpoints of their training. Computed once per data set
and setting, and kept beside the cached data.
"""

import io
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.config import Config
from d4a_jax.data import Dataset, data_directory
from d4a_jax.devices.parallel import Layout, make_layout, spread, to_host
from d4a_jax.devices.processes import any_of
from d4a_jax.devices.streaming import place, place_everywhere
from d4a_jax.ensemble import (
    Ensemble,
    ProgressHook,
    Subsets,
    TrainingImages,
    checkpoints,
)
from d4a_jax.log import logger
from d4a_jax.flips import default_config, refuse_flips
from d4a_jax.networks import create_network
from d4a_jax.options import all_but
from d4a_jax.storage.entries import data_identity, name_of_entry
from d4a_jax.storage.fileio import dump_json, write_bytes_atomic
from d4a_jax.training import Normalization

# What the section `evaluation` says of other networks than those of difficulty.
_OTHER = ("enabled", "network", "repeats", "prefix_repeats", "epochs", "max_steps")


class Difficulty(NamedTuple):
    """Measures of every image of a split, `[n]` in the order of the data set.

    Each is a mean over networks that were not trained on the image; the first four
    are means over their late checkpoints too.

    Attributes:
      loss: cross-entropy (D4A, Figure 1).
      el2n: Euclidean distance of softmax and one-hot label (Paul et al. 2021).
      margin: logit of the label minus the largest other one; small is hard.
      accuracy: share of networks and checkpoints that classify the image correctly.
      aum: margin averaged over the whole training (Pleiss et al. 2020); small is hard.
      forgetting: how often the image went from right to wrong between successive
        checkpoints (Toneva et al. 2019); where a network never gets it right, the
        number of checkpoints.
    """

    loss: np.ndarray
    el2n: np.ndarray
    margin: np.ndarray
    accuracy: np.ndarray
    aum: np.ndarray
    forgetting: np.ndarray

    @property
    def learnable(self) -> np.ndarray:
        """bool `[n]`: networks trained on other real images mostly get it right."""
        return self.accuracy > 0.5

    def hardness(self, measure: str) -> np.ndarray:
        """A measure, float64 `[n]`, turned so that larger is harder.

        Raises:
          ValueError: the measure is unknown.
        """
        if measure not in self._fields:
            raise ValueError(
                f"measure is {measure!r}; it must be one of {', '.join(self._fields)}."
            )
        values = np.asarray(getattr(self, measure), np.float64)
        return -values if measure in ("margin", "accuracy", "aum") else values


class RealDifficulty(NamedTuple):
    """The difficulty of all real images, judged by the same networks."""

    train: Difficulty
    test: Difficulty


class Observation(NamedTuple):
    """What networks say of a batch at one checkpoint, `[b, E]` each.

    Attributes:
      loss: cross-entropy.
      el2n: distance of softmax and one-hot label, in [0, sqrt(2)].
      margin: logit of the label minus the largest other one.
      correct: float 0 or 1.
    """

    loss: jax.Array
    el2n: jax.Array
    margin: jax.Array
    correct: jax.Array


def measures(logits: jax.Array, labels: jax.Array) -> Observation:
    """Observes a batch: logits `[E, b, classes]` and labels `[b]`; see `Ensemble`."""
    log_softmax = jax.nn.log_softmax(logits)
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    loss = -jnp.sum(log_softmax * one_hot, axis=-1)
    el2n = jnp.linalg.norm(jnp.exp(log_softmax) - one_hot, axis=-1)
    own = jnp.sum(logits * one_hot, axis=-1)
    others = jnp.max(jnp.where(one_hot > 0, -jnp.inf, logits), axis=-1)
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return Observation(loss.T, el2n.T, (own - others).T, correct.T)


class Trajectory:
    """Gathers observations of the same images and networks, checkpoint by checkpoint.

    Args:
      late: from which checkpoint on, counted from 0, the first four measures are
        averaged.
    """

    def __init__(self, late: int):
        self._late = late
        self._count = 0
        self._sums = self._margins = self._forgotten = self._before = self._ever = 0

    def add(self, seen: Observation) -> None:
        """Takes the next checkpoint's observation, `[n, E]` each."""
        correct = np.asarray(seen.correct) > 0
        self._margins = self._margins + np.asarray(seen.margin, np.float64)
        if self._count:
            self._forgotten = self._forgotten + (self._before & ~correct)
        self._ever = self._ever | correct
        self._before = correct
        if self._count >= self._late:
            self._sums = self._sums + np.stack(seen).astype(np.float64)
        self._count += 1

    def difficulty(self, judges: np.ndarray) -> Difficulty:
        """The measures, over the networks that are True in bool `[n, E]`."""
        late = self._sums / (self._count - self._late)
        events = np.where(self._ever, self._forgotten, self._count)
        values = (*late, self._margins / self._count, events)
        means = (np.average(value, axis=1, weights=judges) for value in values)
        return Difficulty(*(mean.astype(np.float32) for mean in means))


def cross_fit(
    key: jax.Array,
    dataset: Dataset,
    config: Config,
    layout: Layout,
    progress: ProgressHook | None = None,
) -> RealDifficulty:
    """Trains networks on parts of the real set and judges each image by the others.

    Args:
      key: typed key.
      dataset: the data.
      config: network, recipe (`evaluation`) and `difficulty` (see `DifficultyConfig`).
      layout: the devices.
      progress: see `Ensemble.fit`.
    """
    refuse_flips(
        dataset, "evaluation.augmentation", config.evaluation.augmentation
    )
    settings = config.difficulty
    fold = _folds(rng.stream(key, "folds"), dataset.train_labels, settings.folds)
    subsets = _leave_one_out(fold, settings.folds, settings.networks)
    ensemble = _ensemble(dataset, config, layout)
    images, labels = dataset.train_images, dataset.train_labels
    budget_gb = config.runtime.image_memory_gb
    steps = ensemble.total_steps(
        int(subsets.counts.min()), settings.epochs, settings.max_steps
    )
    stops = checkpoints(steps, settings.checkpoints)
    late = max(0, len(stops) - settings.late_checkpoints)
    trajectories = [Trajectory(late), Trajectory(late)]
    splits = list(_splits(dataset, layout, budget_gb))

    def observe(_, variables):
        for trajectory, (count, arrays) in zip(trajectories, splits):
            seen = to_host(ensemble.predict(variables, *arrays, measures))
            trajectory.add(Observation(*(x[:count] for x in seen)))

    ensemble.fit(
        rng.stream(key, "networks"),
        TrainingImages(place_everywhere(images, layout, budget_gb), labels),
        subsets,
        steps,
        progress,
        observe=observe,
        observe_at=stops,
    )
    network_fold = np.repeat(np.arange(settings.folds), settings.networks)
    held_out = fold[:, None] == network_fold
    everyone = np.ones((len(dataset.test_labels), len(network_fold)), bool)
    judges = (held_out, everyone)
    return RealDifficulty(*(t.difficulty(j) for t, j in zip(trajectories, judges)))


def measure_difficulty(
    dataset: Dataset,
    config: Config | None = None,
    data_dir: str | Path | None = None,
    progress: ProgressHook | None = None,
) -> RealDifficulty:
    """The difficulty of all real images, from the cache where it was measured before.

    Args:
      dataset: the data.
      config: see `cross_fit`; by default `default_config` of the data.
      data_dir: where data are kept, see `load_dataset`; difficulty goes to its
        `difficulty` folder.
      progress: see `Ensemble.fit`.
    """
    config = config or default_config(dataset)
    layout = make_layout(config.runtime.devices, config.runtime.class_chunk)
    directory = data_directory(data_dir and str(data_dir)) / "difficulty"
    return load_or_cross_fit(dataset, config, layout, directory, progress)


def load_or_cross_fit(
    dataset: Dataset,
    config: Config,
    layout: Layout,
    cache_dir: str | Path,
    progress: ProgressHook | None = None,
) -> RealDifficulty:
    """`cross_fit`, kept in `cache_dir` and reused for the same data and settings.

    Beside the arrays (`.npz`) lies a `.json` that says what they are of.
    """
    identity = _identity(dataset, config)
    path_of = lambda name: Path(cache_dir) / f"difficulty-{name}.npz"
    path = path_of(
        name_of_entry(identity, dataset, lambda name: path_of(name).exists())
    )
    kept = _load(path)
    # One process without the file makes it necessary to measure in all of them.
    if not any_of(kept is None)[0]:
        return kept
    start = time.monotonic()
    found = cross_fit(jax.random.key(0), dataset, config, layout, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = {"dataset": dataset.name, "seconds": time.monotonic() - start}
    write_bytes_atomic(path.with_suffix(".json"), dump_json(identity | facts))
    content = io.BytesIO()
    np.savez(content, **dict(_named(found)))
    write_bytes_atomic(path, content.getvalue())
    return found


def _identity(dataset, config):
    """What the measures depend on; nothing else, so that they serve every command."""
    return {
        **data_identity(dataset),
        "network": config.network,
        "recipe": all_but(config.evaluation, _OTHER),
        "difficulty": all_but(config.difficulty, ()),
        **config.runtime.identity(),
    }


def _named(found: RealDifficulty) -> Iterator[tuple[str, np.ndarray]]:
    for split, values in found._asdict().items():
        for measure, array in values._asdict().items():
            yield f"{split}_{measure}", array


def _load(path):
    """What a file holds; None where there is none or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            return RealDifficulty(*(_split(stored, s) for s in RealDifficulty._fields))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        logger.warning("%s is damaged (%s); it is computed again.", path, error)
        return None


def _split(stored, split):
    return Difficulty(*(stored[f"{split}_{name}"] for name in Difficulty._fields))


def _ensemble(dataset, config, layout):
    dtype = jnp.dtype(config.runtime.compute_dtype)
    network = create_network(
        config.network, dataset.num_classes, dataset.image_shape, dtype
    )
    return Ensemble(
        network,
        config.evaluation,
        Normalization(dataset.mean, dataset.std),
        1,
        layout,
        config.runtime.predict_batch,
    )


def _splits(dataset, layout, budget_gb):
    """For each split: number of images, and images and labels spread over devices."""
    for split in ("train", "test"):
        images = getattr(dataset, f"{split}_images")
        labels = getattr(dataset, f"{split}_labels")
        count = len(labels)
        placed = place(images, np.arange(count), layout, budget_gb)
        yield count, (placed, spread(layout, labels))


def _folds(key, labels, folds):
    """Fold of each image, balanced within every class."""
    priority = np.asarray(jax.random.uniform(key, (len(labels),)))
    order = np.lexsort((priority, labels))
    rank = np.empty(len(labels), int)
    rank[order] = np.arange(len(labels))
    return rank % folds


def _leave_one_out(fold, folds, networks):
    """The training rows of every network: all folds but its own."""
    members = [np.flatnonzero(fold != f) for f in range(folds) for _ in range(networks)]
    counts = np.array([len(rows) for rows in members], np.int32)
    rows = [np.resize(rows, counts.max()) for rows in members]
    return Subsets(np.stack(rows).astype(np.int32), counts)

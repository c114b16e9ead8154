"""How hard each real image is, measured by networks trained on real data.

The networks are cross-fitted: the set is cut into folds, and an image is judged only
by networks that were not trained on its fold, so memorized images do not look easy.
Computed once per data set and setting and kept beside the cached data.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.config import Config
from d4a_jax.data import Dataset
from d4a_jax.ensemble import Ensemble, ProgressHook, Subsets, TrainingImages
from d4a_jax.fileio import save_array_atomic
from d4a_jax.networks import create_network
from d4a_jax.parallel import Layout, spread, to_host
from d4a_jax.processes import any_of
from d4a_jax.streaming import place, place_everywhere
from d4a_jax.training import Normalization


class Difficulty(NamedTuple):
    """Measures of every training image, `[n]` in the order of the data set.

    Each is a mean over the networks that were not trained on the image.

    Attributes:
      loss: cross-entropy (D4A, Figure 1).
      el2n: Euclidean distance of softmax and one-hot label (Paul et al. 2021).
      margin: logit of the label minus the largest other one; small is hard.
      accuracy: share of these networks that classify the image correctly.
    """

    loss: np.ndarray
    el2n: np.ndarray
    margin: np.ndarray
    accuracy: np.ndarray

    @property
    def learnable(self) -> np.ndarray:
        """bool `[n]`: most networks trained on other real images get it right."""
        return self.accuracy > 0.5


def measures(logits: jax.Array, labels: jax.Array) -> Difficulty:
    """The measures of a batch under each network, `[b, E]`, for `Ensemble.predict`."""
    log_softmax = jax.nn.log_softmax(logits)
    one_hot = jax.nn.one_hot(labels, logits.shape[-1])
    loss = -jnp.sum(log_softmax * one_hot, axis=-1)
    el2n = jnp.linalg.norm(jnp.exp(log_softmax) - one_hot, axis=-1)
    own = jnp.sum(logits * one_hot, axis=-1)
    others = jnp.max(jnp.where(one_hot > 0, -jnp.inf, logits), axis=-1)
    correct = (jnp.argmax(logits, axis=-1) == labels).astype(jnp.float32)
    return Difficulty(loss.T, el2n.T, (own - others).T, correct.T)


def cross_fit(
    key: jax.Array,
    dataset: Dataset,
    config: Config,
    layout: Layout,
    progress: ProgressHook | None = None,
) -> Difficulty:
    """Trains networks on parts of the real set and judges each image by the others.

    Args:
      key: typed key.
      dataset: the data.
      config: network, recipe (`evaluation`) and `difficulty` (folds, networks per
        fold, epochs).
      layout: the devices.
      progress: see `Ensemble.fit`.
    """
    settings, count = config.difficulty, len(dataset.train_labels)
    fold = _folds(rng.stream(key, "folds"), dataset.train_labels, settings.folds)
    subsets = _leave_one_out(fold, settings.folds, settings.networks)
    dtype = jnp.dtype(config.runtime.compute_dtype)
    network = create_network(
        config.network, dataset.num_classes, dataset.image_shape, dtype
    )
    ensemble = Ensemble(
        network,
        config.evaluation,
        Normalization(dataset.mean, dataset.std),
        1,
        layout,
        config.runtime.predict_batch,
    )
    images, labels = dataset.train_images, dataset.train_labels
    budget_gb = config.runtime.image_memory_gb
    variables = ensemble.fit(
        rng.stream(key, "networks"),
        TrainingImages(place_everywhere(images, layout, budget_gb), labels),
        subsets,
        ensemble.total_steps(
            int(subsets.counts.min()), settings.epochs, settings.max_steps
        ),
        progress,
    )
    judged = place(images, np.arange(count), layout, budget_gb)
    result = ensemble.predict(variables, judged, spread(layout, labels), measures)
    network_fold = np.repeat(np.arange(settings.folds), settings.networks)
    held_out = fold[:, None] == network_fold
    return Difficulty(
        *(np.average(m[:count], 1, held_out) for m in to_host(result))
    )


def load_or_cross_fit(
    dataset: Dataset,
    config: Config,
    layout: Layout,
    cache_dir: str | Path,
    progress: ProgressHook | None = None,
) -> Difficulty:
    """`cross_fit`, kept in `cache_dir` and reused for the same data and settings."""
    settings = config.to_dict()
    identity = {
        "fingerprint": dataset.fingerprint,
        "network": config.network,
        "recipe": settings["evaluation"],
        "difficulty": settings["difficulty"],
        "compute_dtype": config.runtime.compute_dtype,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    path = Path(cache_dir) / f"difficulty-{digest[:16]}.npy"
    # One process without the file makes it necessary to measure in all of them.
    if not any_of(not path.exists())[0]:
        return Difficulty(*np.load(path, allow_pickle=False))
    difficulty = cross_fit(jax.random.key(0), dataset, config, layout, progress)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_array_atomic(path, np.stack(difficulty))
    return difficulty


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

"""Where a window of the difficulty ranking begins, matched to the size of the set.

Which images teach most depends on how many there are: few should be easy, many may be
hard (Sorscher et al. 2022; Zheng et al. 2023). As in BWS (Choi et al. 2024) the window
that fits a size is looked for among windows that begin at several shares of a class.
Here networks are trained on the images of each window by the recipe of the final test
and asked about a tenth of the training set, which no window may draw from meanwhile.
The test split has no part in it.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.config import Config, EvaluationConfig
from d4a_jax.data import Dataset
from d4a_jax.data.holdout import held_out_rows
from d4a_jax.devices.parallel import make_layout
from d4a_jax.ensemble import Ensemble, Subsets, TrainingImages
from d4a_jax.evaluation import Judge
from d4a_jax.flips import refuse_flips
from d4a_jax.formation import compose
from d4a_jax.networks import create_network
from d4a_jax.selection.coresets import difficulty_window
from d4a_jax.training import Normalization

# Shares of hardest images that are left out: from the hardest window to the easiest.
SHARES = tuple(k / 10 for k in range(11))


class Window(NamedTuple):
    """A window and the reason why it was chosen.

    Attributes:
      skip_hardest: share of hardest images that are left out, see `difficulty_window`.
      shares: all shares that were tried.
      accuracy: held-out accuracy in [0, 1] of each, mean over networks.
    """

    skip_hardest: float
    shares: tuple[float, ...]
    accuracy: tuple[float, ...]


def best_window(shares: Sequence[float], accuracy: np.ndarray) -> Window:
    """The window of the best held-out accuracy; of equally good ones the easiest.

    Args:
      shares: shares of hardest images that were left out, `[s]`.
      accuracy: in [0, 1], `[s, networks]`.
    """
    # Rounded, so that what is equal but for the order of its sum is a tie.
    means = np.asarray(accuracy, np.float64).mean(axis=1).round(9)
    best = max(range(len(shares)), key=lambda k: (means[k], shares[k]))
    return Window(shares[best], tuple(shares), tuple(map(float, means)))


def choose_window(
    dataset: Dataset,
    hardness: np.ndarray,
    images_per_class: int,
    factor: int,
    config: Config,
    seed: int = 0,
    shares: Sequence[float] = SHARES,
) -> Window:
    """Tries windows on a held-out tenth of every class of the training set.

    Args:
      dataset: the real data; its test split is not used.
      hardness: `[n]` of the training images, larger is harder.
      images_per_class: stored images of each class.
      factor: of multi-formation; `factor ** 2` real images in a stored one.
      config: the recipe and the network of `evaluation`, whose `prefix_repeats`
        (`repeats`) networks are trained on every window, and `runtime`.
      seed: of the networks.
      shares: shares of hardest images to leave out, each in [0, 1].

    Raises:
      ConfigError: the recipe flips images that change their meaning.
      DatasetError: a class has a single training image.
    """
    refuse_flips(dataset, "evaluation.augmentation", config.evaluation.augmentation)
    labels = np.asarray(dataset.train_labels)
    held_out = held_out_rows(labels)
    taken = [
        _window_rows(labels, held_out, hardness, images_per_class * factor**2, share)
        for share in shares
    ]
    stored = [stored_images(dataset, rows, factor) for rows in taken]
    shown = np.repeat(np.arange(dataset.num_classes, dtype=np.int32), images_per_class)
    training = TrainingImages(np.concatenate(stored), np.tile(shown, len(shares)))
    networks = trial_networks(config.evaluation)
    # Every network trains on the images of one window.
    rows = np.arange(len(training.labels), dtype=np.int32).reshape(len(shares), -1)
    counts = np.full(len(shares) * networks, rows.shape[1], np.int32)
    subsets = Subsets(np.repeat(rows, networks, axis=0), counts)
    accuracy = _held_out_accuracy(
        _held_out_part(dataset, held_out), training, subsets, factor, config, seed
    )
    return best_window(shares, accuracy.reshape(len(shares), networks))


def trial_networks(evaluation: EvaluationConfig) -> int:
    """How many networks are trained on each window: as many as test a prefix."""
    return evaluation.prefix_repeats or evaluation.repeats


def stored_images(dataset: Dataset, rows: np.ndarray, factor: int) -> np.ndarray:
    """Real images as a set stores them, class by class.

    Args:
      dataset: the real data.
      rows: of the training images, int `[C, n factor ** 2]`.
      factor: 1 stores images as they are, more mosaics of `factor ** 2` of them.

    Returns:
      uint8 `[C n, h, w, c]`.
    """
    parts = []
    for of_class in rows:
        images = np.asarray(dataset.train_images[of_class])
        if factor > 1:
            mosaics = compose(jnp.asarray(images, jnp.float32) / 255.0, factor)
            images = np.rint(np.asarray(mosaics) * 255.0).astype(np.uint8)
        parts.append(images)
    return np.concatenate(parts)


def _window_rows(labels, held_out, hardness, needed, share):
    """Rows of a window of every class without the held-out images, `[C, needed]`."""
    rows = []
    for label in range(int(labels.max()) + 1):
        free = np.flatnonzero((labels == label) & ~held_out)
        count = min(needed, len(free))
        chosen = difficulty_window(hardness[free], count, share)
        rows.append(np.resize(free[chosen], needed))
    return np.stack(rows)


def _held_out_part(dataset, held_out):
    """The data set with the held-out training images in place of its test split."""
    return dataclasses.replace(
        dataset,
        test_images=np.asarray(dataset.train_images[held_out]),
        test_labels=np.asarray(dataset.train_labels[held_out]),
    )


def _held_out_accuracy(held_out, training, subsets, factor, config, seed):
    """Accuracy of a network per subset on the test split of `held_out`."""
    runtime, recipe = config.runtime, config.evaluation
    layout = make_layout(runtime.devices, runtime.class_chunk)
    network = create_network(
        recipe.network or config.network,
        held_out.num_classes,
        held_out.image_shape,
        jnp.dtype(runtime.compute_dtype),
    )
    ensemble = Ensemble(
        network,
        recipe,
        Normalization(held_out.mean, held_out.std),
        factor,
        layout,
        runtime.predict_batch,
    )
    count, networks = int(subsets.counts[0]), len(subsets.counts)
    steps = ensemble.total_steps(count, recipe.epochs, recipe.max_steps)
    key = rng.stream(jax.random.key(seed), "windows")
    variables = ensemble.fit(key, training, subsets, steps)
    judge = Judge(held_out, layout, runtime.image_memory_gb)
    return np.array(judge.test(ensemble, variables, networks, steps).top1)

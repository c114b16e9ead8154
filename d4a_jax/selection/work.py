"""The cost of choosing real images, counted from the configuration alone.

Counted are the networks that are trained and what they are asked. Distances between
embeddings and the sorting are not: they are small beside these.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from d4a_jax.config import Config
from d4a_jax.data import Dataset
from d4a_jax.data.holdout import held_out_rows
from d4a_jax.selection.patches import CANDIDATES, CROPS
from d4a_jax.selection.rules import parse
from d4a_jax.selection.windows import SHARES, trial_networks

_FORWARD, _TRAINING = 1, 3


class Work(NamedTuple):
    """Images that pass through networks of one kind.

    Attributes:
      need: what they serve: a name in `WORK`.
      network: specification.
      trained: images in all batches of training.
      seen: images that networks are only asked about.
    """

    need: str
    network: str
    trained: int
    seen: int

    @property
    def passes(self) -> int:
        """Passes of one image, as `d4a_jax.cost` counts them."""
        return _TRAINING * self.trained + _FORWARD * self.seen


def selection_work(
    selection: str, factor: int, config: Config, dataset: Dataset
) -> list[Work]:
    """What it takes to choose `synthetic.images_per_class` images of each class.

    Difficulty counts although it serves every later selection on the same data.

    Args:
      selection: as `select_images` takes it, or `rded`.
      factor: of multi-formation, 1 for images as they are.
      config: see `select_images`.
      dataset: the real data.

    Returns:
      One entry for everything that the rule needs; none for random images.

    Raises:
      ValueError: the selection is unknown.
    """
    needs = ("patches",) if selection == "rded" else parse(selection)[0].needs
    return [WORK[need](factor, config, dataset) for need in needs]


def difficulty_work(factor: int, config: Config, dataset: Dataset) -> Work:
    """Cross-fitted networks: training on the other folds, looks at all real images."""
    del factor
    settings = config.difficulty
    count, tests = len(dataset.train_labels), len(dataset.test_labels)
    seen = count - math.ceil(count / settings.folds)
    steps = _steps(seen, settings.epochs, settings.max_steps, config)
    looks = min(settings.checkpoints, steps) * (count + tests)
    networks = settings.folds * settings.networks
    trained = steps * config.evaluation.batch_size
    return Work("difficulty", config.network, networks * trained, networks * looks)


def _embeddings(factor, config, dataset):
    """A network trained on all real images and asked about all of them."""
    del factor
    trained = _on_real_data(config, dataset)
    return Work("embeddings", config.network, trained, len(dataset.train_labels))


def _windows(factor, config, dataset):
    """Networks trained on every window and asked about the held-out images."""
    recipe = config.evaluation
    stored = config.synthetic.images_per_class * dataset.num_classes
    steps = _steps(stored * factor**2, recipe.epochs, recipe.max_steps, config)
    networks = len(SHARES) * trial_networks(recipe)
    held_out = int(held_out_rows(np.asarray(dataset.train_labels)).sum())
    return Work(
        "windows",
        recipe.network or config.network,
        networks * steps * recipe.batch_size,
        networks * held_out,
    )


def _patches(factor, config, dataset):
    """A teacher trained on all real images and asked about crops of candidates."""
    del factor
    smallest = int(np.bincount(np.asarray(dataset.train_labels)).min())
    crops = dataset.num_classes * min(CANDIDATES, smallest) * CROPS
    return Work("patches", config.network, _on_real_data(config, dataset), crops)


def _on_real_data(config, dataset):
    """Images in all batches of `teachers.train_on_real_data`."""
    settings, count = config.difficulty, len(dataset.train_labels)
    steps = _steps(count, settings.epochs, settings.max_steps, config)
    return steps * config.evaluation.batch_size


def _steps(count, epochs, max_steps, config):
    steps = epochs * math.ceil(count / config.evaluation.batch_size)
    return min(steps, max_steps or steps)


WORK = {
    "embeddings": _embeddings,
    "difficulty": difficulty_work,
    "windows": _windows,
    "patches": _patches,
}


def passes(works: Sequence[Work]) -> int:
    """Passes of one image in all."""
    return sum(work.passes for work in works)

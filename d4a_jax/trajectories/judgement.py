"""When the experts learn each real image: the difficulty that trajectories know of."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax.data import Dataset
from d4a_jax.devices.parallel import spread, to_host
from d4a_jax.devices.processes import any_of
from d4a_jax.devices.streaming import place
from d4a_jax.storage import fileio
from d4a_jax.trajectories.experts import Experts

# Experts that are asked, the first ones; their mean is all that is kept.
JUDGES = 3


class Judgement(NamedTuple):
    """What the experts say of every training image, float32 `[n]` each.

    Attributes:
      learned: mean number of epochs 0 ... T after which an expert is wrong on it. For
        an image that stays learned it is the epoch from which it is right.
      right: share of the experts that are right after the last epoch T.
    """

    learned: np.ndarray
    right: np.ndarray


def hits_by_epoch(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """Whether the label has the largest logit: `[b, E]`, for `Ensemble.predict`."""
    return (jnp.argmax(logits, axis=-1) == labels).T


def judge(
    dataset: Dataset, experts: Experts, budget_gb: float | None = None
) -> Judgement:
    """Classifies the training images by the experts after every epoch.

    Kept beside the experts, and read from there when asked again.

    Args:
      dataset: whose training images are classified.
      experts: the judges are the first of them.
      budget_gb: see `memory.exceeds_memory`.
    """
    judges = min(experts.count, JUDGES)
    path = experts.store.directory / f"judgement-by-{judges}.npy"
    # One process without the file makes it necessary to judge in all of them.
    if not any_of(not path.exists())[0]:
        return Judgement(*np.load(path, allow_pickle=False))
    layout, count = experts.ensemble.layout, len(dataset.train_labels)
    images = place(dataset.train_images, np.arange(count), layout, budget_gb)
    labels = spread(layout, np.asarray(dataset.train_labels, np.int32))
    hits = np.mean(
        [
            to_host(
                experts.ensemble.predict(
                    experts.trajectory(expert), images, labels, hits_by_epoch
                )
            )[:count]
            for expert in range(judges)
        ],
        axis=0,
    )
    judgement = Judgement(np.sum(1.0 - hits, axis=1), hits[:, -1])
    fileio.save_array_atomic(path, np.stack(judgement).astype(np.float32))
    return judge(dataset, experts, budget_gb)

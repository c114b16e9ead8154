"""A network trained on the real training set, and the embeddings that it gives."""

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.config import Config
from d4a_jax.data import Dataset
from d4a_jax.devices.parallel import make_layout, spread
from d4a_jax.ensemble import Ensemble, TrainingImages, everything
from d4a_jax.flips import default_config, refuse_flips
from d4a_jax.networks import create_network
from d4a_jax.training import Normalization


def train_on_real_data(
    dataset: Dataset, config: Config | None = None, seed: int = 0
) -> tuple[Ensemble, dict]:
    """A network trained on all real images, for `difficulty.epochs`.

    Args:
      dataset: the real data.
      config: network, recipe (`evaluation`) and length; by default `default_config`.
      seed: of the network.

    Returns:
      The ensemble of this one network, and its stacked variables.

    Raises:
      ConfigError: if the recipe flips images that change their meaning.
    """
    config = config or default_config(dataset)
    refuse_flips(dataset, "evaluation.augmentation", config.evaluation.augmentation)
    layout = make_layout(config.runtime.devices, config.runtime.class_chunk)
    dtype = jnp.dtype(config.runtime.compute_dtype)
    ensemble = Ensemble(
        create_network(config.network, dataset.num_classes, dataset.image_shape, dtype),
        config.evaluation,
        Normalization(dataset.mean, dataset.std),
        1,
        layout,
        config.runtime.predict_batch,
    )
    settings, count = config.difficulty, len(dataset.train_labels)
    images, labels = np.asarray(dataset.train_images), np.asarray(dataset.train_labels)
    variables = ensemble.fit(
        rng.stream(jax.random.key(seed), "real_data"),
        TrainingImages(images, labels),
        everything(count, count, 1),
        ensemble.total_steps(count, settings.epochs, settings.max_steps),
    )
    return ensemble, variables


def embeddings(dataset: Dataset, config: Config, seed: int = 0) -> np.ndarray:
    """Embeddings of all training images by a network trained on all of them.

    Returns:
      float32 `[n, d]`, what the classifier sees, in the order of the data set.
    """
    ensemble, variables = train_on_real_data(dataset, config, seed)
    images, labels = np.asarray(dataset.train_images), np.asarray(dataset.train_labels)
    arrays = spread(ensemble.layout, (images, labels))
    found = ensemble.predict(variables, *arrays, _first, output="embedding")
    return np.asarray(found)[: len(labels)]


def _first(outputs, labels):
    del labels
    return outputs[0]

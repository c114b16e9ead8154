"""Soft labels by the stored-crops protocol (FKD, Shen & Xing 2022), as in SRe2L.

For every epoch and every training image a random resized crop is drawn, a teacher that
was trained on the real set is asked, and both the crop and the teacher's logits are
stored. Whoever trains on the set then needs no teacher: epoch e takes the stored crops
of epoch e, and a student is trained towards softmax(logits / T) by

    T**2 CE(softmax(logits / T), softmax(student / T)).

They are something else than labels that are learned with the images, which have
neither crops nor a teacher (`DistilledDataset.label_logits`, see
`methods.label_learning`).

The labels are part of the storage, `DistilledDataset.label_bytes`, and are larger than
the images where there are many epochs: 2 C + 8 bytes for each epoch and image.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.artifact import DistilledDataset
from d4a_jax.artifact.provenance import with_class_order
from d4a_jax.augment.crops import cut_crops, draw_crops
from d4a_jax.config import Config
from d4a_jax.data import Dataset
from d4a_jax.devices.parallel import spread
from d4a_jax.selection.teachers import train_on_real_data

TEMPERATURE = 20.0  # SRe2L's.


def with_soft_labels(
    distilled: DistilledDataset,
    dataset: Dataset,
    epochs: int,
    config: Config | None = None,
    seed: int = 0,
    temperature: float = TEMPERATURE,
) -> DistilledDataset:
    """Adds crops and a teacher's soft labels to a distilled set.

    Args:
      distilled: the set; its own soft or learned labels, if any, are replaced.
      dataset: the real data, on which the teacher is trained.
      epochs: how many epochs of crops and labels to store, at least 1. Longer trainings
        begin again with the first one.
      config: of the teacher, see `teachers.train_on_real_data`; by default
        `default_config` of the data.
      seed: of the teacher and of the crops.
      temperature: T, recorded for those who train on the set; above 0.

    Raises:
      ValueError: if `epochs` or `temperature` is out of range.
    """
    if epochs < 1 or not temperature > 0:
        raise ValueError(
            f"epochs is {epochs} and temperature is {temperature}; they must be at "
            "least 1 and above 0."
        )
    distilled = with_class_order(distilled, dataset)
    ensemble, variables = train_on_real_data(dataset, config, seed)
    images, labels = distilled.formed()
    count, height, width, _ = images.shape
    key = rng.stream(jax.random.key(seed), "soft_labels")
    cut = jax.jit(lambda crops: _as_bytes(cut_crops(images, crops, height, width)))
    logits, crops = [], []
    for epoch in range(epochs):
        drawn = draw_crops(
            jax.random.fold_in(key, epoch), (count,), height, width, dataset.flip
        )
        arrays = spread(ensemble.layout, (np.asarray(cut(drawn)), labels))
        found = ensemble.predict(variables, *arrays, _first)
        logits.append(np.asarray(found)[:count].astype(np.float16))
        crops.append(np.asarray(drawn))
    metadata = distilled.metadata | {"temperature": float(temperature)}
    return dataclasses.replace(
        distilled,
        metadata=metadata,
        soft_logits=np.stack(logits),
        soft_crops=np.stack(crops),
        label_logits=None,
    )


def _as_bytes(images):
    """What the teacher sees, as real images are: eight bits."""
    return jnp.round(images * 255.0).astype(jnp.uint8)


def _first(logits, labels):
    del labels
    return logits[0]

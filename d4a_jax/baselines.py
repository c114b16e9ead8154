"""Reference sets of the same storage that need no distillation."""

import jax
import numpy as np

from d4a_jax import rng
from d4a_jax.artifact import DistilledDataset
from d4a_jax.data import Dataset
from d4a_jax.formation import compose
from d4a_jax.real_data import index_classes


def random_images(
    dataset: Dataset, images_per_class: int, factor: int = 1, seed: int = 0
) -> DistilledDataset:
    """Real training images drawn at random, the same number of each class.

    Args:
      dataset: the real data.
      images_per_class: how many images are stored for each class.
      factor: 1 stores images as they are; more stores mosaics of `factor ** 2`
        downscaled images, which is what multi-formation starts from.
      seed: of the draw.

    Returns:
      The images as one segment.

    Raises:
      ValueError: if a class has too few images.
    """
    needed = images_per_class * factor**2
    labels = np.asarray(dataset.train_labels)
    index = index_classes(labels, dataset.num_classes)
    if needed > index.counts.min():
        raise ValueError(
            f"images_per_class is {images_per_class} with factor {factor}, which takes "
            f"{needed} images; the smallest class of {dataset.name} has "
            f"{index.counts.min()}."
        )
    key = rng.stream(jax.random.key(seed), "random_images")
    stored = []
    for label, (members, count) in enumerate(zip(index.rows, index.counts)):
        order = jax.random.permutation(jax.random.fold_in(key, label), int(count))
        drawn = np.asarray(dataset.train_images)[members[np.asarray(order[:needed])]]
        mosaics = compose(drawn.astype(np.float32) / 255.0, factor)
        stored.append(np.rint(np.asarray(mosaics) * 255.0).astype(np.uint8))
    images = np.concatenate(stored)
    labels = np.repeat(np.arange(dataset.num_classes, dtype=np.int32), images_per_class)
    metadata = {
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "method": "random real images",
        "class_names": list(dataset.class_names),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "flip": dataset.flip,
        "factor": factor,
        "images_per_class": images_per_class,
        "segment_sizes": [images_per_class],
        "seed": seed,
    }
    return DistilledDataset(images, labels, np.zeros_like(labels), metadata)

"""Reference sets of the same storage that need no distillation."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.artifact import DistilledDataset
from d4a_jax.data import Dataset
from d4a_jax.formation import compose
from d4a_jax.real_data import index_classes


def random_images(
    dataset: Dataset,
    images_per_class: int | Sequence[int],
    factor: int = 1,
    seed: int = 0,
) -> DistilledDataset:
    """Real training images drawn at random, the same number of each class.

    Args:
      dataset: the real data.
      images_per_class: how many images are stored for each class; several numbers
        make as many segments, each prefix of which is the smaller random set.
      factor: 1 stores images as they are; more stores mosaics of `factor ** 2`
        downscaled images, which is what multi-formation starts from.
      seed: of the draw.

    Returns:
      The images, drawn without replacement; where a class has too few, all of its
      images come before any of them comes again.

    Raises:
      ValueError: if a number is below 1.
    """
    sizes = [int(size) for size in np.atleast_1d(images_per_class)]
    if not sizes or min(sizes) < 1 or factor < 1:
        raise ValueError(
            f"images_per_class is {images_per_class} and factor is {factor}; both must "
            "be at least 1."
        )
    labels = np.asarray(dataset.train_labels)
    index = index_classes(labels, dataset.num_classes)
    key = rng.stream(jax.random.key(seed), "random_images")
    ends = np.cumsum([0, *sizes]) * factor**2
    rows = np.empty((dataset.num_classes, ends[-1]), np.int64)
    for label, (members, count) in enumerate(zip(index.rows, index.counts)):
        order = jax.random.permutation(jax.random.fold_in(key, label), int(count))
        rows[label] = np.resize(members[np.asarray(order)], ends[-1])
    images = [
        _mosaics(dataset, of_class[first:last], factor)
        for first, last in zip(ends, ends[1:])
        for of_class in rows
    ]
    classes = np.arange(dataset.num_classes, dtype=np.int32)
    return DistilledDataset(
        np.concatenate(images),
        np.concatenate([np.repeat(classes, size) for size in sizes]),
        np.repeat(
            np.arange(len(sizes), dtype=np.int32),
            np.multiply(sizes, dataset.num_classes),
        ),
        _metadata(dataset, sizes, factor, seed),
    )


def _mosaics(dataset, rows, factor):
    """uint8 mosaics of the training images in `rows`, `factor ** 2` in each."""
    images = np.asarray(dataset.train_images)[rows]
    if factor == 1:
        return images
    mosaics = compose(jnp.asarray(images, jnp.float32) / 255.0, factor)
    return np.rint(np.asarray(mosaics) * 255.0).astype(np.uint8)


def _metadata(dataset, sizes, factor, seed):
    return {
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "method": "random real images",
        "class_names": list(dataset.class_names),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "flip": dataset.flip,
        "factor": factor,
        "images_per_class": sum(sizes),
        "segment_sizes": list(sizes),
        "seed": seed,
    }

"""RDED's patch selection (Sun et al. 2024): the crops that a teacher finds realistic.

Every stored image is a mosaic of factor**2 crops of real images. Candidates are drawn
from each class, several crops of each are judged by a network trained on the real set,
the one of the smallest cross-entropy stays, and of these the best fill the mosaics.

The labels are hard. The authors' training asks the teacher for every augmented image;
`soft_labels.with_soft_labels` stores what it says.
"""

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.artifact import DistilledDataset
from d4a_jax.augment.crops import cut_crops, draw_crops
from d4a_jax.config import Config
from d4a_jax.data import Dataset
from d4a_jax.devices.parallel import spread
from d4a_jax.formation import tile_side
from d4a_jax.real_data import index_classes
from d4a_jax.selection.baselines import real_image_set
from d4a_jax.selection.teachers import train_on_real_data

CANDIDATES, CROPS = 300, 5


def realistic_patches(
    dataset: Dataset,
    images_per_class: int,
    factor: int = 1,
    config: Config | None = None,
    seed: int = 0,
    candidates: int = CANDIDATES,
    crops: int = CROPS,
) -> DistilledDataset:
    """Mosaics of the most realistic crops, the same number of each class.

    Args:
      dataset: the real data.
      images_per_class: how many mosaics are stored for each class.
      factor: crops along a side of a mosaic; RDED takes 1 up to 64 pixels, 2 above.
      config: of the teacher (`network`, `difficulty.epochs`, the recipe of
        `evaluation`) and `runtime`; by default `default_config` of the data.
      seed: of the draws and of the teacher.
      candidates: real images that are drawn from each class, fewer where it is smaller.
      crops: crops of each candidate.

    Returns:
      The mosaics as one segment.

    Raises:
      ValueError: if there are fewer candidates than crops to be stored.
    """
    index = index_classes(np.asarray(dataset.train_labels), dataset.num_classes)
    count = min(candidates, int(index.counts.min()))
    needed = images_per_class * factor**2
    if needed > count:
        raise ValueError(
            f"images_per_class is {images_per_class} with factor {factor}, which takes "
            f"crops of {needed} images; there are {count} candidates in a class."
        )
    ensemble, variables = train_on_real_data(dataset, config, seed)
    side = tile_side(min(dataset.image_shape[:2]), factor)
    key = rng.stream(jax.random.key(seed), "patches")
    cut = jax.jit(lambda key, images: random_crops(key, images, crops, side))
    stored = []
    for label, (rows, available) in enumerate(zip(index.rows, index.counts)):
        here = jax.random.fold_in(key, label)
        order = jax.random.permutation(rng.stream(here, "candidates"), int(available))
        chosen = np.asarray(dataset.train_images)[rows[np.asarray(order[:count])]]
        patches = cut(rng.stream(here, "crops"), chosen)
        shown = np.asarray(_to_bytes(_enlarged(patches, dataset.image_shape)))
        labels = np.full(count * crops, label, np.int32)
        flat = shown.reshape(-1, *shown.shape[2:])
        arrays = spread(ensemble.layout, (flat, labels))
        losses = ensemble.predict(variables, *arrays, _loss_of_first)
        losses = np.asarray(losses)[: count * crops].reshape(count, crops)
        best = most_realistic(losses, needed)
        stored.append(mosaics(np.asarray(patches)[best], factor, dataset.image_shape))
    images = np.asarray(_to_bytes(np.stack(stored)))
    return real_image_set(dataset, images, factor, "realistic patches (RDED)", seed)


def random_crops(key: jax.Array, images: jax.Array, crops: int, side: int) -> jax.Array:
    """Random resized crops, several of each image; see `augment.crops`.

    Args:
      key: typed key.
      images: uint8 `[m, h, w, c]`.
      crops: how many of each image.
      side: of the results.

    Returns:
      float32 `[m, crops, side, side, c]` in [0, 1].
    """
    count, height, width, channels = images.shape
    drawn = draw_crops(key, (count * crops,), height, width)
    repeated = jnp.repeat(images.astype(jnp.float32) / 255.0, crops, axis=0)
    found = cut_crops(repeated, drawn, side, side)
    return found.reshape(count, crops, side, side, channels)


def most_realistic(losses: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The best crop of each image, of the images whose best crop is best.

    Args:
      losses: `[m, crops]`, cross-entropy of each crop.
      count: how many to choose, at most m.

    Returns:
      Images and crops, int `[count]` each, the smallest loss first.
    """
    crops = losses.argmin(axis=1)
    images = np.argsort(losses.min(axis=1), kind="stable")[:count]
    return images, crops[images]


def mosaics(
    patches: np.ndarray, factor: int, image_shape: tuple[int, int, int]
) -> np.ndarray:
    """Joins tiles `[n factor**2, t, t, c]` to mosaics `[n, h, w, c]`, row by row."""
    height, width, channels = image_shape
    side = patches.shape[1]
    grid = patches.reshape(-1, factor, factor, side, side, channels)
    joined = grid.transpose(0, 1, 3, 2, 4, 5)
    joined = joined.reshape(-1, factor * side, factor * side, channels)
    return joined[:, :height, :width]


def _enlarged(patches, image_shape):
    """Crops at the size at which networks see them."""
    shape = (*patches.shape[:2], *image_shape)
    return jax.image.resize(patches, shape, "bilinear", antialias=False)


def _to_bytes(images):
    return jnp.round(jnp.clip(images, 0.0, 1.0) * 255.0).astype(jnp.uint8)


def _loss_of_first(logits, labels):
    return -jnp.take_along_axis(jax.nn.log_softmax(logits[0]), labels[:, None], 1)[:, 0]

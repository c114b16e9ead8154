"""Which real images a segment begins with, chosen among those that the filter kept.

    real      drawn at random
    correct   drawn at random among those that the experts get right (DATM, Guo et al.
              2024, section 3.3)
    window    a window of the difficulty ranking of each class (SelMatch, Lee & Chung
              2024): the hardest `skip_hardest * images per class` are left out and the
              next hardest are taken, the harder ones first

Where a class has fewer images than a segment takes, they are taken in turn, and the
copies get a little noise (`vary_copies`).

With `frozen_share` the first images of a segment, in a window the hardest, keep their
real pixels (SelMatch). Its alpha is 1 - `frozen_share` and its beta `skip_hardest`.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.config import SyntheticConfig

# Standard deviation of the noise on a copy, of pixels in [0, 1]: five levels of 255.
_COPY_NOISE = 0.02
_NAMED = 5


def correct_first(
    kept: np.ndarray, right: np.ndarray, needed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The candidates of `correct`.

    Args:
      kept: bool `[C, m]`.
      right: `[C, m]`, share of the experts that get an image right.
      needed: images that the segment takes of each class.

    Returns:
      Positions int32 `[C, m]`, the candidates first, and their number int32 `[C]`:
      what most experts get right, or, in a class where that is too little, the
      `needed` images that the most experts do.
    """
    order = np.argsort(np.where(kept, -right, np.inf), axis=1, kind="stable")
    enough = np.maximum((kept & (right > 0.5)).sum(1), needed)
    counts = np.minimum(enough, kept.sum(1))
    return order.astype(np.int32), counts.astype(np.int32)


def difficulty_window(
    kept: np.ndarray, difficulty: np.ndarray, skipped: int, needed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The candidates of `window`, the hardest first.

    Args:
      kept: bool `[C, m]`.
      difficulty: float `[C, m]`; larger is harder.
      skipped: hardest images of each class to leave out.
      needed: images that the segment takes of each class.

    Returns:
      Positions int32 `[C, m]`, the candidates first, and their number int32 `[C]`. A
      class with too few images to leave out so many gives its easiest ones.
    """
    order = np.argsort(np.where(kept, -difficulty, np.inf), axis=1, kind="stable")
    counts = kept.sum(1)
    skipped = np.clip(counts - needed, 0, skipped)
    places = (np.arange(order.shape[1]) + skipped[:, None]) % order.shape[1]
    order = np.take_along_axis(order, places, axis=1)
    return order.astype(np.int32), np.minimum(counts, needed).astype(np.int32)


def frozen_images(synthetic: SyntheticConfig, size: int) -> int:
    """How many images per class of a segment stay as they begin; never all of them."""
    return min(round(synthetic.frozen_share * size), size - 1)


def describe_short_classes(
    counts: np.ndarray, class_names: Sequence[str], needed: int
) -> str | None:
    """Names the classes with fewer images than are taken of each, or returns None.

    Args:
      counts: int `[C]`, images of each class.
      class_names: one per class.
      needed: images that are taken of each class.
    """
    short = np.flatnonzero(np.asarray(counts) < needed)
    if not len(short):
        return None
    named = [f"{class_names[label]!r} has {counts[label]}" for label in short[:_NAMED]]
    more = f" and {len(short) - _NAMED} more classes" if len(short) > _NAMED else ""
    return (
        f"Of each class {needed} real images are taken, but class "
        f"{', '.join(named)}{more}; images are repeated there."
    )


def vary_copies(
    key: jax.Array, images: jax.Array, available: int | jax.Array
) -> jax.Array:
    """Puts a little noise on images that are copies of earlier ones.

    Identical images of a class would get identical gradients and never part.

    Args:
      key: typed key.
      images: float32 `[n, h, w, c]` in [0, 1]; the first `available` are different.
      available: how many different images there are, possibly traced.

    Returns:
      The images in [0, 1], the first `available` as they are.
    """
    noise = jax.random.normal(rng.stream(key, "copies"), images.shape)
    varied = jnp.clip(images + _COPY_NOISE * noise, 0.0, 1.0)
    is_copy = jnp.arange(len(images)) >= available
    return jnp.where(is_copy[:, None, None, None], varied, images)

"""CutMix (Yun et al. 2019) with one box and one pairing for a batch."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp

from d4a_jax import rng


def cutmix(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    probability: float,
    beta: float = 1.0,
    *,
    num_classes: int,
) -> tuple[jax.Array, jax.Array]:
    """Pastes a box of other images of the batch and mixes the labels by its area.

    Args:
      key: typed key.
      images: `[n, h, w, c]`.
      labels: integers `[n]` or distributions `[n, num_classes]`.
      probability: that the batch is mixed at all, in [0, 1]; static.
      beta: both parameters of the beta distribution of the share of the image that
        is kept, above 0; static.
      num_classes: number of classes; static.

    Returns:
      The mixed images and their labels, float32 `[n, num_classes]`. The weights of
      the labels are the exact shares of pixels, after the box has been cut at the
      border.

    Raises:
      ValueError: where `probability` or `beta` is out of range.
    """
    if not 0 <= probability <= 1:
        raise ValueError(
            f"The probability of CutMix is {probability!r}; it must be in [0, 1]."
        )
    if not beta > 0:
        raise ValueError(f"beta of CutMix is {beta!r}; it must be above 0.")
    draw = draw_cutmix(key, images.shape, probability, beta)
    if labels.ndim == 1:
        labels = jax.nn.one_hot(labels, num_classes)
    return apply_cutmix(images, labels.astype(jnp.float32), draw)


def draw_cutmix(
    key: jax.Array, shape: tuple[int, ...], probability: float, beta: float
) -> Mapping[str, jax.Array]:
    """Draws the pairing `order [n]` and the box `top`, `bottom`, `left`, `right`.

    A box covers rows in [top, bottom) and columns in [left, right); it is empty where
    the batch is not to be mixed.
    """
    n, height, width, _ = shape
    uniform = jax.random.uniform(rng.stream(key, "uniform"), (4 + n,), jnp.float32)
    mixed = uniform[0] < probability
    kept = uniform[1]
    # The general sampler loops until it accepts; beta = 1 is the uniform distribution.
    if beta != 1:
        kept = jax.random.beta(rng.stream(key, "kept"), beta, beta, dtype=jnp.float32)
    ratio = jnp.sqrt(1 - kept)

    def interval(side, place):
        center = (side * place).astype(jnp.int32)
        half = jnp.where(mixed, (side * ratio).astype(jnp.int32) // 2, 0)
        return jnp.maximum(center - half, 0), jnp.minimum(center + half, side)

    top, bottom = interval(height, uniform[2])
    left, right = interval(width, uniform[3])
    order = jnp.argsort(uniform[4:])
    return {"order": order, "top": top, "bottom": bottom, "left": left, "right": right}


def apply_cutmix(
    images: jax.Array, labels: jax.Array, draw: Mapping[str, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """Applies what `draw_cutmix` drew to images and labels `[n, num_classes]`."""
    _, height, width, _ = images.shape
    top, bottom, left, right, order = (
        draw[name] for name in ("top", "bottom", "left", "right", "order")
    )
    rows, columns = jnp.arange(height), jnp.arange(width)
    in_rows = (rows >= top) & (rows < bottom)
    in_columns = (columns >= left) & (columns < right)
    box = in_rows[:, None, None] & in_columns[:, None]
    pasted = (bottom - top) * (right - left) / (height * width)
    pasted = pasted.astype(labels.dtype)
    mixed = jnp.where(box, images[order], images)
    return mixed, (1 - pasted) * labels + pasted * labels[order]

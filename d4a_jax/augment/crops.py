"""Random resized crops: square parts of images, resized to one side.

Crops are whole numbers, so that they can be stored: `[..., 4]` with top, left, side and
whether to flip (0 or 1).
"""

import jax
import jax.numpy as jnp

# Torchvision's default for random resized crops, which SRe2L and RDED take.
_SMALLEST_AREA = 0.08


def draw_crops(
    key: jax.Array, shape: tuple[int, ...], height: int, width: int, flip: bool = False
) -> jax.Array:
    """Draws crops of 8 to 100 % of the area of the largest square, uniformly placed.

    Args:
      key: typed key.
      shape: leading shape of the result.
      height: of the images.
      width: of the images.
      flip: flip every other crop, on average.

    Returns:
      int16 `[*shape, 4]`.
    """
    area, row, column, side_by_side = jax.random.uniform(key, (4, *shape))
    area = _SMALLEST_AREA + (1 - _SMALLEST_AREA) * area
    side = jnp.maximum(jnp.round(jnp.sqrt(area) * min(height, width)), 1.0)
    top = jnp.floor(row * (height - side + 1))
    left = jnp.floor(column * (width - side + 1))
    flipped = (side_by_side < 0.5) & flip
    return jnp.stack([top, left, side, flipped], axis=-1).astype(jnp.int16)


def cut_crops(
    images: jax.Array, crops: jax.Array, height: int, width: int
) -> jax.Array:
    """Cuts one crop out of each image and resizes it with antialiasing.

    Args:
      images: float32 `[n, h, w, c]` in [0, 1].
      crops: int16 `[n, 4]`.
      height: of the results.
      width: of the results.

    Returns:
      float32 `[n, height, width, c]` in [0, 1].
    """

    def one(image, crop):
        top, left, side, flipped = crop.astype(jnp.float32)
        scale = jnp.stack([height / side, width / side])
        resized = jax.image.scale_and_translate(
            image,
            (height, width, image.shape[-1]),
            (0, 1),
            scale,
            -jnp.stack([top, left]) * scale,
            "linear",
            antialias=True,
        )
        return jnp.where(flipped > 0, resized[:, ::-1], resized)

    return jnp.clip(jax.vmap(one)(images, crops), 0.0, 1.0)

"""Multi-formation: a stored image holds several training images (IDC: Kim et al. 2022).

With factor f a stored image is cut into f x f tiles and each tile is enlarged to the
full size. Images are float arrays in [0, 1]; everything is affine in the pixels.
"""

import difflib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

_PADDING = 0.5


def tile_side(side: int, factor: int) -> int:
    """Side of a tile: `ceil(side / factor)`."""
    return -(-side // factor)


def formed_count(n: int, factor: int, decode: str = "single", bound: int = 128) -> int:
    """Number of training images that `n` stored images form.

    Args:
      n: number of stored images.
      factor: tiles along a side.
      decode: a name in `DECODERS`: `"single"` forms `n f^2` images, `"multi"`
        `n (1 + 4 + ... + f^2)`, `"bound"` from n to `bound`.
      bound: for `"bound"`, the largest number to form.

    Returns:
      The number of images.

    Raises:
      ValueError: for an unknown `decode`, a factor below 1 or a bound below `n`.
    """
    return formed_sources(n, factor, decode, bound).size


def formed_sources(
    n: int, factor: int, decode: str = "single", bound: int = 128
) -> np.ndarray:
    """Which stored image each formed image comes from, and so its label.

    Args:
      n: number of stored images.
      factor: tiles along a side.
      decode: a name in `DECODERS`.
      bound: for `"bound"`, the largest number to form.

    Returns:
      int32 `[formed_count(n, factor, decode, bound)]` with values in [0, n), in the
      order in which the decoder returns the images.

    Raises:
      ValueError: as `formed_count`.
    """
    parts = [
        np.tile(np.arange(start, stop, dtype=np.int32), f * f)
        for start, stop, f in _plan(n, factor, decode, bound)
    ]
    return np.concatenate(parts)


def form(stored: jax.Array, factor: int) -> jax.Array:
    """Cuts each stored image into `factor^2` tiles and enlarges each to full size.

    Where the factor does not divide a side, that side is first padded with 0.5 at its
    end. Tiles are enlarged bilinearly with half-pixel centers.

    Args:
      stored: `[n, h, w, c]` in [0, 1].
      factor: tiles along a side, at least 1; 1 returns the images as they are.

    Returns:
      `[n factor^2, h, w, c]` in [0, 1], tile after tile: tile t (counted row by row)
      of image i is at `t n + i`.

    Raises:
      ValueError: where the factor is below 1 or above a side.
    """
    _, height, width, _ = stored.shape
    _check_factor(factor, height, width)
    if factor == 1:
        return stored
    tiles = _cut(stored, factor).transpose(1, 3, 0, 2, 4, 5)
    return _enlarge(tiles.reshape(-1, *tiles.shape[3:]), height, width)


def form_tiles(stored: jax.Array, tiles: jax.Array, factor: int) -> jax.Array:
    """Forms one training image of each stored image, to decode a batch on the fly.

    Args:
      stored: `[m, h, w, c]` in [0, 1].
      tiles: integers `[m]` in `[0, factor^2)`, possibly traced: the tile to take of
        each image. The image at k of `form(stored, factor)` is tile `k // m` of image
        `k % m`.
      factor: as in `form`.

    Returns:
      `[m, h, w, c]` in [0, 1].

    Raises:
      ValueError: as `form`.
    """
    _, height, width, _ = stored.shape
    _check_factor(factor, height, width)
    if factor == 1:
        return stored

    def take(image, tile):
        return image[tile // factor, :, tile % factor]

    return _enlarge(jax.vmap(take)(_cut(stored, factor), tiles), height, width)


def form_multi(stored: jax.Array, factor: int) -> jax.Array:
    """Forms the stored images with every factor from 1 to `factor`.

    Args:
      stored: `[n, h, w, c]` in [0, 1].
      factor: the largest factor.

    Returns:
      `[n (1 + 4 + ... + factor^2), h, w, c]`: `form` with 1, 2, ... after each other.

    Raises:
      ValueError: as `form`.
    """
    return _form_plan(stored, _plan(stored.shape[0], factor, "multi", 0))


def form_bound(stored: jax.Array, factor: int, bound: int = 128) -> jax.Array:
    """Forms at most `bound` images, with a large factor for as many as possible.

    One place is kept for every stored image. As many images as fit into the rest are
    formed with `factor`, which returns their places, then with `factor - 1` and so on.

    Args:
      stored: `[n, h, w, c]` in [0, 1].
      factor: the largest factor.
      bound: the largest number of formed images, at least n.

    Returns:
      `[formed_count(n, factor, "bound", bound), h, w, c]`, from the largest factor,
      which takes the first stored images, to the smallest.

    Raises:
      ValueError: as `form`, and where the bound is below n.
    """
    return _form_plan(stored, _plan(stored.shape[0], factor, "bound", bound))


def compose(images: jax.Array, factor: int) -> jax.Array:
    """Makes stored images as mosaics of shrunk images (IDC's real initialization).

    Images are shrunk to tiles by taking the nearest pixels. Unlike in `form`, whose
    tiles all have `ceil(side / factor)` pixels, a side that the factor does not divide
    is filled with tiles that differ by one pixel, the larger ones first. There the
    tiles that `form` cuts start up to `factor - 2` pixels beyond these.

    Args:
      images: `[n factor^2, h, w, c]` in [0, 1], ordered as `form` returns them.
      factor: tiles along a side.

    Returns:
      float32 `[n, h, w, c]`.

    Raises:
      ValueError: as `form`, and where the number of images is not a multiple of
        `factor^2`.
    """
    count, height, width, channels = images.shape
    _check_factor(factor, height, width)
    if count % factor**2:
        raise ValueError(
            f"{count} images cannot be composed with factor {factor}; their number "
            f"must be a multiple of {factor**2}."
        )
    images = jnp.asarray(images, jnp.float32)
    images = images.reshape(factor, factor, -1, height, width, channels)
    rows, columns = _nearest(height, factor), _nearest(width, factor)
    mosaic = [
        jnp.concatenate(
            [images[i, j][:, y][:, :, x] for j, x in enumerate(columns)], axis=2
        )
        for i, y in enumerate(rows)
    ]
    return jnp.concatenate(mosaic, axis=1)


def decode(
    stored: jax.Array, factor: int, kind: str = "single", bound: int = 128
) -> jax.Array:
    """Forms stored images by the decoder of the given kind (see `DECODERS`).

    Args:
      stored: `[n, h, w, c]` in [0, 1].
      factor: tiles along a side.
      kind: a name in `DECODERS`.
      bound: the largest number to form, for `"bound"`.

    Returns:
      `[formed_count(n, factor, kind, bound), h, w, c]`.
    """
    return _form_plan(stored, _plan(stored.shape[0], factor, kind, bound))


DECODERS: dict[str, Callable[..., jax.Array]] = {
    "single": form,
    "multi": form_multi,
    "bound": form_bound,
}


def _plan(n: int, factor: int, decode: str, bound: int) -> list[tuple[int, int, int]]:
    """(start, stop, factor) of the parts in which stored images are formed."""
    if factor < 1:
        raise ValueError(f"The factor is {factor}; it must be at least 1.")
    if decode == "single":
        return [(0, n, factor)]
    if decode == "multi":
        return [(0, n, f) for f in range(1, factor + 1)]
    if decode != "bound":
        near = difflib.get_close_matches(decode, DECODERS, n=1, cutoff=0.0)[0]
        raise ValueError(
            f"Decoder {decode!r} is unknown; it must be one of {', '.join(DECODERS)} "
            f"(nearest: {near!r})."
        )
    if bound < n:
        raise ValueError(
            f"The bound is {bound}; it must be at least the {n} stored images."
        )
    parts, start, free = [], 0, bound - n
    for f in range(factor, 0, -1):
        size = n - start if f == 1 else min(free // f**2, n - start)
        if size:
            parts.append((start, start + size, f))
        start += size
        free -= size * (f**2 - 1)
    return parts


def _form_plan(stored, plan):
    _check_factor(max(f for _, _, f in plan), *stored.shape[1:3])
    return jnp.concatenate([form(stored[a:b], f) for a, b, f in plan])


def _check_factor(factor, height, width):
    if not 1 <= factor <= min(height, width):
        raise ValueError(
            f"The factor is {factor}; it must be at least 1 and at most the smaller "
            f"side of the {height} x {width} images."
        )


def _cut(stored, factor):
    """`[n, h, w, c]` to `[n, factor, tile h, factor, tile w, c]`."""
    n, height, width, channels = stored.shape
    tile_h, tile_w = tile_side(height, factor), tile_side(width, factor)
    end_h, end_w = factor * tile_h - height, factor * tile_w - width
    border = ((0, 0), (0, end_h), (0, end_w), (0, 0))
    padded = jnp.pad(stored, border, constant_values=_PADDING)
    return padded.reshape(n, factor, tile_h, factor, tile_w, channels)


def _enlarge(tiles, height, width):
    # XLA sees one constant matrix product for each axis, which transposes as well; a
    # hand-written pair of products is no faster.
    shape = (tiles.shape[0], height, width, tiles.shape[-1])
    return jax.image.resize(tiles, shape, "bilinear", antialias=False)


def _nearest(side, factor):
    """Pixels that each of the tiles along a side of a mosaic takes of its image."""
    size, rest = divmod(side, factor)
    sizes = [size + (k < rest) for k in range(factor)]
    return [np.arange(s) * side // s for s in sizes]

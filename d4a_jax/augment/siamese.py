"""Differentiable siamese augmentation (DSA: Zhao & Bilen 2021).

Parameters are drawn apart from their application. Applying is written once, for a
batch and one set of scalar parameters; augmenting each image differently is that
same code under `jax.vmap`.
"""

import dataclasses
import difflib
import math
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jax import lax

_FLIP_PROBABILITY = 0.5
_BRIGHTNESS = 1.0
_SATURATION = 2.0
_CONTRAST = 0.5
_CROP_SHARE = 0.125
_CUTOUT_SHARE = 0.5
_SCALE = 1.2
_ROTATE_DEGREES = 15.0

_GEOMETRIC = ("crop", "scale", "rotate")
_PARTS = ("flip", "color", *_GEOMETRIC, "cutout")

_DRAWN = (
    *("flip", "brightness", "saturation", "contrast", "choice", "rotate"),
    *("crop_y", "crop_x", "scale_y", "scale_x", "cutout_y", "cutout_x"),
)

Draw = Mapping[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class Strategy:
    """Which operations are applied; of the geometric ones, one drawn per batch."""

    flip: bool = False
    color: bool = False
    geometric: tuple[str, ...] = ()
    cutout: bool = False


def parse_strategy(strategy: str) -> Strategy:
    """Reads a strategy such as `"color_crop_cutout"`.

    Args:
      strategy: distinct parts among flip, color, crop, scale, rotate and cutout,
        joined by underscores in any order; `"none"` or `""` for no augmentation.

    Returns:
      The strategy.

    Raises:
      ValueError: where a part is unknown, naming the nearest known one, or given
        twice.
    """
    if strategy.lower() in ("", "none"):
        return Strategy()
    parts = strategy.lower().split("_")
    for part in parts:
        if part not in _PARTS:
            near = difflib.get_close_matches(part, _PARTS, n=1, cutoff=0.0)[0]
            raise ValueError(
                f"Augmentation {strategy!r} has the unknown part {part!r}; parts are "
                f"{', '.join(_PARTS)}, joined by '_' (nearest: {near!r})."
            )
        if parts.count(part) > 1:
            raise ValueError(
                f"Augmentation {strategy!r} has the part {part!r} more than once; "
                "every part may occur once."
            )
    return Strategy(
        flip="flip" in parts,
        color="color" in parts,
        geometric=tuple(name for name in _GEOMETRIC if name in parts),
        cutout="cutout" in parts,
    )


def siamese_augment(
    key: jax.Array, images: jax.Array, strategy: str, *, shared: bool
) -> jax.Array:
    """Augments images with transformations that gradients pass through.

    The order is flip, color (brightness, saturation, contrast), one of the geometric
    operations and cutout. Pixels from outside the image and those cut out are zero,
    the channel mean of normalized images.

    Args:
      key: typed key. With `shared` the transformation depends on nothing but this
        key, the strategy and the size of the images, so real and synthetic batches
        given the same key are transformed alike, as DSA requires.
      images: normalized `[n, h, w, c]`, floating point.
      strategy: see `parse_strategy`; static.
      shared: one draw for the whole batch, as matching needs, or one for each image,
        as network training does; static. The geometric operation is drawn once for
        the batch in both cases.

    Returns:
      Augmented images of the same shape and type.

    Raises:
      ValueError: from `parse_strategy`.
    """
    parsed = parse_strategy(strategy)
    count = None if shared else images.shape[0]
    draw = draw_parameters(key, parsed, images.shape[1], images.shape[2], count)
    return apply_parameters(images, parsed, draw)


def draw_parameters(
    key: jax.Array, strategy: Strategy, height: int, width: int, count: int | None
) -> Draw:
    """Draws the parameters of a strategy.

    Args:
      key: typed key. Every parameter has its own place in what is drawn, so leaving
        an operation out of the strategy changes no other.
      strategy: what to draw for.
      height: of the images.
      width: of the images.
      count: number of images to draw for, or None for one draw in scalars.

    Returns:
      Parameters by name, scalars or `[count]`; always a scalar for `choice`, the
      index of the geometric operation, which is there where several are possible.
    """
    # One call of the generator for all: it is what compiling takes longest for.
    shape = (len(_DRAWN),) + (() if count is None else (count,))
    values = jax.random.uniform(key, shape, jnp.float32)
    uniform = dict(zip(_DRAWN, values, strict=True))

    def between(name, low, high):
        return low + (high - low) * uniform[name]

    def integer(name, low, high):
        return low + (uniform[name] * (high + 1 - low)).astype(jnp.int32)

    draw = {}
    if strategy.flip:
        draw["flip"] = uniform["flip"] < _FLIP_PROBABILITY
    if strategy.color:
        draw["brightness"] = between("brightness", -0.5, 0.5) * _BRIGHTNESS
        draw["saturation"] = between("saturation", 0.0, 1.0) * _SATURATION
        draw["contrast"] = between("contrast", 0.0, 1.0) + _CONTRAST
    if len(strategy.geometric) > 1:
        # The first image's is as good as any for the batch.
        choice = integer("choice", 0, len(strategy.geometric) - 1)
        draw["choice"] = choice.reshape(-1)[0]
    for axis, side in (("y", height), ("x", width)):
        if "crop" in strategy.geometric:
            reach = _part(side, _CROP_SHARE)
            draw[f"crop_{axis}"] = integer(f"crop_{axis}", -reach, reach)
        if "scale" in strategy.geometric:
            draw[f"scale_{axis}"] = between(f"scale_{axis}", 1 / _SCALE, _SCALE)
        if strategy.cutout:
            # An even side is centered between pixels, so it has one more place.
            last = side - _part(side, _CUTOUT_SHARE) % 2
            draw[f"cutout_{axis}"] = integer(f"cutout_{axis}", 0, last)
    if "rotate" in strategy.geometric:
        limit = math.radians(_ROTATE_DEGREES)
        draw["rotate"] = between("rotate", -limit, limit)
    return draw


def apply_parameters(images: jax.Array, strategy: Strategy, draw: Draw) -> jax.Array:
    """Applies drawn parameters; `[n, h, w, c]` to the same, linear up to brightness.

    Args:
      images: `[n, h, w, c]`.
      strategy: the one that the parameters were drawn for.
      draw: from `draw_parameters`, with `count` None or n.

    Returns:
      Augmented images.
    """
    axes = {name: None if value.ndim == 0 else 0 for name, value in draw.items()}
    if set(axes.values()) <= {None}:
        return _apply(images, strategy, draw)

    # The choice of the geometric operation stays unbatched, which keeps the switch a
    # branch; with a batched index, as under an outer vmap over keys, all operations
    # are computed and one is selected.
    each = jax.vmap(lambda x, one: _apply(x[None], strategy, one)[0], (0, axes))
    return each(images, draw)


def _apply(images, strategy, draw):
    if strategy.flip:
        images = jnp.where(draw["flip"], images[:, :, ::-1], images)
    if strategy.color:
        images = _color(images, draw)
    branches = [_OPERATIONS[name] for name in strategy.geometric]
    if len(branches) == 1:
        images = branches[0](images, draw)
    elif branches:
        images = lax.switch(draw["choice"], branches, images, draw)
    return _cutout(images, draw) if strategy.cutout else images


def _color(images, draw):
    """Brightness, saturation, contrast in this order, as one affine map.

    Saturation leaves the mean over channels as it is, so both means are known before:
    a single pass over the images, several times faster than three in turn.
    """
    brightness, saturation, contrast = (
        draw[name].astype(images.dtype)
        for name in ("brightness", "saturation", "contrast")
    )
    gray = images.mean(axis=3, keepdims=True)
    mean = gray.mean(axis=(1, 2, 3), keepdims=True)
    rest = contrast * (1 - saturation) * gray + (1 - contrast) * mean + brightness
    return contrast * saturation * images + rest


def _part(side: int, share: float) -> int:
    return int(side * share + 0.5)


def _crop(images, draw):
    """Shifts by whole pixels: the pixel at (i, j) comes from (i + y, j + x)."""
    _, height, width, _ = images.shape
    pad_y, pad_x = _part(height, _CROP_SHARE), _part(width, _CROP_SHARE)
    padded = jnp.pad(images, ((0, 0), (pad_y, pad_y), (pad_x, pad_x), (0, 0)))
    zero = jnp.zeros_like(draw["crop_y"])
    start = (zero, draw["crop_y"] + pad_y, draw["crop_x"] + pad_x, zero)
    return lax.dynamic_slice(padded, start, images.shape)


def _scale(images, draw):
    """Samples at coordinates scaled about the center; a factor above 1 shrinks.

    Separable, hence one small matrix for each axis: its product is as cheap forward
    as transposed, where a gather transposes into a scatter.
    """
    _, height, width, _ = images.shape
    rows = _scale_matrix(height, draw["scale_y"]).astype(images.dtype)
    columns = _scale_matrix(width, draw["scale_x"]).astype(images.dtype)
    # Accelerators round the factors of a default-precision product.
    exact = lax.Precision.HIGHEST
    images = jnp.einsum("ip,npqc->niqc", rows, images, precision=exact)
    return jnp.einsum("jq,niqc->nijc", columns, images, precision=exact)


def _scale_matrix(side, factor):
    """`[side, side]` weights of linear interpolation, zero outside the image."""
    pixels = jnp.arange(side)
    center = (side - 1) / 2
    source = factor * (pixels - center) + center
    return jnp.maximum(0.0, 1.0 - jnp.abs(source[:, None] - pixels))


def _rotate(images, draw):
    """Bilinear sampling at rotated coordinates.

    They run from -1 to 1 along both axes, as in the field's affine grids, so images
    whose sides differ are also sheared.
    """
    n, height, width, channels = images.shape
    cos, sin = jnp.cos(draw["rotate"]), jnp.sin(draw["rotate"])
    v = ((2 * jnp.arange(height) + 1) / height - 1)[:, None]
    u = (2 * jnp.arange(width) + 1) / width - 1
    y = ((sin * u + cos * v + 1) * height - 1) / 2
    x = ((cos * u - sin * v + 1) * width - 1) / 2
    flat = images.reshape(n, height * width, channels)
    result = jnp.zeros_like(images)
    for row in (jnp.floor(y), jnp.floor(y) + 1):
        for column in (jnp.floor(x), jnp.floor(x) + 1):
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            weight = (1 - jnp.abs(y - row)) * (1 - jnp.abs(x - column))
            weight = jnp.where(inside, weight, 0).astype(images.dtype)
            index = jnp.where(inside, row * width + column, 0).astype(jnp.int32)
            result += weight[..., None] * jnp.take(flat, index, 1, mode="clip")
    return result


def _cutout(images, draw):
    """Zeroes a rectangle of half the sides, less of it where it reaches outside."""
    _, height, width, _ = images.shape

    def covered(side, offset):
        size = _part(side, _CUTOUT_SHARE)
        position = jnp.arange(side) - (offset - size // 2)
        return (position >= 0) & (position < size)

    rows = covered(height, draw["cutout_y"])
    columns = covered(width, draw["cutout_x"])
    hole = rows[:, None, None] & columns[:, None]
    return jnp.where(hole, jnp.zeros((), images.dtype), images)


_OPERATIONS = {"crop": _crop, "scale": _scale, "rotate": _rotate}

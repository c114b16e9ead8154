"""Convolutions of several batches of images, each with a kernel of its own.

XLA has no convolution whose kernel has a batch axis, and `jax.vmap` makes a grouped one
in its place, which is slow on GPUs and CPUs alike. Here it is written as one batched
matrix product over stacked patches. A product for every kernel position would need no
patches, but reads and writes its sums nine times for a kernel of 3 x 3.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

# The gradient of images with at most this many channels is computed from products that
# hold all kernel positions: they are smaller than patches of the output's channels.
_FEW_CHANNELS = 16


def shifted(
    images: jax.Array,
    kernel: tuple[int, int],
    sides: tuple[int, int],
    stride: int,
    padding: tuple[int, int],
) -> list[jax.Array]:
    """What each position of a kernel meets, in the order of the flattened kernel.

    Args:
      images: `[..., h, w, c]`.
      kernel: its height and width.
      sides: height and width of the convolution's output.
      stride: step in both directions.
      padding: zeros on each side of the height and of the width; negative to cut off.

    Returns:
      For every position `[..., *sides, c]`.
    """
    border = [(0, 0, 0)] * images.ndim
    border[-3:-1] = ((p, p, 0) for p in padding)
    padded = lax.pad(images, jnp.zeros((), images.dtype), border)

    def cut(start, axis):
        stop = start + stride * (sides[axis] - 1) + 1
        return slice(start, stop, stride)

    return [
        padded[..., cut(i, 0), cut(j, 1), :]
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def forward(
    images: jax.Array, kernels: jax.Array, stride: int, padding: int
) -> jax.Array:
    """Convolves every batch with its kernel.

    Args:
      images: `[b, n, h, w, c_in]`.
      kernels: `[b, kh, kw, c_in, c_out]`.
      stride: as in `conv2d`.
      padding: as in `conv2d`.

    Returns:
      `[b, n, h', w', c_out]`.
    """
    size = kernels.shape[1:3]
    sides = tuple(
        (side + 2 * padding - k) // stride + 1
        for side, k in zip(images.shape[2:4], size)
    )
    return _convolve(images, kernels, sides, stride, (padding, padding))


def _convolve(images, kernels, sides, stride, padding):
    b, kh, kw, _, c_out = kernels.shape
    patches = _patches(images, (kh, kw), sides, stride, padding)
    total = _product(patches, kernels.reshape(b, -1, c_out), contracted=1)
    return total.astype(images.dtype)


def _patches(*where):
    """What `shifted` returns, stacked along the channels."""
    return jnp.concatenate(shifted(*where), axis=-1)


def input_gradient(
    cotangents: jax.Array,
    kernels: jax.Array,
    sides: tuple[int, int],
    stride: int,
    padding: int,
) -> jax.Array:
    """The gradient of `forward` with respect to the images.

    Args:
      cotangents: `[b, n, h', w', c_out]`.
      kernels: `[b, kh, kw, c_in, c_out]`.
      sides: h and w of the images.
      stride: as in `conv2d`.
      padding: as in `conv2d`.

    Returns:
      `[b, n, h, w, c_in]`.
    """
    _, kh, kw, c_in, _ = kernels.shape
    if stride == 1 and c_in > _FEW_CHANNELS:
        turned = kernels[:, ::-1, ::-1].swapaxes(3, 4)
        border = (kh - 1 - padding, kw - 1 - padding)
        return _convolve(cotangents, turned, sides, 1, border)
    # One product for all positions, of which each goes to its place in the images: no
    # multiplications by the zeros that a stride puts between the cotangents.
    products = _product(cotangents, kernels, contracted=4)
    total = sum(
        _placed(products[..., i, j, :], (i - padding, j - padding), sides, stride)
        for i in range(kh)
        for j in range(kw)
    )
    return total.astype(cotangents.dtype)


def kernel_gradient(
    images: jax.Array,
    cotangents: jax.Array,
    size: tuple[int, int],
    stride: int,
    padding: int,
) -> jax.Array:
    """The gradient of `forward` with respect to the kernels.

    Args:
      images: `[b, n, h, w, c_in]`.
      cotangents: `[b, n, h', w', c_out]`.
      size: kh and kw.
      stride: as in `conv2d`.
      padding: as in `conv2d`.

    Returns:
      `[b, kh, kw, c_in, c_out]`.
    """
    sides, borders = cotangents.shape[2:4], (padding, padding)
    places = (1, 2, 3)
    gradient = lax.dot_general(
        _patches(images, size, sides, stride, borders),
        cotangents,
        ((places, places), ((0,), (0,))),
        preferred_element_type=jnp.promote_types(images.dtype, jnp.float32),
    )
    shape = (len(images), *size, images.shape[-1], cotangents.shape[-1])
    return gradient.reshape(shape).astype(images.dtype)


def _product(rows, columns, contracted):
    """`[b, n, h, w, c]` times `[b, ...]` over c, which is axis `contracted` there."""
    return lax.dot_general(
        rows,
        columns,
        (((4,), (contracted,)), ((0,), (0,))),
        preferred_element_type=jnp.promote_types(rows.dtype, jnp.float32),
    )


def _placed(
    part: jax.Array, start: Sequence[int], sides: Sequence[int], stride: int
) -> jax.Array:
    """Spreads `[b, n, h', w', c]` over zeros `[b, n, *sides, c]` from `start` on."""

    def spread(axis):
        last = start[axis] + stride * (part.shape[2 + axis] - 1)
        return start[axis], sides[axis] - 1 - last, stride - 1

    keep = (0, 0, 0)
    config = (keep, keep, spread(0), spread(1), keep)
    return lax.pad(part, jnp.zeros((), part.dtype), config)

"""The three operations with one kernel, in the form for accelerators and that for CPUs.

`images` are `[n, h, w, c_in]`, a `kernel` is `[kh, kw, c_in, c_out]`, and a `cotangent`
is shaped as the convolution's output, `[n, h', w', c_out]`.
"""

import jax
import jax.numpy as jnp
from jax import lax

from d4a_jax.convolution.batched import shifted

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# Up to this many input channels the stacked patches stay small and one product
# over them beats kh * kw thin ones (43 against 14 GFLOP/s at 3 channels, 48 against 67
# at 128).
_FEW_CHANNELS = 16

# Images have at most this many channels, too few for a convolution to do well.
_IMAGE_CHANNELS = 4

# Bytes of the cotangent that stay in the cache of a CPU while a chunk of images is
# worked on.
_CHUNK_BYTES = 2**19


def forward(
    images: jax.Array, kernel: jax.Array, *, stride: int, padding: int
) -> jax.Array:
    """The convolution."""
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=_LAYOUT,
    )


def input_gradient(
    cotangent: jax.Array,
    kernel: jax.Array,
    *,
    sides: tuple[int, int],
    stride: int,
    padding: int,
) -> jax.Array:
    """An ordinary convolution with the flipped kernel; `sides` are h and w."""

    def pads(side, out, k):
        low = k - 1 - padding
        return low, side - stride * (out - 1) - 1 + padding

    (height, width), (kh, kw, _, _) = sides, kernel.shape
    return lax.conv_general_dilated(
        cotangent,
        kernel[::-1, ::-1].transpose(0, 1, 3, 2),
        (1, 1),
        (
            pads(height, cotangent.shape[1], kh),
            pads(width, cotangent.shape[2], kw),
        ),
        lhs_dilation=(stride, stride),
        dimension_numbers=_LAYOUT,
    )


def kernel_gradient(
    images: jax.Array,
    cotangent: jax.Array,
    *,
    size: tuple[int, int],
    stride: int,
    padding: int,
) -> jax.Array:
    """XLA's own, which compilers for accelerators know; `size` is kh and kw."""
    shape = (*size, images.shape[-1], cotangent.shape[-1])
    of_kernel = lambda kernel: forward(images, kernel, stride=stride, padding=padding)
    kernel = jax.ShapeDtypeStruct(shape, images.dtype)
    return jax.linear_transpose(of_kernel, kernel)(cotangent)[0]


def input_gradient_on_cpu(
    cotangent: jax.Array,
    kernel: jax.Array,
    *,
    sides: tuple[int, int],
    stride: int,
    padding: int,
) -> jax.Array:
    """For images with few channels, one matrix product whose planes are added up.

    A plane belongs to a kernel position and channel, and is added where that position
    has met the images.
    """
    kh, kw, c_in, c_out = kernel.shape
    if stride > 1 or c_in > _IMAGE_CHANNELS:
        return input_gradient(
            cotangent, kernel, sides=sides, stride=stride, padding=padding
        )
    planes = lax.dot_general(
        kernel.reshape(-1, c_out),
        cotangent.reshape(-1, c_out),
        (((1,), (1,)), ((), ())),
    ).reshape(kh, kw, c_in, *cotangent.shape[:3])
    placed = [
        jnp.pad(planes[i, j], ((0, 0), (0, 0), (i, kh - 1 - i), (j, kw - 1 - j)))
        for i in range(kh)
        for j in range(kw)
    ]
    inside = (slice(padding, padding + side) for side in sides)
    return sum(placed[1:], placed[0])[:, :, *inside].transpose(1, 2, 3, 0)


def kernel_gradient_on_cpu(
    images: jax.Array,
    cotangent: jax.Array,
    *,
    size: tuple[int, int],
    stride: int,
    padding: int,
) -> jax.Array:
    """A convolution with channels as batch and images as channels, chunk by chunk.

    Only without a stride, and with more than a few channels; matrix products otherwise.
    """
    if stride > 1 or images.shape[-1] <= _FEW_CHANNELS:
        return _kernel_gradient_by_products(images, cotangent, size, stride, padding)
    parts = [_in_chunks(x, cotangent) for x in (images, cotangent)]
    dtype = jnp.promote_types(images.dtype, jnp.float32)
    shape = (images.shape[-1], *size, cotangent.shape[-1])

    def add(total, part):
        x, g = part
        exchanged = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
        found = forward(*exchanged, stride=1, padding=padding)
        return total + found.astype(dtype), None

    total, _ = lax.scan(add, jnp.zeros(shape, dtype), tuple(parts))
    return total.transpose(1, 2, 0, 3).astype(images.dtype)


def _kernel_gradient_by_products(images, cotangent, size, stride, padding):
    """One over stacked patches of few channels, or one for every kernel position."""
    c_in, c_out = images.shape[-1], cotangent.shape[-1]
    patches = shifted(images, size, cotangent.shape[1:3], stride, (padding, padding))
    columns = cotangent.reshape(-1, c_out)

    def product(patch):
        rows = patch.reshape(-1, patch.shape[-1])
        return lax.dot_general(
            rows,
            columns,
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.promote_types(rows.dtype, jnp.float32),
        )

    if c_in <= _FEW_CHANNELS:
        gradient = product(jnp.concatenate(patches, axis=-1))
    else:
        gradient = jnp.stack([product(patch) for patch in patches])
    return gradient.reshape(*size, c_in, c_out).astype(images.dtype)


def _in_chunks(array, cotangent):
    """Equal chunks `[chunks, n', ...]`, the last one filled up with zeros."""
    count = len(array)
    of_one = cotangent.size // count * cotangent.dtype.itemsize
    chunks = -(-count * of_one // _CHUNK_BYTES)
    size = -(-count // chunks)
    chunks = -(-count // size)
    filled = jnp.pad(array, ((0, chunks * size - count), *((0, 0),) * 3))
    return filled.reshape(chunks, size, *array.shape[1:])

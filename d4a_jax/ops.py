"""Operations whose gradients are written in the forms that run fast.

XLA's own gradient of a convolution exchanges the batch and feature dimensions.
On CPU, inside `lax.scan` or `lax.map`, that form misses the optimized kernels and
is up to seventy times slower; under `jax.vmap` over classes it becomes a grouped
convolution. Here

* the input gradient is an ordinary NHWC convolution with the flipped kernel, or, of
  images with few channels on a CPU, one matrix product whose planes are added up, and
* the kernel gradient is a sum of matrix products, one per kernel position (or a single
  one over stacked patches when there are few input channels); on a CPU it is an
  ordinary NHWC convolution of explicitly exchanged arrays, chunk by chunk.

The rules are plain differentiable code, so forward-mode differentiation of a
gradient (`jax.jvp` of `jax.grad`), which gradient matching needs, works and only
ever meets these same forms. What was measured is in `RESULTS.md`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax

_LAYOUT = ("NHWC", "HWIO", "NHWC")

# Up to this many input channels the stacked patches stay small and one product
# over them beats kh * kw thin ones (measured on CPU: 43 against 14 GFLOP/s at 3
# channels, 48 against 67 at 128).
_FEW_CHANNELS = 16

# Images have at most this many channels, too few for a convolution to compute them well.
_IMAGE_CHANNELS = 4

# Bytes of the output's gradient that stay in the cache of a CPU while a chunk of images
# is worked on.
_CHUNK_BYTES = 2**19


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv2d(
    images: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0
) -> jax.Array:
    """Two-dimensional convolution with symmetric zero padding.

    Args:
      images: `[n, h, w, c_in]`.
      kernel: `[kh, kw, c_in, c_out]`.
      stride: step in both directions, at least 1.
      padding: zeros added on each side of both spatial dimensions.

    Returns:
      `[n, h', w', c_out]` with `h' = (h + 2 padding - kh) // stride + 1`.
    """
    return _forward(images, kernel, stride, padding)


def _forward(images, kernel, stride, padding):
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=_LAYOUT,
    )


def _conv2d_fwd(images, kernel, stride, padding):
    return _forward(images, kernel, stride, padding), (images, kernel)


def _conv2d_bwd(stride, padding, residuals, cotangent):
    images, kernel = residuals
    return (
        _input_gradient(cotangent, kernel, images.shape, stride, padding),
        _kernel_gradient(images, cotangent, kernel.shape, stride, padding),
    )


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


def _on_cpu():
    return jax.default_backend() == "cpu"


def _input_gradient(cotangent, kernel, image_shape, stride, padding):
    if _on_cpu() and stride == 1 and kernel.shape[2] <= _IMAGE_CHANNELS:
        return _sum_of_planes(cotangent, kernel, image_shape, padding)

    def pads(side, out, k):
        low = k - 1 - padding
        return low, side - stride * (out - 1) - 1 + padding

    (_, height, width, _), (kh, kw, _, _) = image_shape, kernel.shape
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


def _sum_of_planes(cotangent, kernel, image_shape, padding):
    """The input gradient as one matrix product: a plane per kernel position and channel.

    Each plane is added where its position of the kernel has met the images.
    """
    kh, kw, c_in, c_out = kernel.shape
    (n, height, width, _), (_, out_h, out_w, _) = image_shape, cotangent.shape
    planes = lax.dot_general(
        kernel.reshape(-1, c_out),
        cotangent.reshape(-1, c_out),
        (((1,), (1,)), ((), ())),
    ).reshape(kh, kw, c_in, n, out_h, out_w)
    placed = [
        jnp.pad(
            planes[i, j],
            ((0, 0), (0, 0), (i, kh - 1 - i), (j, kw - 1 - j)),
        )
        for i in range(kh)
        for j in range(kw)
    ]
    inside = (slice(padding, padding + height), slice(padding, padding + width))
    return sum(placed[1:], placed[0])[:, :, *inside].transpose(1, 2, 3, 0)


def _kernel_gradient(images, cotangent, kernel_shape, stride, padding):
    kh, kw, c_in, c_out = kernel_shape
    if _on_cpu() and stride == 1 and c_in > _FEW_CHANNELS:
        return _exchanged_convolution(images, cotangent, kernel_shape, padding)
    _, out_h, out_w, _ = cotangent.shape
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = jnp.pad(images, border)
    shifted = [
        padded[
            :,
            i : i + stride * (out_h - 1) + 1 : stride,
            j : j + stride * (out_w - 1) + 1 : stride,
        ]
        for i in range(kh)
        for j in range(kw)
    ]
    columns = cotangent.reshape(-1, c_out)

    def product(patches):
        rows = patches.reshape(-1, patches.shape[-1])
        return lax.dot_general(
            rows,
            columns,
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.promote_types(rows.dtype, jnp.float32),
        )

    if c_in <= _FEW_CHANNELS:
        gradient = product(jnp.concatenate(shifted, axis=-1))
    else:
        gradient = jnp.stack([product(patches) for patches in shifted])
    return gradient.reshape(kernel_shape).astype(images.dtype)


def _exchanged_convolution(images, cotangent, kernel_shape, padding):
    """The kernel gradient, stride 1, with channels as batch and images as channels."""
    count, size = len(images), cotangent[0].size * cotangent.dtype.itemsize
    chunks = -(-count * size // _CHUNK_BYTES)
    chunk = -(-count // chunks)
    chunks = -(-count // chunk)

    def divided(array):
        fill = ((0, chunks * chunk - count), *((0, 0),) * 3)
        return jnp.pad(array, fill).reshape(chunks, chunk, *array.shape[1:])

    def add(total, part):
        x, g = part
        exchanged = _forward(
            x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3), 1, padding
        )
        return total + exchanged.astype(total.dtype), None

    zeros = jnp.zeros(
        (kernel_shape[2], *kernel_shape[:2], kernel_shape[3]),
        jnp.promote_types(images.dtype, jnp.float32),
    )
    total, _ = lax.scan(add, zeros, (divided(images), divided(cotangent)))
    return total.transpose(1, 2, 0, 3).astype(images.dtype)


def relu_avg_pool(images: jax.Array) -> jax.Array:
    """Average over 2 x 2 windows of max(0, images), `[n, h, w, c]` to half the sides.

    An odd last row or column is dropped. On CPU its gradient is two to four times
    faster than that of a ReLU followed by a pooling.
    """
    _, height, width, _ = images.shape
    return _relu_avg_pool(images[:, : height // 2 * 2, : width // 2 * 2])


@jax.custom_vjp
def _relu_avg_pool(images):
    return _pooled(images)


def _pooled(images):
    x = jax.nn.relu(images)
    rows = x[:, ::2] + x[:, 1::2]
    return (rows[:, :, ::2] + rows[:, :, 1::2]) * 0.25


def _pool_fwd(images):
    return _pooled(images), images


def _pool_bwd(images, cotangent):
    n, height, width, c = images.shape
    windows = (n, height // 2, 2, width // 2, 2, c)
    spread = jnp.broadcast_to(cotangent[:, :, None, :, None] * 0.25, windows)
    return (jnp.where(images > 0, spread.reshape(images.shape), 0),)


_relu_avg_pool.defvjp(_pool_fwd, _pool_bwd)

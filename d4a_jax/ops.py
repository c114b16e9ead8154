"""Operations whose gradients are written in the forms that run fast.

XLA's own gradient of a convolution exchanges the batch and feature dimensions.
On CPU, inside `lax.scan` or `lax.map`, that form misses the optimized kernels and
is up to seventy times slower; under `jax.vmap` over classes it becomes a grouped
convolution. Here

* the input gradient is an ordinary NHWC convolution with the flipped kernel, and
* the kernel gradient is a sum of matrix products, one per kernel position (or a
  single one over stacked patches when there are few input channels).

The convolution and its input gradient are primitives of their own, linear in both
operands, and each is differentiated in terms of the other and of the kernel gradient.
So forward-mode differentiation of a gradient (`jax.jvp` of `jax.grad`), which gradient
matching needs, and derivatives of higher order only ever meet these same forms. Their
rules for `jax.vmap` make no grouped convolutions: images that share a kernel become
one batch, and images with a kernel for each batch are left to `batched_conv`.
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from d4a_jax import batched_conv

_LAYOUT = ("NHWC", "HWIO", "NHWC")

_forward_p = Primitive("conv2d")
_input_gradient_p = Primitive("conv2d_input_gradient")


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
    return _forward_p.bind(images, kernel, stride=stride, padding=padding)


def _conv2d_fwd(images, kernel, stride, padding):
    out = _forward_p.bind(images, kernel, stride=stride, padding=padding)
    return out, (images, kernel)


def _conv2d_bwd(stride, padding, residuals, cotangent):
    images, kernel = residuals
    steps = {"stride": stride, "padding": padding}
    by_images = _input_gradient_p.bind(
        cotangent, kernel, sides=images.shape[1:3], **steps
    )
    return by_images, _kernel_gradient(images, cotangent, kernel.shape, **steps)


conv2d.defvjp(_conv2d_fwd, _conv2d_bwd)


def _forward(images, kernel, *, stride, padding):
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        ((padding, padding), (padding, padding)),
        dimension_numbers=_LAYOUT,
    )


def _input_gradient(cotangent, kernel, *, sides, stride, padding):
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


def _kernel_gradient(images, cotangent, kernel_shape, stride, padding):
    kh, kw, c_in, c_out = kernel_shape
    shifted = batched_conv.shifted(
        images, (kh, kw), cotangent.shape[1:3], stride, (padding, padding)
    )
    columns = cotangent.reshape(-1, c_out)

    def product(patches):
        rows = patches.reshape(-1, patches.shape[-1])
        return lax.dot_general(
            rows,
            columns,
            (((0,), (0,)), ((), ())),
            preferred_element_type=jnp.promote_types(rows.dtype, jnp.float32),
        )

    if c_in <= batched_conv.FEW_CHANNELS:
        gradient = product(jnp.concatenate(shifted, axis=-1))
    else:
        gradient = jnp.stack([product(patches) for patches in shifted])
    return gradient.reshape(kernel_shape).astype(images.dtype)


def _forward_by_images(cotangent, images, kernel, **steps):
    sides = images.aval.shape[1:3]
    return _input_gradient_p.bind(cotangent, kernel, sides=sides, **steps)


def _forward_by_kernel(cotangent, images, kernel, **steps):
    return _kernel_gradient(images, cotangent, kernel.aval.shape, **steps)


# The input gradient of d is the adjoint of the convolution x -> x * k. So <d', x> of
# its result d' is <d, x * k>, whose derivatives are these.
def _input_gradient_by_cotangent(images, cotangent, kernel, *, sides, **steps):
    del cotangent, sides
    return _forward_p.bind(images, kernel, **steps)


def _input_gradient_by_kernel(images, cotangent, kernel, *, sides, **steps):
    del sides
    return _kernel_gradient(images, cotangent, kernel.aval.shape, **steps)


def _vmapped(primitive, channels, operands, axes, **params):
    """Several convolutions at once: never a grouped one.

    Args:
      primitive: `_forward_p` or `_input_gradient_p`.
      channels: axis of the kernel that the results' channels come from.
      operands: images (or cotangents) and kernel.
      axes: of the operands along which they are stacked; None for a shared one.
      **params: parameters of the primitive.

    Returns:
      The results and the axis along which they are stacked.
    """
    images, kernels = (
        x if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes)
    )
    if None not in axes:
        forward = primitive is _forward_p
        each = batched_conv.forward if forward else batched_conv.input_gradient
        return each(images, kernels, **params), 0
    if axes[1] is None:  # As one batch.
        count, n = images.shape[:2]
        merged = images.reshape(count * n, *images.shape[2:])
        out = primitive.bind(merged, kernels, **params)
        return out.reshape(count, n, *out.shape[1:]), 0
    # As one kernel with more channels.
    count, size = len(kernels), kernels.shape[1 + channels]
    moved = jnp.moveaxis(kernels, 0, channels)
    shape = moved.shape[:channels] + (-1,) + moved.shape[channels + 2 :]
    out = primitive.bind(images, moved.reshape(shape), **params)
    return out.reshape(*out.shape[:-1], count, size), out.ndim - 1


def _define(primitive, function, by_first, by_second, channels):
    """Gives a primitive that is linear in both operands its rules."""

    def abstract(*operands, **params):
        result = jax.eval_shape(functools.partial(function, **params), *operands)
        return jax.core.ShapedArray(result.shape, result.dtype)

    primitive.def_impl(function)
    primitive.def_abstract_eval(abstract)
    mlir.register_lowering(primitive, mlir.lower_fun(function, multiple_results=False))
    ad.defbilinear(primitive, by_first, by_second)
    batching.primitive_batchers[primitive] = functools.partial(
        _vmapped, primitive, channels
    )


_define(_forward_p, _forward, _forward_by_images, _forward_by_kernel, 3)
_define(
    _input_gradient_p,
    _input_gradient,
    _input_gradient_by_cotangent,
    _input_gradient_by_kernel,
    2,
)


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

"""The three operations as primitives: how they are differentiated, batched, compiled.

With a convolution x * k, its input gradient I(d, k) and its kernel gradient K(x, d),

    <d, x * k> = <I(d, k), x> = <K(x, d), k>

for all x, k and d. So each is bilinear, and is transposed in terms of the others.
"""

import functools

import jax
from jax import numpy as jnp
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from d4a_jax.convolution import batched, forms

_forward_p = Primitive("conv2d")
_input_gradient_p = Primitive("conv2d_input_gradient")
_kernel_gradient_p = Primitive("conv2d_kernel_gradient")


def forward(
    images: jax.Array, kernel: jax.Array, stride: int, padding: int
) -> jax.Array:
    """The convolution; see `conv2d`."""
    return _forward_p.bind(images, kernel, stride=stride, padding=padding)


def _input_gradient(images, cotangent, kernel, stride, padding):
    steps = {"stride": stride, "padding": padding}
    return _input_gradient_p.bind(
        cotangent, kernel, sides=images.aval.shape[1:3], **steps
    )


def _kernel_gradient(kernel, images, cotangent, stride, padding):
    steps = {"stride": stride, "padding": padding}
    return _kernel_gradient_p.bind(
        images, cotangent, size=kernel.aval.shape[:2], **steps
    )


# Transposes: the first argument stands for the result's cotangent, and the operand that
# is looked for is known by its shape alone.
def _forward_by_images(out, images, kernel, **steps):
    return _input_gradient(images, out, kernel, **steps)


def _forward_by_kernel(out, images, kernel, **steps):
    return _kernel_gradient(kernel, images, out, **steps)


def _input_gradient_by_cotangent(out, cotangent, kernel, *, sides, **steps):
    del cotangent, sides
    return forward(out, kernel, **steps)


def _input_gradient_by_kernel(out, cotangent, kernel, *, sides, **steps):
    del sides
    return _kernel_gradient(kernel, out, cotangent, **steps)


def _kernel_gradient_by_images(out, images, cotangent, *, size, **steps):
    del size
    return _input_gradient(images, cotangent, out, **steps)


def _kernel_gradient_by_cotangent(out, images, cotangent, *, size, **steps):
    del cotangent, size
    return forward(images, out, **steps)


def _vmapped(primitive, channels, operands, axes, **params):
    """Several convolutions or input gradients at once: never a grouped one.

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
        is_forward = primitive is _forward_p
        each = batched.forward if is_forward else batched.input_gradient
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


def _vmapped_kernel_gradient(operands, axes, **params):
    """Several kernel gradients at once: never a grouped convolution."""
    images, cotangents = (
        x if axis is None else jnp.moveaxis(x, axis, 0)
        for x, axis in zip(operands, axes)
    )
    if None not in axes:
        return batched.kernel_gradient(images, cotangents, **params), 0
    # As one kernel with more channels, of the output or of the input.
    if axes[0] is None:
        cotangents = jnp.moveaxis(cotangents, 0, -2)
        count, shape = cotangents.shape[-2], cotangents.shape[:-2]
        out = _kernel_gradient_p.bind(images, cotangents.reshape(*shape, -1), **params)
        return out.reshape(*out.shape[:3], count, -1), 3
    images = jnp.moveaxis(images, 0, -2)
    count, shape = images.shape[-2], images.shape[:-2]
    out = _kernel_gradient_p.bind(images.reshape(*shape, -1), cotangents, **params)
    return out.reshape(*out.shape[:2], count, -1, out.shape[-1]), 2


def _define(primitive, form, on_cpu, by_first, by_second, vmapped):
    """Gives a primitive that is linear in both operands its rules."""

    def abstract(*operands, **params):
        result = jax.eval_shape(functools.partial(form, **params), *operands)
        return jax.core.ShapedArray(result.shape, result.dtype)

    @functools.partial(jax.jit, static_argnames="params")
    def compiled(*operands, params):
        return primitive.bind(*operands, **dict(params))

    primitive.def_impl(lambda *x, **params: compiled(*x, params=tuple(params.items())))
    primitive.def_abstract_eval(abstract)
    for function, platform in ((form, None), (on_cpu, "cpu")):
        lowering = mlir.lower_fun(function, multiple_results=False)
        mlir.register_lowering(primitive, lowering, platform=platform)
    ad.defbilinear(primitive, by_first, by_second)
    batching.primitive_batchers[primitive] = vmapped


_define(
    _forward_p,
    forms.forward,
    forms.forward,
    _forward_by_images,
    _forward_by_kernel,
    functools.partial(_vmapped, _forward_p, 3),
)
_define(
    _input_gradient_p,
    forms.input_gradient,
    forms.input_gradient_on_cpu,
    _input_gradient_by_cotangent,
    _input_gradient_by_kernel,
    functools.partial(_vmapped, _input_gradient_p, 2),
)
_define(
    _kernel_gradient_p,
    forms.kernel_gradient,
    forms.kernel_gradient_on_cpu,
    _kernel_gradient_by_images,
    _kernel_gradient_by_cotangent,
    _vmapped_kernel_gradient,
)

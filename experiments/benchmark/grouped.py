"""The form that `jax.vmap` gives convolutions with kernels of their own, to compare."""

import contextlib
from collections.abc import Iterator

import jax
from jax import lax

from d4a_jax.convolution import batched


@contextlib.contextmanager
def grouped_convolutions() -> Iterator[None]:
    """Programs traced here get grouped convolutions for `convolution.batched`'s."""
    names = ("forward", "input_gradient", "kernel_gradient")
    own = {name: getattr(batched, name) for name in names}
    grouped = (_forward, _input_gradient, _kernel_gradient)
    try:
        for name, function in zip(names, grouped):
            setattr(batched, name, function)
        yield
    finally:
        for name, function in own.items():
            setattr(batched, name, function)


def _forward(images, kernels, stride, padding):
    def one(x, kernel):
        return lax.conv_general_dilated(
            x,
            kernel,
            (stride, stride),
            ((padding, padding), (padding, padding)),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    return jax.vmap(one)(images, kernels)


def _input_gradient(cotangents, kernels, sides, stride, padding):
    shape = (*cotangents.shape[:2], *sides, kernels.shape[3])
    images = jax.ShapeDtypeStruct(shape, cotangents.dtype)
    forward = lambda x: _forward(x, kernels, stride, padding)
    return jax.linear_transpose(forward, images)(cotangents)[0]


def _kernel_gradient(images, cotangents, size, stride, padding):
    shape = (len(images), *size, images.shape[-1], cotangents.shape[-1])
    kernels = jax.ShapeDtypeStruct(shape, images.dtype)
    forward = lambda kernels: _forward(images, kernels, stride, padding)
    return jax.linear_transpose(forward, kernels)(cotangents)[0]

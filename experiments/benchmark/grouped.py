"""The form that `jax.vmap` gives convolutions with kernels of their own, to compare."""

import contextlib
from collections.abc import Iterator

import jax
from jax import lax

from d4a_jax.convolution import batched


@contextlib.contextmanager
def grouped_convolutions() -> Iterator[None]:
    """Programs traced here get grouped convolutions for `convolution.batched`'s."""
    own = batched.forward, batched.input_gradient
    batched.forward, batched.input_gradient = _forward, _input_gradient
    try:
        yield
    finally:
        batched.forward, batched.input_gradient = own


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

"""The convolution, with derivatives in the forms that run fast.

XLA's own gradient of a convolution exchanges the batch and feature dimensions. On CPU,
inside `lax.scan` or `lax.map`, that form misses the optimized kernels and is up to
seventy times slower; under `jax.vmap` over classes it becomes a grouped convolution.

Here the convolution, its input gradient and its kernel gradient are three operations of
their own, each linear in both operands and differentiated in terms of the other two
(`primitives`). So forward-mode differentiation of a gradient (`jax.jvp` of `jax.grad`),
which gradient matching needs, and derivatives of any order only ever meet these three,
each in the form that is fast on the device (`forms`), and under `jax.vmap` without
grouped convolutions (`batched`). What was measured is in `RESULTS.md`.
"""

import jax

from d4a_jax.convolution import primitives


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
    return primitives.forward(images, kernel, stride, padding)

"""Building blocks shared by every network: convolution, norms, pooling, heads.

Parameters are float32 and are cast to the compute ``dtype`` where they are used;
normalization statistics are at least float32. Leaves are named so that a parameter's
role can be read from its path: convolution kernels are 4-D ``kernel`` leaves
``[kh, kw, c_in, c_out]``, linear kernels 2-D ``kernel`` leaves (the last one lies in
the module ``classifier``), and norms hold ``scale`` and ``bias``.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from d4a_jax.convolution import conv2d
from d4a_jax.networks.pooling import relu_avg_pool

# PyTorch's default for linear and convolution kernels, U(-b, b), b = fan_in ** -0.5.
fan_in_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
# He et al. (2015) in the fan_out form that residual networks use.
he_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# Momentum 0.9 on the running statistics is what PyTorch calls momentum 0.1. The running
# variance is the biased one.
EPSILON = 1e-5  # Added to variances, as in PyTorch.
BATCH_NORM_MOMENTUM = 0.9
BatchNorm = partial(nn.BatchNorm, momentum=BATCH_NORM_MOMENTUM, epsilon=EPSILON)

GROUPS = 4  # Of group norm, as the field has it.


def _bias_uniform(fan_in: int):
    """PyTorch's default for biases: U(-b, b) with b = fan_in ** -0.5."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def at_least_float32(dtype: Any) -> Any:
    """The dtype of statistics and logits: float32, or float64 for float64."""
    return jnp.promote_types(dtype, jnp.float32)


class Conv(nn.Module):
    """2-D convolution with a square kernel and zero padding on every side.

    Attributes:
        use_bias: Whether a bias parameter exists.
        add_bias: Whether an existing bias is added; False keeps it in the tree only.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    padding: int = 1
    use_bias: bool = True
    add_bias: bool = True
    kernel_init: Any = fan_in_uniform
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, h, w, c]` to `[n, h', w', features]`."""
        shape = (self.kernel, self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        y = conv2d(
            x.astype(self.dtype), kernel.astype(self.dtype), self.stride, self.padding
        )
        if self.use_bias:
            fan_in = self.kernel**2 * x.shape[-1]
            bias = self.param("bias", _bias_uniform(fan_in), (self.features,))
            if self.add_bias:
                y = y + bias.astype(self.dtype)
        return y


class Dense(nn.Module):
    """Linear layer with PyTorch's default initialization."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[..., d]` to `[..., features]`."""
        fan_in = x.shape[-1]
        kernel = self.param("kernel", fan_in_uniform, (fan_in, self.features))
        bias = self.param("bias", _bias_uniform(fan_in), (self.features,))
        x = x.astype(self.dtype)
        return x @ kernel.astype(self.dtype) + bias.astype(self.dtype)


def standardize(x: jax.Array, axes: tuple[int, ...], eps: float = EPSILON) -> jax.Array:
    """(x - mean) / sqrt(variance + eps) over `axes`, in at least float32."""
    x = x.astype(at_least_float32(x.dtype))
    mean, inverse = _moments(x, axes, eps)
    return (x - mean) * inverse


def _moments(x, axes, eps):
    """Mean and 1 / sqrt(variance + eps) over `axes`, which are kept.

    The variance is E[x^2] - E[x]^2, which needs one pass over `x`; rounding can make it
    slightly negative, hence the clipping.
    """
    mean = jnp.mean(x, axes, keepdims=True)
    variance = jnp.mean(x * x, axes, keepdims=True) - mean * mean
    return mean, jax.lax.rsqrt(jnp.maximum(variance, 0) + eps)


class InstanceNorm(nn.Module):
    """Norm per image and channel (group norm with one channel per group)."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, h, w, c]` to the same shape."""
        scale, bias = _scale_and_bias(self, x.shape[-1:])
        x = x.astype(at_least_float32(x.dtype))
        mean, inverse = _moments(x, (1, 2), EPSILON)
        # One multiplication and one addition per pixel: the rest is per channel.
        factor = inverse * scale
        return (x * factor + (bias - mean * factor)).astype(self.dtype)


class GroupNorm(nn.Module):
    """Norm per image and group of neighboring channels; groups divide the channels."""

    groups: int = GROUPS
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, h, w, c]` to the same shape."""
        grouped = x.reshape(*x.shape[:3], self.groups, -1)
        y = standardize(grouped, (1, 2, 4)).reshape(x.shape)
        return _affine(self, y, x.shape[-1:])


class LayerNorm(nn.Module):
    """Norm per image over height, width and channels; scale and bias per element."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, h, w, c]` to the same shape."""
        return _affine(self, standardize(x, (1, 2, 3)), x.shape[1:])


def _scale_and_bias(norm: nn.Module, shape: tuple[int, ...]):
    scale = norm.param("scale", nn.initializers.ones, shape)
    return scale, norm.param("bias", nn.initializers.zeros, shape)


def _affine(norm: nn.Module, y: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    scale, bias = _scale_and_bias(norm, shape)
    return (y * scale + bias).astype(norm.dtype)


_NORMS = {"instance": InstanceNorm, "group": GroupNorm, "layer": LayerNorm}


def normalize(
    kind: str, x: jax.Array, *, train: bool, dtype: Any, name: str = "norm"
) -> jax.Array:
    """Applies a norm inside a compact method, as the submodule `name`.

    Args:
        kind: "none", "instance", "batch", "group" or "layer".
        x: `[n, h, w, c]`.
        train: Batch norm only: use and record the statistics of this batch.
        dtype: Dtype of the result; statistics are at least float32.
        name: Name of the submodule in the parameter tree.

    Returns:
        An array of the shape of `x`.
    """
    if kind == "none":
        return x
    if kind == "batch":
        return BatchNorm(use_running_average=not train, dtype=dtype, name=name)(x)
    return _NORMS[kind](dtype=dtype, name=name)(x)


class ConvBlock(nn.Module):
    """Convolution with bias, norm (see `normalize` for the kinds), ReLU.

    With `avg_pool`, averages over 2 x 2 windows follow, computed with the ReLU at once.
    """

    features: int
    kernel: int = 3
    padding: int = 1
    norm: str = "instance"
    avg_pool: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[n, h, w, c]` to `[n, h', w', features]`."""
        # Instance norm subtracts each channel's mean and so cancels a constant per
        # channel exactly: the bias stays a parameter, for the field's parameter count,
        # and is left out of the compute. Batch norm keeps it, because its running mean
        # records it.
        x = Conv(
            self.features,
            self.kernel,
            padding=self.padding,
            add_bias=self.norm != "instance",
            dtype=self.dtype,
            name="conv",
        )(x)
        x = normalize(self.norm, x, train=train, dtype=self.dtype)
        return relu_avg_pool(x) if self.avg_pool else nn.relu(x)


def _tiles(x: jax.Array, window: int) -> jax.Array:
    """`[n, h, w, c]` to `[n, h', window, w', window, c]`, dropping the remainder."""
    n, h, w, c = x.shape
    rows, columns = h // window, w // window
    x = x[:, : rows * window, : columns * window]
    return x.reshape(n, rows, window, columns, window, c)


def avg_pool(x: jax.Array, window: int = 2) -> jax.Array:
    """Average over windows with stride = window, `[n, h // window, w // window, c]`.

    Incomplete windows are dropped, as in PyTorch.
    """
    return _tiles(x, window).mean((2, 4))


def max_pool(
    x: jax.Array, window: int = 2, stride: int | None = None, padding: int = 0
) -> jax.Array:
    """Maximum over windows; incomplete windows are dropped, as in PyTorch.

    Args:
        x: `[n, h, w, c]`.
        window: Side of the window.
        stride: Step between windows; None means `window`.
        padding: Border that never wins, added on every side.

    Returns:
        `[n, h', w', c]`.
    """
    if stride in (None, window) and not padding:
        return _tiles(x, window).max((2, 4))
    borders = ((padding, padding), (padding, padding))
    return nn.max_pool(x, (window, window), (stride or window,) * 2, borders)


def global_avg_pool(x: jax.Array) -> jax.Array:
    """Average over height and width: `[n, h, w, c]` to `[n, c]`."""
    return x.mean((1, 2))


def padded_side(image_shape: tuple[int, ...]) -> int:
    """The shorter side of `(h, w, c)`, where 28 x 28 counts as 32 x 32."""
    return 32 if image_shape[:2] == (28, 28) else min(image_shape[:2])


def first_padding(image_shape: tuple[int, ...], kernel: int) -> int:
    """Padding of a first convolution: keeps the side, but takes 28 x 28 to 32 x 32.

    The field pads its digit data sets so that a network built for 32 x 32 fits.
    """
    return kernel // 2 + (2 if image_shape[:2] == (28, 28) else 0)


class ImageClassifier(nn.Module):
    """Base of every network: maps images to logits and the features on the way.

    A subclass declares its options as annotated fields with defaults (`int`,
    `int | None` or `Literal[...]`), and implements
    `__call__(images, train) -> (logits, features)`, ending in `self.classify`.

    Attributes:
        num_classes: Number of logits; `create_network` sets it to that of the data.
        dtype: Compute dtype.
    """

    num_classes: int = 0
    dtype: Any = jnp.float32

    def min_side(self) -> int:
        """The smallest image side this network accepts."""
        return 1

    def objection(self, image_shape: tuple[int, int, int]) -> str | None:
        """Says why this network cannot take `(h, w, c)` images, None if it can."""
        if padded_side(image_shape) < self.min_side():
            height, width, _ = image_shape
            return (
                f"images must have sides of at least {self.min_side()}, "
                f"got {height} x {width}"
            )
        return None

    def classify(
        self, maps: list[jax.Array], embedding: jax.Array
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """The linear classifier, computed in at least float32.

        Args:
            maps: Feature maps, one per stage.
            embedding: `[n, d]`, what the classifier sees.

        Returns:
            Logits `[n, num_classes]` and the features `(*maps, embedding)`.
        """
        dtype = at_least_float32(self.dtype)
        embedding = embedding.astype(dtype)
        logits = Dense(self.num_classes, dtype=dtype, name="classifier")(embedding)
        return logits, (*maps, embedding)

"""ResNet (He et al. 2016) and ResNet-AP, its average-pooling form (Kim et al. 2022)."""

from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp

from d4a_jax.networks.layers import (
    Conv,
    ImageClassifier,
    avg_pool,
    global_avg_pool,
    he_normal,
    max_pool,
    normalize,
)


class ConvNorm(nn.Module):
    """Convolution without bias, He initialization, norm.

    Attributes:
        features: Output channels.
        kernel: Side of the square kernel; the padding keeps the side at stride 1.
        stride: Step of the convolution.
        norm: "instance" or "batch".
        dtype: Compute dtype.
    """

    features: int
    kernel: int = 3
    stride: int = 1
    norm: str = "instance"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[n, h, w, c]` to `[n, h', w', features]`."""
        x = Conv(
            self.features,
            self.kernel,
            self.stride,
            padding=self.kernel // 2,
            use_bias=False,
            kernel_init=he_normal,
            dtype=self.dtype,
            name="conv",
        )(x)
        return normalize(self.norm, x, train=train, dtype=self.dtype)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut.

    Attributes:
        features: Output channels.
        stride: Factor by which the side shrinks.
        pooled: Shrink by average pooling instead of strided convolutions.
        norm: "instance" or "batch".
        dtype: Compute dtype.
    """

    features: int
    stride: int = 1
    pooled: bool = False
    norm: str = "instance"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Maps `[n, h, w, c]` to `[n, h', w', features]`."""
        options = {"norm": self.norm, "dtype": self.dtype}
        stride = 1 if self.pooled else self.stride
        window = self.stride if self.pooled else 1
        y = ConvNorm(self.features, stride=stride, name="conv1", **options)(x, train)
        y = avg_pool(nn.relu(y), window)
        y = ConvNorm(self.features, name="conv2", **options)(y, train)
        if self.stride != 1 or x.shape[-1] != self.features:
            # Kim et al. (2022) pool after the 1x1 convolution. The two are linear and
            # commute; this order costs a quarter.
            x = avg_pool(x, window)
            x = ConvNorm(self.features, 1, stride, name="shortcut", **options)(x, train)
        return nn.relu(y + x)


class ResNet(ImageClassifier):
    """Residual network of basic blocks, in four stages.

    The stem depends on the image side: up to 64 a 3x3 convolution; up to 128 the same
    and a pool by 2; above that a 7x7 convolution and a reduction by 4. The pooled form
    (ResNet-AP) replaces every stride, and the max pool, by average pooling. It is the
    form used for ImageNet at every image size; the narrow variant of the literature for
    CIFAR is not provided.

    Attributes:
        blocks: Blocks per stage; fixed by the network's name.
        pooled: Average-pooling form; fixed by the network's name.
        norm: Kind of norm.
        width: Channels of the first stage; each later stage has twice as many.
    """

    blocks: tuple[int, ...] = (2, 2, 2, 2)
    pooled: bool = False
    norm: Literal["instance", "batch"] = "instance"
    width: int = 64

    def min_side(self) -> int:
        """Leaves 2 x 2 to the last stage: one pixel has no variance to normalize."""
        return 16

    def _stem(self, x: jax.Array, train: bool) -> jax.Array:
        side = min(x.shape[1:3])
        large = side > 128
        x = ConvNorm(
            self.width,
            kernel=7 if large else 3,
            stride=2 if large and not self.pooled else 1,
            norm=self.norm,
            dtype=self.dtype,
            name="stem",
        )(x, train)
        x = nn.relu(x)
        if side <= 64:
            return x
        if self.pooled:
            return avg_pool(x, 4 if large else 2)
        return max_pool(x, 3, stride=2, padding=1)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Maps `[n, h, w, c]` to logits and six features: stem, stages, embedding."""
        x = self._stem(x, train)
        maps = [x]
        for stage, count in enumerate(self.blocks):
            for i in range(count):
                x = BasicBlock(
                    self.width * 2**stage,
                    stride=2 if stage > 0 and i == 0 else 1,
                    pooled=self.pooled,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_block{i}",
                )(x, train)
            maps.append(x)
        return self.classify(maps, global_avg_pool(x))

"""DenseNet-121 (Huang et al. 2017) in its form for small images."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from d4a_jax.networks.layers import (
    Conv,
    ImageClassifier,
    avg_pool,
    global_avg_pool,
    normalize,
)

BLOCKS = (6, 12, 24, 16)


class DenseNet(ImageClassifier):
    """Four dense blocks of bottleneck layers with batch norm, after a 3x3 stem.

    Attributes:
        growth: Channels that every layer adds; 12 is the form used for CIFAR.
    """

    growth: int = 12

    def min_side(self) -> int:
        """Three transitions halve the image three times."""
        return 2 ** (len(BLOCKS) - 1)

    def _norm_relu_conv(
        self, x: jax.Array, features: int, kernel: int, train: bool, name: str
    ) -> jax.Array:
        x = normalize("batch", x, train=train, dtype=self.dtype, name=f"{name}_norm")
        return Conv(
            features,
            kernel,
            padding=kernel // 2,
            use_bias=False,
            dtype=self.dtype,
            name=f"{name}_conv",
        )(nn.relu(x))

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Maps `[n, h, w, c]` to logits and five features."""
        growth, maps = self.growth, []
        x = Conv(2 * growth, use_bias=False, dtype=self.dtype, name="stem_conv")(x)
        for stage, count in enumerate(BLOCKS, start=1):
            for i in range(count):
                layer = f"stage{stage}_layer{i}"
                y = self._norm_relu_conv(x, 4 * growth, 1, train, f"{layer}_reduce")
                y = self._norm_relu_conv(y, growth, 3, train, f"{layer}_grow")
                x = jnp.concatenate([y, x], axis=-1)
            if stage < len(BLOCKS):
                half = x.shape[-1] // 2
                x = self._norm_relu_conv(x, half, 1, train, f"transition{stage}")
                x = avg_pool(x)
            else:
                x = nn.relu(normalize("batch", x, train=train, dtype=self.dtype))
            maps.append(x)
        return self.classify(maps, global_avg_pool(x))

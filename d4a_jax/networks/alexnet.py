"""AlexNet (Krizhevsky et al. 2012) in the form of dataset condensation."""

from typing import Literal

import flax.linen as nn
import jax

from d4a_jax.networks.layers import ConvBlock, ImageClassifier, first_padding, max_pool

# (kernel, width) of the convolutions between one max pool and the next.
STAGES = (((5, 128),), ((5, 192),), ((3, 256), (3, 192), (3, 192)))


class AlexNet(ImageClassifier):
    """Five convolutions, three 2x2 max pools, flatten, one linear layer.

    28 x 28 images are padded to 32 x 32 in the first convolution.

    Attributes:
        norm: Kind of norm; the original has none.
    """

    norm: Literal["none", "instance", "batch"] = "none"

    def min_side(self) -> int:
        """Three pools halve the image three times."""
        return 2 ** len(STAGES)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Maps `[n, h, w, c]` to logits and four features."""
        padding, maps = first_padding(x.shape[1:], STAGES[0][0][0]), []
        for stage, layers in enumerate(STAGES):
            for i, (kernel, width) in enumerate(layers):
                x = ConvBlock(
                    width,
                    kernel,
                    padding=padding if stage == i == 0 else kernel // 2,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_conv{i}",
                )(x, train)
            x = max_pool(x)
            maps.append(x)
        return self.classify(maps, x.reshape(x.shape[0], -1))

"""VGG-11 (Simonyan & Zisserman 2015) in the form of dataset condensation."""

from typing import Literal

import flax.linen as nn
import jax

from d4a_jax.networks.layers import ConvBlock, ImageClassifier, first_padding, max_pool

# Widths of the convolutions between one max pool and the next.
STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


class VGG(ImageClassifier):
    """Eight 3x3 convolutions, five 2x2 max pools, flatten, one linear layer.

    28 x 28 images are padded to 32 x 32 in the first convolution.

    Attributes:
        norm: Kind of norm.
    """

    norm: Literal["instance", "batch", "none"] = "instance"

    def min_side(self) -> int:
        """Five pools halve the image five times."""
        return 2 ** len(STAGES)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Maps `[n, h, w, c]` to logits and six features."""
        padding, maps = first_padding(x.shape[1:], 3), []
        for stage, widths in enumerate(STAGES):
            for i, width in enumerate(widths):
                x = ConvBlock(
                    width,
                    padding=padding,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"stage{stage + 1}_conv{i}",
                )(x, train)
                padding = 1
            x = max_pool(x)
            maps.append(x)
        return self.classify(maps, x.reshape(x.shape[0], -1))

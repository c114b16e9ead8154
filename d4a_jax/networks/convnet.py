"""ConvNet-D, the standard network of dataset condensation (Zhao et al. 2021)."""

import math
from typing import Literal

import flax.linen as nn
import jax

from d4a_jax.networks.layers import (
    GROUPS,
    ConvBlock,
    ImageClassifier,
    first_padding,
    padded_side,
)


class ConvNet(ImageClassifier):
    """`depth` blocks of 3x3 convolution, norm, ReLU, 2x2 average pool; then linear.

    28 x 28 images are padded to 32 x 32 in the first convolution.

    Attributes:
        depth: Number of blocks; None chooses it so that the last map is 4 x 4 for
            sides that are powers of two from 16 on (3 for 32, 4 for 64, 5 for 128).
        width: Channels of every block.
        norm: Kind of norm; "group" has 4 groups.
    """

    depth: int | None = None
    width: int = 128
    norm: Literal["instance", "none", "batch", "group", "layer"] = "instance"

    def blocks(self, image_shape: tuple[int, ...]) -> int:
        """The number of blocks for `(h, w, c)` images."""
        automatic = max(2, int(math.log2(padded_side(image_shape))) - 2)
        return self.depth or automatic

    def min_side(self) -> int:
        """Every block halves the image, and one pixel has to be left."""
        return 2 ** (self.depth or 2)

    def objection(self, image_shape: tuple[int, int, int]) -> str | None:
        """See `ImageClassifier.objection`."""
        if self.norm == "group" and self.width % GROUPS:
            return f"norm=group needs a width divisible by {GROUPS}, got {self.width}"
        return super().objection(image_shape)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Maps `[n, h, w, c]` to logits and `depth + 1` features."""
        padding, maps = first_padding(x.shape[1:], 3), []
        for i in range(self.blocks(x.shape[1:])):
            block = ConvBlock(
                self.width,
                padding=padding if i == 0 else 1,
                norm=self.norm,
                avg_pool=True,
                dtype=self.dtype,
                name=f"block{i}",
            )
            x = block(x, train)
            maps.append(x)
        return self.classify(maps, x.reshape(x.shape[0], -1))

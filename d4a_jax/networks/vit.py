"""A small Vision Transformer (Dosovitskiy et al. 2021)."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from d4a_jax.networks.layers import (
    Dense,
    ImageClassifier,
    at_least_float32,
    padded_side,
)


class Attention(nn.Module):
    """Multi-head self-attention.

    Attributes:
        heads: Number of heads; must divide the width.
        dtype: Compute dtype; the softmax is computed in at least float32.
    """

    heads: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, tokens, dim]` to the same shape."""
        n, tokens, dim = x.shape
        qkv = Dense(3 * dim, dtype=self.dtype, name="qkv")(x)
        qkv = qkv.reshape(n, tokens, 3, self.heads, dim // self.heads)
        query, key, value = jnp.moveaxis(qkv, 2, 0)
        scores = jnp.einsum("nqhd,nkhd->nhqk", query, key) * query.shape[-1] ** -0.5
        weights = nn.softmax(scores.astype(at_least_float32(self.dtype)))
        y = jnp.einsum("nhqk,nkhd->nqhd", weights.astype(self.dtype), value)
        return Dense(dim, dtype=self.dtype, name="out")(y.reshape(x.shape))


class Block(nn.Module):
    """Attention and a two-layer perceptron, each after a norm and with a shortcut.

    Attributes:
        heads: Number of attention heads.
        hidden: Width of the perceptron's hidden layer.
        dtype: Compute dtype.
    """

    heads: int
    hidden: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `[n, tokens, dim]` to the same shape."""
        y = nn.LayerNorm(dtype=self.dtype, name="norm1")(x)
        x = x + Attention(self.heads, dtype=self.dtype, name="attention")(y)
        y = nn.LayerNorm(dtype=self.dtype, name="norm2")(x)
        y = Dense(self.hidden, dtype=self.dtype, name="mlp1")(y)
        y = nn.gelu(y, approximate=False)
        return x + Dense(x.shape[-1], dtype=self.dtype, name="mlp2")(y)


class ViT(ImageClassifier):
    """Pre-norm transformer with learned positions and a class token.

    Patches are embedded by a linear layer, so the network has no 4-D kernel. 28 x 28
    images are padded to 32 x 32.

    Attributes:
        patch: Side of a patch; None is an eighth of the image's shorter side.
        dim: Width of a token.
        depth: Number of blocks.
        heads: Attention heads; must divide `dim`.
        mlp_ratio: Hidden width of the perceptrons, in units of `dim`.
    """

    patch: int | None = None
    dim: int = 192
    depth: int = 6
    heads: int = 3
    mlp_ratio: int = 2

    def min_side(self) -> int:
        """One patch, or eight patches of one pixel."""
        return self.patch or 8

    def objection(self, image_shape: tuple[int, int, int]) -> str | None:
        """See `ImageClassifier.objection`."""
        if self.dim % self.heads:
            return f"heads={self.heads} does not divide dim={self.dim}"
        small = super().objection(image_shape)
        if small:
            return small
        side = padded_side(image_shape)
        patch = self.patch or side // 8
        common = side if side == 32 else math.gcd(*image_shape[:2])
        if common % patch:
            fitting = [p for p in range(1, common + 1) if common % p == 0]
            nearest = min(fitting, key=lambda p: abs(p - patch))
            return (
                f"patch={patch} does not divide {image_shape[0]} x {image_shape[1]} "
                f"images, the nearest that does is patch={nearest}"
            )
        return None

    def _patches(self, x: jax.Array) -> jax.Array:
        """`[n, h, w, c]` to `[n, patches, patch * patch * c]`."""
        if x.shape[1:3] == (28, 28):
            x = jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0)))
        n, h, w, c = x.shape
        p = self.patch or min(h, w) // 8
        x = x.reshape(n, h // p, p, w // p, p, c)
        return jnp.moveaxis(x, 2, 3).reshape(n, -1, p * p * c)

    @nn.compact
    def __call__(
        self, x: jax.Array, train: bool = False
    ) -> tuple[jax.Array, tuple[jax.Array, ...]]:
        """Maps `[n, h, w, c]` to logits and `depth + 1` features."""
        del train  # Nothing here behaves differently in training.
        x = Dense(self.dim, dtype=self.dtype, name="patch_embedding")(self._patches(x))
        small = nn.initializers.normal(0.02)
        token = self.param("class_token", small, (1, 1, self.dim))
        token = jnp.broadcast_to(token.astype(self.dtype), (x.shape[0], 1, self.dim))
        x = jnp.concatenate([token, x], axis=1)
        x = x + self.param("position", small, (1, *x.shape[1:])).astype(self.dtype)
        maps, hidden = [], self.mlp_ratio * self.dim
        for i in range(self.depth):
            x = Block(self.heads, hidden, dtype=self.dtype, name=f"block{i}")(x)
            maps.append(x)
        x = nn.LayerNorm(dtype=self.dtype, name="norm")(x[:, 0])
        return self.classify(maps, x)

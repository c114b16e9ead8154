"""Distances between two gradients, summed over the matched layers (D in eq. 3)."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import optax

LayerDistance = Callable[[jax.Array, jax.Array], jax.Array]


def squared(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum of squared differences (IDC's `mse`)."""
    return jnp.sum(jnp.square(x - y))


def absolute(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum of absolute differences (IDC's `l1`)."""
    return jnp.sum(jnp.abs(x - y))


def cosine(x: jax.Array, y: jax.Array) -> jax.Array:
    """Sum over output units of one minus the cosine (DC, Zhao et al. 2021, eq. 9).

    The last axis of a kernel counts its output units. One-dimensional parameters have
    no direction per unit and contribute nothing.
    """
    if x.ndim < 2:
        return jnp.zeros((), x.dtype)
    x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    # A dead unit has norm zero, where the plain norm's derivative would be NaN.
    norms = optax.safe_norm(x, 1e-6, axis=0) * optax.safe_norm(y, 1e-6, axis=0)
    return jnp.sum(1.0 - jnp.sum(x * y, axis=0) / (norms + 1e-6))


DISTANCES: dict[str, LayerDistance] = {
    "mse": squared,
    "l1": absolute,
    "cosine": cosine,
}


def distance(
    name: str, left: Sequence[jax.Array], right: Sequence[jax.Array]
) -> jax.Array:
    """Distance D between two gradients given as sequences of layers, in float32."""
    layer_distance = DISTANCES[name]
    return sum(layer_distance(x, y) for x, y in zip(left, right, strict=True))

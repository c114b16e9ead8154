"""A network's variables as one vector."""

from collections.abc import Callable

import jax
import numpy as np
from jax.flatten_util import ravel_pytree

from d4a_jax.networks import Network


def flatten(variables: dict) -> jax.Array:
    """The variables as `[d]`: the parameters, then the batch statistics."""
    return ravel_pytree((variables["params"], variables["batch_stats"]))[0]


def flattening(network: Network) -> tuple[int, Callable[[jax.Array], dict]]:
    """The inverse of `flatten`.

    Returns:
      The size d, and the function from float32 `[d]` to the network's variables.
    """
    shapes = jax.eval_shape(network.init, jax.random.key(0))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
    flat, unflatten = ravel_pytree((zeros["params"], zeros["batch_stats"]))

    def variables(row):
        params, stats = unflatten(row)
        return {"params": params, "batch_stats": stats}

    return flat.size, variables

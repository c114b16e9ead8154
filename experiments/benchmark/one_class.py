"""The matching loss of a single class and its pixel gradient, by itself.

The library's own functions on given images, without sampling and augmentation: what is
compared with other code and with other precision.
"""

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import matching
from d4a_jax.methods import GradientMatching
from d4a_jax.networks import create_network


def match_class(
    spec: str,
    settings: GradientMatching,
    variables: dict,
    label: int,
    real: np.ndarray,
    new: np.ndarray,
    dtype: str = "float32",
) -> tuple[np.ndarray, np.ndarray]:
    """Matching loss, and its gradient with respect to what the network sees.

    Args:
      spec: of the network.
      settings: the distance and the layers that are matched.
      variables: the network's.
      label: the class.
      real: normalized `[m, h, w, c]`.
      new: normalized `[n, h, w, c]`.
      dtype: in which the network computes. Everything else is float64 with "float64",
        and float32 otherwise.

    Returns:
      The loss and the gradient, `[n, h, w, c]`.
    """
    wide = np.float64 if dtype == "float64" else np.float32
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        cast = lambda tree: jax.tree.map(lambda x: jnp.asarray(x, wide), tree)
        variables, real, new = cast((variables, real, new))
        params = variables["params"]
        classes = params["classifier"]["bias"].shape[0]
        network = create_network(spec, classes, new.shape[1:], jnp.dtype(dtype))
        layers = matching.select_layers(
            params, settings.match_norm_and_bias, settings.match_classifier
        )

        def loss(params, images):
            return matching.class_loss(
                network, variables | {"params": params}, images, jnp.int32(label)
            )

        def matched(params, real, new):
            target = matching.matched_gradient(lambda p: loss(p, real), params, layers)
            measure = lambda found: matching.distance(settings.distance, found, target)
            return matching.pixel_gradient(measure, loss, params, new, layers)

        found = jax.jit(matched)(params, real, new)
        return tuple(np.asarray(x) for x in found[:2])

"""The values matched of a class's images: the gradient they cause, or mean features.

Distances, regularizers and the matching of unions are written once, for tuples of
arrays, and serve both.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from d4a_jax.matching import (
    class_loss,
    matched_gradient,
    pixel_gradient,
    select_layers,
)
from d4a_jax.networks import Network
from d4a_jax.regularizers import Values


class Statistic(NamedTuple):
    """A function of a class's images whose values are matched.

    Attributes:
      value: (images, weights) -> values; images are normalized and augmented
        `[n, h, w, c]`, weights `[n]` are zero where an image is padding, or None. The
        value of a union is the mean of the values of its parts, weighted by their
        sizes, unless batch norm ties the images of a batch together.
      pixel_gradient: (objective, images) -> (value, image gradient) of a scalar
        objective of the values.
      params: the parameters at which a gradient is taken; None for features.
      loss: training loss of (params, images, weights); None for features.
    """

    value: Callable[[jax.Array, jax.Array | None], Values]
    pixel_gradient: Callable[
        [Callable[[Values], jax.Array], jax.Array], tuple[jax.Array, jax.Array]
    ]
    params: Values | None = None
    loss: Callable[[Values, jax.Array, jax.Array | None], jax.Array] | None = None


# (variables of the network, class) -> Statistic
MakeStatistic = Callable[[dict[str, Any], jax.Array], Statistic]


def gradient_statistic(
    network: Network,
    variables: dict[str, Any],
    label: jax.Array,
    norm_and_bias: bool = False,
    classifier: bool = False,
) -> Statistic:
    """g_c(theta; X): gradient of the mean cross-entropy, of the matched layers.

    Args:
      network: the architecture.
      variables: theta.
      label: c.
      norm_and_bias: also match normalization parameters and biases.
      classifier: also match the kernel of the last, linear layer.
    """
    params = variables["params"]
    layers = select_layers(params, norm_and_bias, classifier)

    def loss(params, images, weights=None):
        variables_there = {**variables, "params": params}
        return class_loss(network, variables_there, images, label, weights)

    return Statistic(
        lambda images, weights: matched_gradient(
            lambda params: loss(params, images, weights), params, layers
        ),
        lambda objective, images: pixel_gradient(
            objective, loss, params, images, layers
        ),
        layers.split(params),
        lambda matched, images, weights: loss(
            layers.merge(params, matched), images, weights
        ),
    )


def feature_statistic(
    network: Network,
    variables: dict[str, Any],
    kind: str,
    early_weight: float = 1.0,
) -> Statistic:
    """Mean features of the images: the embedding, the map of every stage, or both.

    The mean embedding is what DM matches (Zhao & Bilen 2023, eq. 5), the means of all
    maps what IDC's feature matching and CAFE (Wang et al. 2022, eq. 3) match.

    Args:
      network: the architecture.
      variables: of the network.
      kind: "embedding", "layers" or "all".
      early_weight: weight of every map but the last one in squared distances.
    """

    def value(images, weights=None):
        *maps, embedding = network.features(variables, images, True)
        maps = [x.astype(embedding.dtype) for x in maps]
        early = [x * early_weight**0.5 for x in maps[:-1]]
        layers = (*early, maps[-1])
        chosen = {"embedding": (), "layers": layers, "all": layers}[kind]
        chosen += () if kind == "layers" else (embedding,)
        return tuple(_weighted_mean(x, weights) for x in chosen)

    return Statistic(
        value,
        lambda objective, images: jax.value_and_grad(lambda x: objective(value(x)))(
            images
        ),
    )


def _weighted_mean(values, weights):
    if weights is None:
        return jnp.mean(values, axis=0)
    return jnp.tensordot(weights / jnp.sum(weights), values, axes=1)

"""Per-class gradients of a network and the pixel gradient of a loss on them.

Every matching loss here is a function Phi of the gradient g(x) that the synthetic
images x cause in the network, with everything else held constant (IDC eq. 4, DC
eq. 5). Its pixel gradient needs a mixed second derivative,

    d Phi(g(x)) / dx = d <g(x), v> / dx    with v = Phi'(g(x)) held fixed,

and <g(x), v> is the derivative of the training loss along v. So the pixel gradient
is the forward-mode derivative of `x`'s first-order gradient along v: one
`jax.jvp` of one `jax.grad`, no reverse pass through a reverse pass.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from d4a_jax.networks import Network

Gradient = tuple[jax.Array, ...]


class MatchedLayers(NamedTuple):
    """Which parameters are matched, in the order of the flattened tree."""

    matched: tuple[bool, ...]

    def split(self, params: Any) -> Gradient:
        """The matched leaves of a parameter tree."""
        leaves = jax.tree.leaves(params)
        return tuple(leaf for leaf, yes in zip(leaves, self.matched) if yes)

    def merge(self, params: Any, matched: Gradient) -> Any:
        """The tree with its matched leaves replaced."""
        leaves, structure = jax.tree.flatten(params)
        new = iter(matched)
        leaves = [next(new) if yes else leaf for leaf, yes in zip(leaves, self.matched)]
        return structure.unflatten(leaves)


def select_layers(
    params: Any, norm_and_bias: bool = False, classifier: bool = False
) -> MatchedLayers:
    """Chooses the matched parameters: kernels below the classifier by default (IDC).

    Args:
      params: parameter tree of a network.
      norm_and_bias: also match normalization parameters and biases.
      classifier: also match the kernel of the last, linear layer.
    """

    def is_matched(path, _):
        names = [entry.key for entry in path]
        if names[-1] != "kernel":
            return norm_and_bias
        return classifier or "classifier" not in names

    flags = jax.tree_util.tree_map_with_path(is_matched, params)
    return MatchedLayers(tuple(jax.tree.leaves(flags)))


def class_loss(
    network: Network,
    variables: dict,
    images: jax.Array,
    label: jax.Array,
    weights: jax.Array | None = None,
) -> jax.Array:
    """Mean cross-entropy of a batch of one class.

    Args:
      network: the network.
      variables: its parameters and batch statistics.
      images: normalized `[n, h, w, c]`.
      label: scalar int32, the class of all images.
      weights: `[n]`, zero where an image is padding; all ones by default.
    """
    logits, _ = network.apply(variables, images, True)
    labels = jnp.broadcast_to(label, logits.shape[:1])
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    if weights is None:
        return jnp.mean(losses)
    return jnp.sum(losses * weights) / jnp.sum(weights)


def matched_gradient(
    loss: Callable[[Any], jax.Array], params: Any, layers: MatchedLayers
) -> Gradient:
    """Gradient of a loss of the parameters with respect to the matched layers."""
    return jax.grad(lambda matched: loss(layers.merge(params, matched)))(
        layers.split(params)
    )


def pixel_gradient(
    objective: Callable[[Gradient], jax.Array],
    loss: Callable[[Any, jax.Array], jax.Array],
    params: Any,
    images: jax.Array,
    layers: MatchedLayers,
) -> tuple[jax.Array, jax.Array]:
    """Value and image gradient of an objective of the synthetic gradient.

    Args:
      objective: Phi, a scalar function of the matched gradient.
      loss: training loss of (parameters, images).
      params: parameter tree at which gradients are taken.
      images: `[n, h, w, c]`, what the network sees.
      layers: the matched layers.

    Returns:
      Phi(g(images)) and its gradient with respect to `images`.
    """

    def training_loss(matched, x):
        return loss(layers.merge(params, matched), x)

    def by_images(matched):
        gradient, of_images = jax.grad(training_loss, (0, 1))(matched, images)
        return of_images, gradient

    _, along, gradient = jax.linearize(by_images, layers.split(params), has_aux=True)
    value, direction = jax.value_and_grad(objective)(gradient)
    return value, along(direction)

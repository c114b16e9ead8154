"""D4A's regularizers: what keeps earlier segments in force while a new one is made.

Each is an extra term of the matching loss of one class: a function of the gradient g
that the new segment causes, with the earlier segments as constants. Its pixel gradient
follows from that of the method. Other methods put what they match, such as mean
features, in the place of the gradient.

Notation: g_c(theta; X) is the gradient of the mean cross-entropy of images X of class
c; S_k is the new segment with n_k images, S_<k the earlier ones with n_<k; B is drawn
from all real images of the class.

| function   | term                                                               |
| ---------- | ------------------------------------------------------------------ |
| `none`     | 0: the filter alone                                                |
| `previous` | D(g_c(S_k), g_c(S_<k)): the gradient stays near the earlier ones'  |
| `union`    | D(the mean gradient of S_<k and S_k, g_c(B)): together they match  |
| `anchor`   | D(g_c(S_k), g_c(B)): a target from all images of the class         |
| `conflict` | sum over layers of max(0, -cos(g_c(S_k), g_c(S_<k)))               |
| `replay`   | cross-entropy on S_<k after a step along g_c(S_k)                  |

A new one is a function that returns a `Regularizer`. Pass it to `distill`, or enter it:

    REGULARIZERS.register("mine", mine)
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from d4a_jax.registry import Registry

Values = tuple[jax.Array, ...]

# The constants that a regularizer can ask for, by the names of `Constants`' fields.
NEEDS = frozenset({"previous", "whole_class", "previous_loss"})


class Constants(NamedTuple):
    """The constants of one class and one step; those that nobody asked for are None.

    Attributes:
      distance: D of two gradients.
      previous_share: n_<k / (n_<k + n_k).
      params: matched parameters theta at which the gradients are taken; None where
        features are matched.
      previous: g_c(theta; S_<k).
      whole_class: g_c(theta; B).
      previous_loss: mean cross-entropy of S_<k as a function of matched parameters.
    """

    distance: Callable[[Values, Values], jax.Array]
    previous_share: jax.Array
    params: Values | None = None
    previous: Values | None = None
    whole_class: Values | None = None
    previous_loss: Callable[[Values], jax.Array] | None = None


class Regularizer(NamedTuple):
    """A weighted term of the loss of one class.

    Attributes:
      term: (g_c(theta; S_k), constants) -> scalar.
      needs: which of `NEEDS` it asks for.
      weight: lambda, factor of the term.
    """

    term: Callable[[Values, Constants], jax.Array]
    needs: frozenset[str] = frozenset()
    weight: float = 1.0


def none(weight: float = 1.0) -> Regularizer:
    """No regularizer: the filter alone."""
    return Regularizer(lambda gradient, constants: jnp.zeros(()), frozenset(), weight)


def previous(weight: float = 1.0) -> Regularizer:
    """The new segment's gradient stays near that of the earlier segments.

    Example:
      >>> previous(0.5).needs
      frozenset({'previous'})
    """

    def term(gradient, constants):
        return constants.distance(gradient, constants.previous)

    return Regularizer(term, frozenset({"previous"}), weight)


def union(weight: float = 1.0) -> Regularizer:
    """The gradient of all segments so far matches that of the whole class."""

    def term(gradient, constants):
        return constants.distance(mix(gradient, constants), constants.whole_class)

    return Regularizer(term, frozenset({"previous", "whole_class"}), weight)


def mix(gradient: Values, constants: Constants) -> Values:
    """(n_<k g_c(S_<k) + n_k g_c(S_k)) / n_<=k: the gradient of all segments so far."""
    share = constants.previous_share
    return tuple(
        share * old + (1.0 - share) * new
        for old, new in zip(constants.previous, gradient, strict=True)
    )


def anchor(weight: float = 1.0) -> Regularizer:
    """The new segment matches all images of the class beside the hard ones.

    It uses no earlier segment; it is the baseline that the others must beat.
    """

    def term(gradient, constants):
        return constants.distance(gradient, constants.whole_class)

    return Regularizer(term, frozenset({"whole_class"}), weight)


def conflict(weight: float = 1.0) -> Regularizer:
    """In no layer does the new gradient oppose that of the earlier segments.

    The idea of gradient episodic memory (Lopez-Paz & Ranzato 2017), as a penalty.
    """

    def opposition(new, old):
        # A zero gradient opposes nothing, and its plain norm would have no derivative.
        product = jnp.vdot(new, old)
        norms = optax.safe_norm(new, 1e-12) * optax.safe_norm(old, 1e-12)
        return jnp.where(product < 0, -product / norms, 0.0)

    def term(gradient, constants):
        pairs = zip(gradient, constants.previous, strict=True)
        return sum(opposition(new, old) for new, old in pairs)

    return Regularizer(term, frozenset({"previous"}), weight)


def replay(weight: float = 1.0, step_size: float = 0.01) -> Regularizer:
    """The earlier segments are still learned after a step on the new one.

    Args:
      weight: lambda.
      step_size: eta of the step theta - eta g_c(theta; S_k).
    """

    def term(gradient, constants):
        ahead = tuple(
            parameter - step_size * slope
            for parameter, slope in zip(constants.params, gradient, strict=True)
        )
        return constants.previous_loss(ahead)

    return Regularizer(term, frozenset({"previous_loss"}), weight)


REGULARIZERS: Registry[Callable[..., Regularizer]] = Registry(
    "regularizer",
    {
        "none": none,
        "previous": previous,
        "union": union,
        "anchor": anchor,
        "conflict": conflict,
        "replay": replay,
    },
)

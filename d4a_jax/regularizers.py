"""D4A's regularizers: what keeps earlier segments in force while a new one is made.

Each is an extra term of the matching loss of one class: a function of the gradient g
that the new segment causes, with the earlier segments as constants. To add one, write
the function and enter it in `REGULARIZERS` with the constants that it needs; its
pixel gradient follows from that of the surrogate. Other surrogates put what they match,
such as mean features, in the place of the gradient.

Notation: g_c(theta; X) is the gradient of the mean cross-entropy of images X of class
c; S_k is the new segment with n_k images, S_<k the earlier ones with n_<k.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from d4a_jax.matching.gradient import Gradient


class RegularizerContext(NamedTuple):
    """The constants of one class and one step; those not needed are None.

    Attributes:
      distance: D of two gradients.
      params: matched parameters theta at which the gradients are taken.
      previous: g_c(theta; S_<k).
      whole_class: g_c(theta; B) with B drawn from all real images of the class.
      previous_loss: mean cross-entropy of S_<k as a function of matched parameters.
      previous_share: n_<k / (n_<k + n_k).
      step_size: length of the look-ahead step of `replay`.
    """

    distance: Callable[[Gradient, Gradient], jax.Array]
    params: Gradient
    previous: Gradient | None
    whole_class: Gradient | None
    previous_loss: Callable[[Gradient], jax.Array] | None
    previous_share: jax.Array
    step_size: float


class Regularizer(NamedTuple):
    """A term of the loss and the names of the constants that it needs."""

    term: Callable[[Gradient, RegularizerContext], jax.Array]
    needs: frozenset[str] = frozenset()


def none(gradient: Gradient, context: RegularizerContext) -> jax.Array:
    """No regularizer: the filter alone."""
    del gradient, context
    return jnp.zeros(())


def previous(gradient: Gradient, context: RegularizerContext) -> jax.Array:
    """D(g_c(S_k), g_c(S_<k)): the new gradient stays near the earlier segments'."""
    return context.distance(gradient, context.previous)


def union(gradient: Gradient, context: RegularizerContext) -> jax.Array:
    """D((n_<k g_c(S_<k) + n_k g_c(S_k)) / n_<=k, g_c(B)): all together match it."""
    return context.distance(mix(gradient, context), context.whole_class)


def mix(gradient: Gradient, context: RegularizerContext) -> Gradient:
    """(n_<k g_c(S_<k) + n_k g_c(S_k)) / n_<=k: the gradient of all segments so far."""
    share = context.previous_share
    return tuple(
        share * old + (1.0 - share) * new
        for old, new in zip(context.previous, gradient, strict=True)
    )


def anchor(gradient: Gradient, context: RegularizerContext) -> jax.Array:
    """D(g_c(S_k), g_c(B)): a target from all images of the class beside the hard ones.

    It uses no earlier segment; it is the baseline that the others must beat.
    """
    return context.distance(gradient, context.whole_class)


def conflict(gradient: Gradient, context: RegularizerContext) -> jax.Array:
    """Sum over layers of max(0, -cos(g_c(S_k), g_c(S_<k))): no opposing directions.

    The idea of gradient episodic memory (Lopez-Paz & Ranzato 2017), as a penalty.
    """

    def opposition(new, old):
        # A zero gradient opposes nothing, and its plain norm would have no derivative.
        product = jnp.vdot(new, old)
        norms = optax.safe_norm(new, 1e-12) * optax.safe_norm(old, 1e-12)
        return jnp.where(product < 0, -product / norms, 0.0)

    pairs = zip(gradient, context.previous, strict=True)
    return sum(opposition(new, old) for new, old in pairs)


def replay(gradient: Gradient, context: RegularizerContext) -> jax.Array:
    """Cross-entropy on S_<k after a step theta - eta g_c(S_k) on the new segment."""
    ahead = tuple(
        parameter - context.step_size * step
        for parameter, step in zip(context.params, gradient, strict=True)
    )
    return context.previous_loss(ahead)


REGULARIZERS: dict[str, Regularizer] = {
    "none": Regularizer(none),
    "previous": Regularizer(previous, frozenset({"previous"})),
    "union": Regularizer(union, frozenset({"previous", "whole_class"})),
    "anchor": Regularizer(anchor, frozenset({"whole_class"})),
    "conflict": Regularizer(conflict, frozenset({"previous"})),
    "replay": Regularizer(replay, frozenset({"previous_loss"})),
}

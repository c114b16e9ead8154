"""A student unrolled over many SGD steps, and what moves its end towards a target.

The student starts at theta_0 and takes N steps of plain SGD on batches x_i of what is
learned: the synthetic images (MTT, Cazenavette et al. 2022, eq. 3 and 4), or these and
their labels (DATM, Guo et al. 2024):

    theta_{i+1} = theta_i - alpha g_i,    g_i = d l_i(theta_i; x_i) / d theta
    L = |theta_N - target|^2 / |theta_0 - target|^2

Its gradient is computed backwards in time. With v_N = dL / d theta_N and, for i from
N - 1 down to 0,

    dL / d x_i   = -alpha d <g_i, v_{i+1}> / d x_i
    dL / d alpha = -sum over i of <g_i, v_{i+1}>
    v_i          = v_{i+1} - alpha H_i v_{i+1},    H_i = d^2 l_i / d theta^2

As v_{i+1} is constant in step i, both products are the derivative of the first-order
gradient along v_{i+1}: one `jax.jvp` of one `jax.grad`, as in `matching.gradient`, with
no reverse pass through a reverse pass. Of the way forward only theta_0 ... theta_{N-1}
are kept. Everything within a step is computed again, so the memory of a step does not
add up: what grows with N are the parameters of one network per step.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

StepLoss = Callable[[Any, Any, jax.Array], jax.Array]


class Unrolled(NamedTuple):
    """The matching loss of one student and its gradients.

    Attributes:
      loss: L, 1 for a student that stays where it starts.
      inputs: dL / d inputs, a tree of arrays `[s, ...]`.
      step_size: dL / d alpha.
    """

    loss: jax.Array
    inputs: Any
    step_size: jax.Array


def trajectory_loss(end: Any, start: Any, target: Any) -> jax.Array:
    """`|end - target|^2 / |start - target|^2` of parameter trees (MTT, eq. 4)."""
    apart = optax.tree.norm(optax.tree.sub(start, target), squared=True)
    return optax.tree.norm(optax.tree.sub(end, target), squared=True) / apart


def unroll(
    step_loss: StepLoss,
    start: Any,
    target: Any,
    step_size: jax.Array,
    inputs: Any,
    rows: jax.Array,
) -> Unrolled:
    """Trains a student from `start` and differentiates its distance to `target`.

    Args:
      step_loss: training loss l_i of (parameters, batch, i); a batch is a tree like
        `inputs` of arrays `[b, ...]`.
      start: parameter tree theta_0.
      target: parameter tree that the student should reach.
      step_size: alpha.
      inputs: tree of arrays `[s, ...]`, such as the images `[s, h, w, c]`: all that the
        student may see.
      rows: int32 `[N, b]`, which rows of them are in the batch of each step.

    Returns:
      The loss and its gradients, exact up to rounding.
    """
    steps = jnp.arange(len(rows))
    batch_of = lambda chosen: jax.tree.map(lambda array: array[chosen], inputs)

    def forward(params, step):
        index, chosen = step
        gradient = jax.grad(step_loss)(params, batch_of(chosen), index)
        return optax.tree.add_scale(params, -step_size, gradient), params

    def backward(carry, step):
        adjoint, by_inputs, by_step_size = carry
        index, chosen, params = step
        batch = batch_of(chosen)
        first_order = jax.grad(step_loss, argnums=(0, 1))
        (gradient, _), (curvature, mixed) = jax.jvp(
            lambda p: first_order(p, batch, index), (params,), (adjoint,)
        )
        by_inputs = jax.tree.map(
            lambda total, part: total.at[chosen].add(-step_size * part),
            by_inputs,
            mixed,
        )
        by_step_size = by_step_size - optax.tree.vdot(gradient, adjoint)
        adjoint = optax.tree.add_scale(adjoint, -step_size, curvature)
        return (adjoint, by_inputs, by_step_size), None

    end, visited = lax.scan(forward, start, (steps, rows))
    loss, adjoint = jax.value_and_grad(trajectory_loss)(end, start, target)
    carry = (adjoint, optax.tree.zeros_like(inputs), jnp.zeros_like(loss))
    (_, by_inputs, by_step_size), _ = lax.scan(
        backward, carry, (steps, rows, visited), reverse=True
    )
    return Unrolled(loss, by_inputs, by_step_size)

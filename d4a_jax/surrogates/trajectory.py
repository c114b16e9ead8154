"""Trajectory matching (MTT, Cazenavette et al. 2022) and D4A on top of it.

Experts are networks trained on the real set; theta*_t are the parameters of one of them
after epoch t (see `trajectories`). In a step an expert and an epoch t are drawn, and a
student is trained from theta*_t by N steps on the synthetic images S with the step size
alpha, which is learned with them:

    theta_0 = theta*_t,    theta_{i+1} = theta_i - alpha grad l(theta_i; A(x_i))
    L(S, alpha) = |theta_N - theta*_{t+M}|^2 / |theta*_t - theta*_{t+M}|^2

with batches x_i of S that hold every image once before any comes again, A the
differentiable augmentation, drawn anew for every image and step, and M =
`expert_epochs`. The pixel gradient and dL / d alpha are exact (see `matching.unroll`).
A student trains on all classes, so a step is not divided by class as in gradient
matching.

The epoch is drawn from `min_start_epoch` <= t < T+. DATM (Guo et al. 2024) chooses both
ends by the images per class and lets T+ grow from `first_max_start_epoch` to
`max_start_epoch` within `expansion_steps` steps; a step whose loss exceeds
`skip_loss_above` moves nothing (but the momentum of the steps before it). With a
`label_learning_rate` labels are learned with the images, as DATM's are (see
`label_learning`). The flatter minima of its experts (FTD) are not there: experts are
MTT's.

D4A in segments S_1 ... S_K:

1. The student of segment k trains on S_1 u ... u S_k, earlier segments frozen:
   S_k only has to add to the trajectory what they do not reach.
2. The window follows the filter. With e_i the number of epochs after which an expert
   is wrong on real image i (`trajectories.Judgement.learned`), P_k the images kept for
   segment k and P_1 all of them, the window moves by

       delta_k = round(mean of e_i over P_k - mean of e_i over P_1)

   epochs: as much later as the experts learn what is left. It ends where the experts
   do. The first segment has delta_1 = 0, so one segment is MTT.
3. The first images of a segment are drawn from P_k.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from d4a_jax import rng
from d4a_jax.config import TrajectoryConfig
from d4a_jax.matching import unroll
from d4a_jax.surrogates.base import StepResult, Surrogate, SurrogateContext
from d4a_jax.surrogates.label_learning import (
    LearnedLabels,
    label_learning,
    move_labels,
)
from d4a_jax.surrogates.student import draw_batches, student_loss
from d4a_jax.trajectories import flattening

# As in MTT. A step size below zero would climb the loss: it stays above this share of
# the one it begins with.
_STEP_SIZE_MOMENTUM = 0.5
_LEAST_STEP_SIZE = 0.01


class TrajectoryState(NamedTuple):
    """What is learned besides the images.

    Attributes:
      step_size: alpha, float32 scalar.
      opt_state: of its optimizer.
      labels: soft labels; None where labels are hard.
    """

    step_size: jax.Array
    opt_state: optax.OptState
    labels: LearnedLabels | None = None


class ExpertPair(NamedTuple):
    """Where the student of a step starts and shall end, `[d]` each, and its epoch t."""

    start: jax.Array
    target: jax.Array
    epoch: jax.Array


def trajectory_matching(context: SurrogateContext) -> Surrogate:
    """Builds the surrogate of MTT on the union of all segments so far."""
    settings = context.config.trajectory
    optimizer = optax.sgd(settings.step_size_learning_rate, _STEP_SIZE_MOMENTUM)
    _, unflatten = flattening(context.network)

    def init(key, task):
        del key, task
        step_size = jnp.float32(settings.step_size)
        return TrajectoryState(step_size, optimizer.init(step_size))

    def update(key, step, state, pixels, task):
        start, target = unflatten(task.fed.start), unflatten(task.fed.target)
        logits = None if state.labels is None else state.labels.logits
        batches_key = rng.stream(key, "student", step)
        student = draw_batches(batches_key, context, pixels, task, logits)
        result = unroll(
            lambda params, batch, index: student_loss(
                context, start | {"params": params}, student, batch, index
            ),
            start["params"],
            target["params"],
            state.step_size,
            student.inputs,
            student.rows,
        )
        counts = result.loss <= (settings.skip_loss_above or jnp.inf)
        by_inputs, by_step_size = jax.tree.map(
            lambda gradient: jnp.where(counts, gradient, 0.0),
            (_of_segment(result.inputs, pixels.shape), result.step_size),
        )
        figures = {
            "matching_loss": _recorded(result.loss, settings),
            "step_size": state.step_size,
            "start_epoch": task.fed.epoch.astype(jnp.float32),
        }
        labels = move_labels(settings, state.labels, by_inputs.logits)
        step_size, opt_state = move_step_size(state, by_step_size)
        state = TrajectoryState(step_size, opt_state, labels)
        return StepResult(by_inputs.images, figures), state

    def move_step_size(state, gradient):
        updates, opt_state = optimizer.update(gradient, state.opt_state)
        moved = optax.apply_updates(state.step_size, updates)
        least = _LEAST_STEP_SIZE * settings.step_size
        return jnp.maximum(moved, least), opt_state

    def feed(key, first, steps, task):
        numbers = first + np.arange(steps)
        experts, epochs = draw_starts(key, numbers, settings, int(task.epoch_shift))
        pairs = context.experts().pairs(experts, epochs, settings.expert_epochs)
        return ExpertPair(*pairs, epochs)

    return Surrogate(init, update, feed, labels=label_learning(context))


def draw_starts(
    key: jax.Array, steps: np.ndarray, settings: TrajectoryConfig, shift: int
) -> tuple[np.ndarray, np.ndarray]:
    """The expert and the start epoch of each step.

    Args:
      key: of the segment.
      steps: int `[s]`, numbers of the steps.
      settings: the experts and the window.
      shift: epochs by which the window moves.

    Returns:
      Two int32 `[s]`.
    """
    uniform = jax.vmap(
        lambda step: jax.random.uniform(rng.stream(key, "expert", step), (2,))
    )(jnp.asarray(steps))
    uniform = np.asarray(uniform, np.float64)
    low, high = window(steps, settings, shift)
    experts = np.floor(uniform[:, 0] * settings.experts)
    epochs = low + np.floor(uniform[:, 1] * (high - low))
    return experts.astype(np.int32), epochs.astype(np.int32)


def window(
    steps: np.ndarray, settings: TrajectoryConfig, shift: int
) -> tuple[np.ndarray, np.ndarray]:
    """First start epoch of each step, and the end that the epoch stays below.

    Args:
      steps: int `[s]`.
      settings: the window; it widens with the steps (DATM's sequential generation).
      shift: epochs by which it moves, as far as the experts were trained.
    """
    end = settings.max_start_epoch
    first = settings.first_max_start_epoch or end
    share = np.ones(len(steps))
    if settings.expansion_steps:
        share = np.minimum(1.0, steps / settings.expansion_steps)
    high = first + np.floor((end - first) * share + 1e-9).astype(int)
    low = np.full(len(steps), settings.min_start_epoch)
    last = settings.epochs - settings.expert_epochs + 1
    shift = np.maximum(np.minimum(shift, last - high), -low)
    return low + shift, high + shift


def _of_segment(gradients, shape):
    """What belongs to the segment `[C, n, ...]` of gradients `[C (p + n), ...]`."""
    classes, size = shape[:2]
    own = lambda x: x.reshape(classes, -1, *x.shape[1:])[:, -size:]
    return jax.tree.map(own, gradients)


def _recorded(loss, settings):
    """The loss, or the limit where a student got lost in a step that is left out."""
    limit = settings.skip_loss_above
    return loss if limit is None else jnp.where(jnp.isfinite(loss), loss, limit)

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
`skip_loss_above` moves nothing (but the momentum of the steps before it). DATM's soft
labels, and the flatter minima of its experts (FTD), are not there: labels are hard and
experts are MTT's.

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
from jax import lax

from d4a_jax import rng
from d4a_jax.augment import siamese_augment
from d4a_jax.config import TrajectoryConfig
from d4a_jax.formation import form_tiles
from d4a_jax.matching import unroll
from d4a_jax.parallel import split_batch
from d4a_jax.surrogates.base import StepResult, Surrogate, SurrogateContext, Task
from d4a_jax.trajectories import flattening

# As in MTT. A step size below zero would climb the loss: it stays above this share of
# the one it begins with.
_STEP_SIZE_MOMENTUM = 0.5
_LEAST_STEP_SIZE = 0.01


class TrajectoryState(NamedTuple):
    """The step size alpha, float32 scalar, and the state of its optimizer."""

    step_size: jax.Array
    opt_state: optax.OptState


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
        student = draw_batches(rng.stream(key, "student", step), context, pixels, task)
        result = unroll(
            lambda params, images, index: student_loss(
                context, start | {"params": params}, student, images, index
            ),
            start["params"],
            target["params"],
            state.step_size,
            student.images,
            student.rows,
        )
        counts = result.loss <= (settings.skip_loss_above or jnp.inf)
        gradient = result.images.reshape(len(pixels), -1, *pixels.shape[2:])
        gradient = gradient[:, -pixels.shape[1] :]
        by_pixels = jnp.where(counts, gradient, 0.0)
        figures = {
            "matching_loss": _recorded(result.loss, settings),
            "step_size": state.step_size,
            "start_epoch": task.fed.epoch.astype(jnp.float32),
        }
        by_step_size = jnp.where(counts, result.step_size, 0.0)
        return StepResult(by_pixels, figures), move_step_size(state, by_step_size)

    def move_step_size(state, gradient):
        updates, opt_state = optimizer.update(gradient, state.opt_state)
        moved = optax.apply_updates(state.step_size, updates)
        least = _LEAST_STEP_SIZE * settings.step_size
        return TrajectoryState(jnp.maximum(moved, least), opt_state)

    def feed(key, first, steps, task):
        numbers = first + np.arange(steps)
        experts, epochs = draw_starts(key, numbers, settings, int(task.epoch_shift))
        pairs = context.experts().pairs(experts, epochs, settings.expert_epochs)
        return ExpertPair(*pairs, epochs)

    return Surrogate(init, update, feed)


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


class StudentBatches(NamedTuple):
    """What a student trains on.

    Attributes:
      images: float32 `[s, h, w, c]`, stored images of all classes and segments.
      labels: int32 `[s]`.
      rows: int32 `[N, b]`, which images are in the batch of each step.
      tiles: int32 `[N, b]`, which of its tiles is formed.
      weights: float32 `[N, b]`, zero for what fills up a batch.
      keys: typed keys `[N]`, of the augmentation.
    """

    images: jax.Array
    labels: jax.Array
    rows: jax.Array
    tiles: jax.Array
    weights: jax.Array
    keys: jax.Array


def draw_batches(
    key: jax.Array, context: SurrogateContext, pixels: jax.Array, task: Task
) -> StudentBatches:
    """The union of all segments so far, and the batches of a student's steps.

    Every image is seen once before any is seen again; the last batch of such a pass
    may be smaller.
    """
    settings, tiles = context.config.trajectory, context.config.synthetic.factor**2
    images, filled = _union(context, pixels, task)
    places = filled.shape[1]
    # Nothing here may depend on how many classes only fill up the devices.
    everything = context.network.num_classes * places * tiles
    size = min(settings.batch_syn or everything, everything)
    count = jnp.sum(filled) * tiles
    per_pass = -(-count // size)

    def of_step(step):
        order = _order(rng.stream(key, "order", step // per_pass), task, filled, tiles)
        positions = step % per_pass * size + jnp.arange(size)
        drawn = order[positions % count]
        return drawn // tiles, drawn % tiles, positions < count

    steps = jnp.arange(settings.student_steps)
    rows, tile, own = lax.map(of_step, steps)
    return StudentBatches(
        images.reshape(-1, *images.shape[2:]),
        jnp.repeat(task.data.labels, places),
        rows,
        tile,
        own.astype(jnp.float32),
        jax.vmap(lambda step: rng.stream(key, "augment", step))(steps),
    )


def _order(key, task, filled, tiles):
    """Formed images of all classes in random order, those of filled places first."""
    shape = (filled.shape[1], tiles)
    draw = lambda label: jax.random.uniform(jax.random.fold_in(key, label), shape)
    priority = jax.vmap(draw)(task.data.labels)
    priority = jnp.where(filled[..., None], priority, 2.0)
    return jnp.argsort(priority.ravel()).astype(jnp.int32)


def _union(context, pixels, task):
    """Images `[C, p + n, h, w, c]` of all segments so far, and which places count."""
    real = task.data.counts > 0
    if not context.has_previous:
        return pixels, jnp.broadcast_to(real[:, None], pixels.shape[:2])
    places = task.previous.shape[1]
    images = jnp.concatenate([_as_float(task.previous), pixels], axis=1)
    number = jnp.arange(images.shape[1])
    filled = (number < task.num_previous) | (number >= places)
    return images, real[:, None] & filled


def _as_float(stored):
    return stored.astype(jnp.float32) / 255.0


def student_loss(context, variables, student, images, index):
    """Mean cross-entropy of the batch of a student's step, its images augmented."""
    factor = context.config.synthetic.factor
    formed = form_tiles(images, student.tiles[index], factor)
    augmented = siamese_augment(
        student.keys[index],
        context.normalize(formed),
        context.config.matching.augmentation,
        shared=False,
    )
    augmented = split_batch(context.layout, augmented)
    logits, _ = context.network.apply(variables, augmented, True)
    labels = student.labels[student.rows[index]]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
    weights = student.weights[index]
    return jnp.sum(losses * weights) / jnp.sum(weights)


def _recorded(loss, settings):
    """The loss, or the limit where a student got lost in a step that is left out."""
    limit = settings.skip_loss_above
    return loss if limit is None else jnp.where(jnp.isfinite(loss), loss, limit)

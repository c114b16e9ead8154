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

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from d4a_jax import rng
from d4a_jax.matching import unroll
from d4a_jax.methods.base import Learned, Method, MethodOptions, Setting
from d4a_jax.methods.label_learning import learned_labels
from d4a_jax.methods.student import draw_batches, student_loss
from d4a_jax.networks.flattening import flattening
from d4a_jax.options import option

# As in MTT. A step size below zero would climb the loss: it stays above this share of
# the one it begins with.
_STEP_SIZE_MOMENTUM = 0.5
_LEAST_STEP_SIZE = 0.01

# An image in a student's step: its gradient on the way forward; on the way back the
# gradient for weights and pixels again, and the derivative of all of it.
_STUDENT_PASSES = 9


class ExpertPair(NamedTuple):
    """Where the student of a step starts and shall end, `[d]` each, and its epoch t."""

    start: jax.Array
    target: jax.Array
    epoch: jax.Array


@dataclasses.dataclass(frozen=True)
class TrajectoryMatching(MethodOptions):
    """Options of trajectory matching; those of the experts are `config.experts`.

    Attributes:
      min_start_epoch: first epoch t at which a student may start.
      max_start_epoch: T+, the end of the window, which t stays below.
      first_max_start_epoch: where the window ends at first (DATM); None for T+.
      expansion_steps: after how many steps the window has its full width (DATM).
      expert_epochs: M.
      epochs_follow_filter: whether the window moves with the kept images (D4A).
      student_steps: N.
      batch_syn: formed images in a batch of the student; None for all.
      step_size: alpha at first.
      step_size_learning_rate: at which alpha is learned.
      skip_loss_above: steps of a larger loss move nothing (DATM); None for all.
      label_learning_rate: at which soft labels are learned (DATM); 0 for hard labels.
      label_momentum: of their SGD.
    """

    min_start_epoch: int = option(0, low=0)
    max_start_epoch: int = option(20, low=1)
    first_max_start_epoch: int | None = option(None, low=1)
    expansion_steps: int = option(0, low=0)
    expert_epochs: int = option(2, low=1)
    epochs_follow_filter: bool = True
    student_steps: int = option(30, low=1)
    batch_syn: int | None = option(None, low=1)
    step_size: float = option(0.01, above=0.0)
    step_size_learning_rate: float = option(1e-5, low=0.0)
    skip_loss_above: float | None = option(None, above=0.0)
    label_learning_rate: float = option(0.0, low=0.0)
    label_momentum: float = option(0.9, low=0.0, high=0.999)

    trains_networks = False
    uses_experts = True

    @property
    def uses_previous(self) -> bool:
        return True

    @property
    def follows_filter(self) -> bool:
        return self.epochs_follow_filter

    @property
    def learns_labels(self) -> bool:
        return self.label_learning_rate > 0

    def shrunk(self):
        """Students of two steps, and a window of the same kind within four epochs."""
        return dataclasses.replace(
            self,
            min_start_epoch=min(self.min_start_epoch, 1),
            max_start_epoch=3,
            first_max_start_epoch=2 if self.first_max_start_epoch else None,
            student_steps=2,
        )

    def problems(self, config):
        last = self.max_start_epoch - 1 + self.expert_epochs
        if last > config.experts.epochs:
            yield (
                f"experts.epochs is {config.experts.epochs}; it must be at least "
                f"{last}, the last epoch that method.max_start_epoch and "
                "method.expert_epochs reach."
            )
        first = self.first_max_start_epoch or self.max_start_epoch
        if first > self.max_start_epoch:
            yield (
                f"method.first_max_start_epoch is {first}; it must be at most "
                f"method.max_start_epoch = {self.max_start_epoch}."
            )
        if self.min_start_epoch >= first:
            yield (
                f"method.min_start_epoch is {self.min_start_epoch}; it must be below "
                f"{first}, where the window ends."
            )
        if config.has_regularizer:
            yield (
                f"regularizer.name is {config.shown_regularizer} with method.name "
                f"{config.method_name!r}; it must be 'none', as the student trains on "
                "the earlier segments as well."
            )

    def total_passes(self, config, num_classes, images):
        """Passes of all students of a run, on batches of all classes."""
        tiles, sizes, passes = config.synthetic.factor**2, config.segment_sizes, 0
        for stage in range(len(sizes)):
            union = sum(sizes[: stage + 1]) * tiles * num_classes
            batch = min(self.batch_syn or union, union)
            passes += config.steps_per_segment * self.student_steps * batch
        return _STUDENT_PASSES * passes

    def build(self, setting: Setting) -> Method:
        """The method of MTT on the union of all segments so far."""
        size, unflatten = flattening(setting.network)
        learned = {"step_size": self._learned_step_size()}
        if self.learns_labels:
            optimizer = optax.sgd(self.label_learning_rate, self.label_momentum)
            learned["labels"] = learned_labels(setting, optimizer)

        def update(key, step, state, params, batch):
            fed, task = batch.fed, batch.task
            start, target = unflatten(fed.start), unflatten(fed.target)
            student = draw_batches(
                rng.stream(key, "student", step),
                setting,
                self.student_steps,
                self.batch_syn,
                params,
                task,
            )
            result = unroll(
                lambda params, inputs, index: student_loss(
                    setting, start | {"params": params}, student, inputs, index
                ),
                start["params"],
                target["params"],
                params["step_size"],
                student.inputs,
                student.rows,
            )
            inputs = _of_segment(result.inputs, params["images"].shape)
            gradient = {"images": inputs.images, "step_size": result.step_size}
            if self.learns_labels:
                gradient["labels"] = inputs.logits
            counts = result.loss <= (self.skip_loss_above or jnp.inf)
            gradient = jax.tree.map(lambda x: jnp.where(counts, x, 0.0), gradient)
            figures = {
                "matching_loss": self._recorded(result.loss),
                "step_size": params["step_size"],
                "start_epoch": fed.epoch.astype(jnp.float32),
            }
            return gradient, state, figures

        def feed(key, first, steps, task):
            experts = setting.experts()
            numbers = first + np.arange(steps)
            which, epochs = draw_starts(
                key,
                numbers,
                self,
                int(task.epoch_shift),
                experts.count,
                experts.store.epochs,
            )
            pairs = experts.pairs(which, epochs, self.expert_epochs)
            return ExpertPair(*pairs, epochs)

        def fed(steps, task):
            of = lambda dtype, *shape: jax.ShapeDtypeStruct((steps, *shape), dtype)
            rows = of(jnp.float32, size)
            return ExpertPair(rows, rows, of(jnp.int32))

        return Method(
            lambda key, task: (),
            lambda key, step, task: None,
            update,
            feed,
            fed,
            learned,
        )

    def _learned_step_size(self) -> Learned:
        optimizer = optax.sgd(self.step_size_learning_rate, _STEP_SIZE_MOMENTUM)
        return Learned(
            lambda pixels, task: (),
            lambda pixels, task: jnp.float32(self.step_size),
            optax.chain(optimizer, keep_above(_LEAST_STEP_SIZE * self.step_size)),
        )

    def _recorded(self, loss):
        """The loss, or the limit where a student got lost in a step that is skipped."""
        limit = self.skip_loss_above
        return loss if limit is None else jnp.where(jnp.isfinite(loss), loss, limit)


def keep_above(least: float) -> optax.GradientTransformation:
    """Shortens updates so that no parameter falls below a bound."""

    def update(updates, state, params):
        bounded = jax.tree.map(
            lambda u, p: jnp.where(p + u < least, least - p, u), updates, params
        )
        return bounded, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def draw_starts(
    key: jax.Array,
    steps: np.ndarray,
    options: TrajectoryMatching,
    shift: int,
    experts: int,
    epochs: int,
) -> tuple[np.ndarray, np.ndarray]:
    """The expert and the start epoch of each step.

    Args:
      key: of the segment.
      steps: int `[s]`, numbers of the steps.
      options: the window.
      shift: epochs by which the window moves.
      experts: how many there are.
      epochs: how long each was trained.

    Returns:
      Two int32 `[s]`.
    """
    uniform = jax.vmap(
        lambda step: jax.random.uniform(rng.stream(key, "expert", step), (2,))
    )(jnp.asarray(steps))
    uniform = np.asarray(uniform, np.float64)
    low, high = window(steps, options, shift, epochs)
    which = np.floor(uniform[:, 0] * experts)
    starts = low + np.floor(uniform[:, 1] * (high - low))
    return which.astype(np.int32), starts.astype(np.int32)


def window(
    steps: np.ndarray, options: TrajectoryMatching, shift: int, epochs: int
) -> tuple[np.ndarray, np.ndarray]:
    """First start epoch of each step, and the end that the epoch stays below.

    Args:
      steps: int `[s]`.
      options: the window; it widens with the steps (DATM's sequential generation).
      shift: epochs by which it moves, as far as the experts were trained.
      epochs: how long the experts were trained.
    """
    end = options.max_start_epoch
    first = options.first_max_start_epoch or end
    share = np.ones(len(steps))
    if options.expansion_steps:
        share = np.minimum(1.0, steps / options.expansion_steps)
    high = first + np.floor((end - first) * share + 1e-9).astype(int)
    low = np.full(len(steps), options.min_start_epoch)
    last = epochs - options.expert_epochs + 1
    shift = np.maximum(np.minimum(shift, last - high), -low)
    return low + shift, high + shift


def _of_segment(gradients, shape):
    """The part of the segment `[C, n, ...]` in gradients `[C (p + n), ...]`."""
    classes, size = shape[:2]
    own = lambda x: x.reshape(classes, -1, *x.shape[1:])[:, -size:]
    return jax.tree.map(own, gradients)

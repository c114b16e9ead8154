"""Matching the classes one by one: what gradient and distribution matching share.

One step, for the current network theta and every class c on its own:

    L_c = D(m(A*_w(S_k,c)), m(A_w(B_c))) + lambda Reg_c

with m what is matched (see `statistics`), B_c drawn from the images that D4A's filter
kept, one draw w of the siamese augmentation for all batches of the class, and A* = A
after multi-formation. Where unions are matched (PDD, Chen et al. 2024), the first
argument of D is the value of S_<k,c together with S_k,c, of which only the latter is
moved. A fresh network comes every `inner_iterations` steps and is trained in between.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from d4a_jax import rng
from d4a_jax.augment import siamese_augment
from d4a_jax.formation import decode, form_tiles
from d4a_jax.matching import distance
from d4a_jax.parallel import map_items
from d4a_jax.real_data import Pool, RealData
from d4a_jax.regularizers import REGULARIZERS, RegularizerContext, mix
from d4a_jax.surrogates.base import StepResult, Surrogate, SurrogateContext, Task
from d4a_jax.surrogates.network_updates import fresh_network, train_between_steps
from d4a_jax.surrogates.statistics import Statistic
from d4a_jax.training import NetworkState

MakeStatistic = Callable[[SurrogateContext, dict, jax.Array], Statistic]


class Classes(NamedTuple):
    """What belongs to single classes; all leading axes are the classes."""

    pixels: jax.Array
    data: RealData
    pool: Pool
    previous: jax.Array


class Shared(NamedTuple):
    """What all classes of a step share: the network, the step's key, n_<k."""

    variables: dict[str, Any]
    key: jax.Array
    num_previous: jax.Array


def class_matching(context: SurrogateContext, statistic: MakeStatistic) -> Surrogate:
    """The surrogate that matches a statistic of every class."""

    def init(key, task):
        return fresh_network(key, 0, context, task)

    def update(key, step, state, pixels, task):
        state = network_of_step(key, step, context, state, pixels, task)
        losses, gradient = map_items(
            context.layout,
            lambda shared, items, i: match_class(context, statistic, shared, items, i),
            step_constants(key, step, state, task),
            Classes(pixels, task.data, task.pool, task.previous),
        )
        loss = mean_over_classes(losses, task)
        return StepResult(gradient, {"matching_loss": loss}), state

    return Surrogate(init, update)


def network_of_step(
    key: jax.Array,
    step: jax.Array,
    context: SurrogateContext,
    state: NetworkState,
    pixels: jax.Array,
    task: Task,
) -> NetworkState:
    """The network of a step: a fresh one, or that of the step before, trained on."""
    inner = context.config.matching.inner_iterations
    return lax.cond(
        step % inner == 0,
        lambda: fresh_network(key, step // inner, context, task),
        lambda: train_between_steps(
            rng.stream(key, "network_batches", step - 1), context, state, pixels, task
        ),
    )


def step_constants(
    key: jax.Array, step: jax.Array, state: NetworkState, task: Task
) -> Shared:
    """What the classes of a step share."""
    key = rng.stream(key, "matching", step)
    return Shared(state.variables, key, task.num_previous)


def mean_over_classes(values: jax.Array, task: Task) -> jax.Array:
    """Mean over the real classes, without those that pad the devices' shares."""
    real = task.data.counts > 0
    return jnp.sum(jnp.where(real, values, 0.0)) / jnp.sum(real)


class ClassStep(NamedTuple):
    """One class in one step: its key and the batches that are made for it."""

    context: SurrogateContext
    key: jax.Array

    def augment(self, images: jax.Array) -> jax.Array:
        """The siamese augmentation; every call makes the same draw (A_w)."""
        return siamese_augment(
            rng.stream(self.key, "augment"),
            self.context.normalize(images),
            self.context.config.matching.augmentation,
            shared=True,
        )

    def real(
        self,
        name: str,
        classes: Classes,
        index: jax.Array,
        positions: jax.Array,
        count: jax.Array,
    ) -> jax.Array:
        """A_w(B): a batch drawn from the first `count` of the given positions.

        Only the drawn rows of the classes' images are read.
        """
        size = self.context.config.matching.batch_real
        key = rng.stream(self.key, name)
        drawn = rng.sample_without_replacement(key, count, len(positions), size)
        return self.augment(classes.data.images[index, positions[drawn]])

    def kept(self, classes: Classes, index: jax.Array) -> jax.Array:
        """A batch of the images that the filter kept."""
        pool = classes.pool
        positions, count = pool.positions[index], pool.counts[index]
        return self.real("real", classes, index, positions, count)

    def formed(self, pixels: jax.Array) -> jax.Array:
        """A*_w(S_k): at most `batch_syn_max` of the formed images, augmented."""
        config = self.context.config
        synthetic, size = config.synthetic, config.matching.batch_syn_max
        formed = decode(pixels, synthetic.factor, synthetic.decode, size)
        total = len(formed)
        if total > size:
            key = rng.stream(self.key, "formed")
            formed = formed[rng.sample_without_replacement(key, total, total, size)]
        return self.augment(formed)

    def previous(
        self, stored: jax.Array, num_previous: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """A*_w(S_<k) and weights, zero where there are fewer images than places.

        A fresh random subset in every step where there are more than `batch_syn_max`.
        """
        config = self.context.config
        tiles = config.synthetic.factor**2
        capacity = len(stored) * tiles
        size = min(config.matching.batch_syn_max, capacity)
        available = num_previous * tiles
        drawn = rng.sample_without_replacement(
            rng.stream(self.key, "previous"), available, capacity, size
        )
        images = stored[drawn // tiles].astype(jnp.float32) / 255.0
        formed = form_tiles(images, drawn % tiles, config.synthetic.factor)
        return self.augment(formed), (jnp.arange(size) < available).astype(jnp.float32)


def match_class(
    context: SurrogateContext,
    make_statistic: MakeStatistic,
    shared: Shared,
    classes: Classes,
    index: jax.Array,
    extra: Callable[[tuple], jax.Array] = lambda matched: 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Matching loss of one class and its gradient with respect to the pixels.

    Args:
      context: static surroundings.
      make_statistic: what is matched.
      shared: constants of the step.
      classes: those of this device.
      index: the class to work on.
      extra: a further term of the loss, of the synthetic images' values.

    Returns:
      The loss and the gradient `[n, h, w, c]`.
    """
    label = classes.data.labels[index]
    step = ClassStep(context, jax.random.fold_in(shared.key, label))
    statistic = make_statistic(context, shared.variables, label)
    target = statistic.value(step.kept(classes, index), None)
    loss = _objective(step, statistic, target, classes, index, shared.num_previous)
    images, pull_back = jax.vjp(step.formed, classes.pixels[index])
    value, gradient = statistic.pixel_gradient(
        lambda matched: loss(matched) + extra(matched), images
    )
    return value, pull_back(gradient)[0]


def _objective(step, statistic, target, classes, index, num_previous):
    """L_c as a function of what is matched of the new images."""
    config, has_previous = step.context.config, step.context.has_previous
    measure = lambda x, y: distance(config.matching.distance, x, y)
    term, needs = REGULARIZERS[config.regularizer.name]
    if not has_previous:
        return lambda matched: measure(matched, target)
    needs = needs | ({"previous"} if config.matching.union else set())
    whole, previous, previous_loss = None, None, None
    if "whole_class" in needs:
        everything = jnp.arange(classes.data.images.shape[1])
        count = classes.data.counts[index]
        whole = statistic.value(
            step.real("whole_class", classes, index, everything, count), None
        )
    if needs & {"previous", "previous_loss"}:
        earlier, weights = step.previous(classes.previous[index], num_previous)
    if "previous" in needs:
        previous = statistic.value(earlier, weights)
    if "previous_loss" in needs:
        previous_loss = lambda params: statistic.loss(params, earlier, weights)
    constants = RegularizerContext(
        distance=measure,
        params=statistic.params,
        previous=previous,
        whole_class=whole,
        previous_loss=previous_loss,
        previous_share=num_previous / (num_previous + classes.pixels.shape[1]),
        step_size=config.regularizer.step_size,
    )

    def objective(matched):
        penalty = config.regularizer.weight * term(matched, constants)
        if config.matching.union:
            matched = mix(matched, constants)
        return measure(matched, target) + penalty

    return objective

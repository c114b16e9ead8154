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
from d4a_jax.devices.parallel import map_items
from d4a_jax.formation import decode, form_tiles
from d4a_jax.matching import distance
from d4a_jax.real_data import Pool, RealData
from d4a_jax.regularizers import REGULARIZERS, RegularizerContext, mix
from d4a_jax.surrogates.base import StepResult, Surrogate, SurrogateContext, Task
from d4a_jax.surrogates.network_updates import (
    fresh_network,
    reads_between_steps,
    train_between_steps,
)
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

    return Surrogate(init, update, reads=reads_of_step(context))


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
    return Shared(state.variables, _step_key(key, step), task.num_previous)


def _step_key(key, step):
    return rng.stream(key, "matching", step)


def _class_key(key, label):
    return jax.random.fold_in(key, label)


def reads_of_step(context: SurrogateContext) -> Callable[..., Any]:
    """`Surrogate.reads` of surrogates that match class by class."""
    inner = context.config.matching.inner_iterations

    def reads(key, step, task):
        of_classes = map_items(
            context.layout,
            lambda key, items, i: _rows_of_class(context, key, items, i),
            _step_key(key, step),
            (task.data, task.pool),
        )
        key = rng.stream(key, "network_batches", step - 1)
        of_network = reads_between_steps(key, context, task)
        if of_network is None:
            return of_classes
        # A fresh network is not trained before its first step.
        return of_classes, jnp.where(step % inner == 0, -1, of_network)

    return reads


def _rows_of_class(context, key, items, index):
    """Rows on the host of the real batches of a class."""
    data, pool = items
    key = _class_key(key, data.labels[index])
    batches = _real_batches(context, key, data, pool, index)
    return {name: data.images.rows[index, drawn] for name, drawn in batches.items()}


def _real_batches(context, key, data, pool, index):
    """Positions of the real images that a class draws in a step, by the batch's name.

    Args:
      context: static surroundings.
      key: of the step and the class.
      data: of the classes on this device.
      pool: of the same classes.
      index: of the class among them.
    """
    size = context.config.matching.batch_real
    draw = lambda name, count: rng.sample_without_replacement(
        rng.stream(key, name), count, pool.positions.shape[1], size
    )
    # "real" are of those that the filter kept.
    batches = {"real": pool.positions[index][draw("real", pool.counts[index])]}
    if "whole_class" in _regularizer_needs(context):
        batches["whole_class"] = draw("whole_class", data.counts[index])
    return batches


def _regularizer_needs(context):
    if not context.has_previous:
        return frozenset()
    return REGULARIZERS[context.config.regularizer.name][1]


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

    def real(self, name: str, classes: Classes, index: jax.Array) -> jax.Array:
        """A_w(B): "real", of the images that the filter kept, or "whole_class".

        Only the drawn rows of the classes' images are read.
        """
        data, pool = classes.data, classes.pool
        drawn = _real_batches(self.context, self.key, data, pool, index)[name]
        return self.augment(data.images[index, drawn])

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
    step = ClassStep(context, _class_key(shared.key, label))
    statistic = make_statistic(context, shared.variables, label)
    target = statistic.value(step.real("real", classes, index), None)
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
        whole = statistic.value(step.real("whole_class", classes, index), None)
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

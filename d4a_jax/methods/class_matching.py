"""Matching the classes one by one: what gradient and distribution matching share.

One step, for the current network theta and every class c on its own:

    L_c = D(m(A*_w(S_k,c)), m(A_w(B_c))) + lambda Reg_c

with m the matched statistic (see `statistics`), B_c drawn from the images that D4A's
filter kept, one draw w of the siamese augmentation for all batches of the class, and
A* = A after multi-formation. Where unions are matched (PDD, Chen et al. 2024), the
first argument of D is the value of S_<k,c together with S_k,c, of which only the latter
is moved. A fresh network comes every `inner_iterations` steps and is trained in
between.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from d4a_jax import rng
from d4a_jax.augment import siamese_augment
from d4a_jax.formation import decode, form_tiles
from d4a_jax.matching import distance
from d4a_jax.methods.base import Batch, Method, Setting, Task
from d4a_jax.methods.inner_networks import (
    fresh_network,
    network_of_step,
    network_rows,
)
from d4a_jax.methods.statistics import MakeStatistic, Statistic
from d4a_jax.real_data import ClassRows
from d4a_jax.regularizers import Constants, Values, mix


class ClassItem(NamedTuple):
    """The data of one class in one step; a leading axis of classes when stacked.

    Attributes:
      label: the class.
      pixels: `[n, h, w, c]`, the segment in the making.
      real: uint8 images by the name of their batch: "kept" by the filter, and
        "whole_class" where the regularizer asks for it.
      previous: uint8 `[p, h, w, c]`, earlier segments.
    """

    label: jax.Array
    pixels: jax.Array
    real: dict[str, jax.Array]
    previous: jax.Array


class Shared(NamedTuple):
    """What all classes of a step share: the network, the step's key, n_<k."""

    variables: dict[str, Any]
    key: jax.Array
    num_previous: jax.Array


class Matching(NamedTuple):
    """How one class is matched.

    Attributes:
      setting: the plain values.
      statistic: what is matched, at a network's variables.
      distance: name of D; see `matching.distance`.
      union: whether S_<k takes part in the first term (PDD).
    """

    setting: Setting
    statistic: MakeStatistic
    distance: str
    union: bool


def class_matching(matching: Matching) -> Method:
    """The method that matches a statistic of every class."""
    setting = matching.setting

    def update(key, step, state, params, batch):
        state = network_of_step(key, step, setting, state, params["images"], batch)
        losses, gradient = setting.map_classes(
            lambda shared, item: match_class(matching, shared, item),
            step_constants(key, step, state, batch.task),
            class_items(params["images"], batch),
        )
        loss = mean_over_classes(losses, batch.task)
        return {"images": gradient}, state, {"matching_loss": loss}

    return Method(
        lambda key, task: fresh_network(key, 0, setting, task),
        lambda key, step, task: rows_of_step(key, step, setting, task),
        update,
    )


def step_constants(key: jax.Array, step: jax.Array, state: Any, task: Task) -> Shared:
    """What the classes of a step share."""
    return Shared(state.variables, _step_key(key, step), task.num_previous)


def class_items(pixels: jax.Array, batch: Batch) -> ClassItem:
    """The data of a step, class by class."""
    task = batch.task
    return ClassItem(task.data.labels, pixels, batch.real["classes"], task.previous)


def _step_key(key, step):
    return rng.stream(key, "matching", step)


def _class_key(key, label):
    return jax.random.fold_in(key, label)


def rows_of_step(
    key: jax.Array, step: jax.Array, setting: Setting, task: Task
) -> dict[str, Any]:
    """`Method.draw` of methods that match class by class."""
    key_of_step = _step_key(key, step)

    def of_class(name, label, positions, count):
        key = rng.stream(_class_key(key_of_step, label), name)
        drawn = rng.sample_without_replacement(
            key, count, positions.shape[0], setting.batch_real
        )
        return positions[drawn]

    def draw(name, pool):
        positions = setting.map_classes(
            lambda _, item: of_class(name, *item),
            (),
            (task.data.labels, pool.positions, pool.counts),
        )
        return ClassRows(positions)

    classes = {"kept": draw("real", task.kept)}
    if setting.has_previous and "whole_class" in setting.regularizer.needs:
        order = jnp.broadcast_to(
            jnp.arange(task.kept.positions.shape[1]), task.kept.positions.shape
        )
        classes["whole_class"] = draw(
            "whole_class", task.kept._replace(positions=order, counts=task.data.counts)
        )
    return {"classes": classes, "network": network_rows(key, step, setting, task)}


def mean_over_classes(values: jax.Array, task: Task) -> jax.Array:
    """Mean over the real classes, without those that pad the devices' shares."""
    real = task.data.counts > 0
    return jnp.sum(jnp.where(real, values, 0.0)) / jnp.sum(real)


class ClassStep(NamedTuple):
    """One class in one step: its key and the batches that are made for it."""

    setting: Setting
    key: jax.Array

    def augment(self, images: jax.Array) -> jax.Array:
        """The siamese augmentation; every call makes the same draw (A_w)."""
        return siamese_augment(
            rng.stream(self.key, "augment"),
            self.setting.normalize(images),
            self.setting.augmentation,
            shared=True,
        )

    def formed(self, pixels: jax.Array) -> jax.Array:
        """A*_w(S_k): at most `batch_syn_max` of the formed images, augmented."""
        setting, size = self.setting, self.setting.batch_syn_max
        formed = decode(pixels, setting.factor, setting.decode, size)
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
        factor = self.setting.factor
        tiles = factor**2
        capacity = len(stored) * tiles
        size = min(self.setting.batch_syn_max, capacity)
        available = num_previous * tiles
        drawn = rng.sample_without_replacement(
            rng.stream(self.key, "previous"), available, capacity, size
        )
        images = stored[drawn // tiles].astype(jnp.float32) / 255.0
        formed = form_tiles(images, drawn % tiles, factor)
        return self.augment(formed), (jnp.arange(size) < available).astype(jnp.float32)


def class_step(setting: Setting, shared: Shared, item: ClassItem) -> ClassStep:
    """The step of one class."""
    return ClassStep(setting, _class_key(shared.key, item.label))


def match_class(
    matching: Matching,
    shared: Shared,
    item: ClassItem,
    extra: Callable[[Values], jax.Array] = lambda matched: 0.0,
) -> tuple[jax.Array, jax.Array]:
    """Matching loss of one class and its gradient with respect to the pixels.

    Args:
      matching: what is matched and how.
      shared: constants of the step.
      item: the class.
      extra: a further term of the loss, of the synthetic images' values.

    Returns:
      The loss and the gradient `[n, h, w, c]`.
    """
    step = class_step(matching.setting, shared, item)
    statistic = matching.statistic(shared.variables, item.label)
    target = statistic.value(step.augment(item.real["kept"]), None)
    loss = _objective(matching, step, statistic, target, item, shared.num_previous)
    images, pull_back = jax.vjp(step.formed, item.pixels)
    value, gradient = statistic.pixel_gradient(
        lambda matched: loss(matched) + extra(matched), images
    )
    return value, pull_back(gradient)[0]


def _objective(
    matching: Matching,
    step: ClassStep,
    statistic: Statistic,
    target: Values,
    item: ClassItem,
    num_previous: jax.Array,
) -> Callable[[Values], jax.Array]:
    """L_c as a function of the new images' values."""
    measure = lambda x, y: distance(matching.distance, x, y)
    regularizer = matching.setting.regularizer
    if not matching.setting.has_previous:
        return lambda matched: measure(matched, target)
    needs = regularizer.needs | ({"previous"} if matching.union else set())
    whole, previous, previous_loss = None, None, None
    if "whole_class" in needs:
        whole = statistic.value(step.augment(item.real["whole_class"]), None)
    if needs & {"previous", "previous_loss"}:
        earlier, weights = step.previous(item.previous, num_previous)
    if "previous" in needs:
        previous = statistic.value(earlier, weights)
    if "previous_loss" in needs:
        previous_loss = lambda params: statistic.loss(params, earlier, weights)
    constants = Constants(
        distance=measure,
        previous_share=num_previous / (num_previous + item.pixels.shape[0]),
        params=statistic.params,
        previous=previous,
        whole_class=whole,
        previous_loss=previous_loss,
    )

    def objective(matched):
        penalty = regularizer.weight * regularizer.term(matched, constants)
        if matching.union:
            matched = mix(matched, constants)
        return measure(matched, target) + penalty

    return objective

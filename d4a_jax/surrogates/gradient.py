"""Gradient matching with networks trained on real data (IDC, Kim et al. 2022; eq. 4).

One step, for the current network theta and every class c on its own:

    L_c = D(g_c(theta; A*_w(S_k,c)), g_c(theta; A_w(B_c))) + lambda Reg_c

with B_c drawn from the images that D4A's filter kept, one draw w of the siamese
augmentation for all batches of the class, and A* = A after multi-formation. Then the
network takes SGD steps on real images. Every `inner_iterations` steps a fresh network
takes its place.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from d4a_jax import rng
from d4a_jax.augment import siamese_augment
from d4a_jax.formation import decode, form_tiles
from d4a_jax.matching import (
    MatchedLayers,
    class_loss,
    distance,
    matched_gradient,
    pixel_gradient,
    select_layers,
)
from d4a_jax.parallel import map_items
from d4a_jax.real_data import Pool, RealData
from d4a_jax.regularizers import REGULARIZERS, RegularizerContext
from d4a_jax.surrogates.base import StepResult, Surrogate, SurrogateContext
from d4a_jax.surrogates.network_updates import (
    fresh_network,
    reads_between_steps,
    train_between_steps,
)


class _Classes(NamedTuple):
    """What belongs to single classes; all leading axes are the classes."""

    pixels: jax.Array
    data: RealData
    pool: Pool
    previous: jax.Array


def gradient_matching(context: SurrogateContext) -> Surrogate:
    """Builds the surrogate of IDC with D4A's regularizer."""
    inner = context.config.matching.inner_iterations

    def init(key, task):
        return fresh_network(key, 0, context, task)

    def update(key, step, state, pixels, task):
        state = lax.cond(
            step % inner == 0,
            lambda: fresh_network(key, step // inner, context, task),
            lambda: state,
        )
        classes = _Classes(pixels, task.data, task.pool, task.previous)
        losses, gradient = map_items(
            context.layout,
            lambda shared, items, i: _match_class(context, shared, items, i),
            (state.variables, rng.stream(key, "matching", step), task.num_previous),
            classes,
        )
        state = train_between_steps(
            rng.stream(key, "network_batches", step), context, state, task
        )
        real = task.data.counts > 0
        loss = jnp.sum(jnp.where(real, losses, 0.0)) / jnp.sum(real)
        return StepResult(gradient, {"matching_loss": loss}), state

    def reads(key, step, task):
        of_classes = map_items(
            context.layout,
            lambda key, items, i: _rows_of_class(context, key, items, i),
            rng.stream(key, "matching", step),
            (task.data, task.pool),
        )
        key = rng.stream(key, "network_batches", step)
        return of_classes, reads_between_steps(key, context, task)

    return Surrogate(init, update, reads)


class _ClassStep(NamedTuple):
    """One class in one step: the network, the class's label and its keys."""

    context: SurrogateContext
    variables: dict
    label: jax.Array
    key: jax.Array
    layers: MatchedLayers

    @property
    def params(self):
        return self.variables["params"]

    def augment(self, images):
        """The siamese augmentation; every call makes the same draw (A_w)."""
        return siamese_augment(
            rng.stream(self.key, "augment"),
            self.context.normalize(images),
            self.context.config.matching.augmentation,
            shared=True,
        )

    def loss(self, params, images, weights=None):
        """Training loss of augmented images of the class."""
        variables = {**self.variables, "params": params}
        network = self.context.network
        return class_loss(network, variables, images, self.label, weights)

    def gradient(self, images, weights=None):
        """Matched gradient g_c(theta; images), for constant images."""
        images = self.augment(images)
        return matched_gradient(
            lambda params: self.loss(params, images, weights), self.params, self.layers
        )



def _match_class(context, shared, classes, index):
    """Matching loss of one class and its gradient with respect to the pixels."""
    variables, key, num_previous = shared
    matching = context.config.matching
    label = classes.data.labels[index]
    layers = select_layers(
        variables["params"], matching.match_norm_and_bias, matching.match_classifier
    )
    key = jax.random.fold_in(key, label)
    step = _ClassStep(context, variables, label, key, layers)

    batches = _real_batches(context, key, classes.data, classes.pool, index)
    # Of the images of all classes only the drawn rows are read.
    real = {n: classes.data.images[index, drawn] for n, drawn in batches.items()}
    target = step.gradient(real["real"])
    penalty = _regularizer(step, classes, index, num_previous, real)

    def objective(gradient):
        return distance(matching.distance, gradient, target) + penalty(gradient)

    images, pull_back = jax.vjp(
        lambda pixels: step.augment(_form(step, pixels)), classes.pixels[index]
    )
    value, gradient = pixel_gradient(objective, step.loss, step.params, images, layers)
    return value, pull_back(gradient)[0]


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
    batches = {"real": pool.positions[index][draw("real", pool.counts[index])]}
    if "whole_class" in _regularizer_needs(context):
        batches["whole_class"] = draw("whole_class", data.counts[index])
    return batches


def _rows_of_class(context, key, items, index):
    """Rows on the host of the batches of a class."""
    data, pool = items
    key = jax.random.fold_in(key, data.labels[index])
    batches = _real_batches(context, key, data, pool, index)
    return {name: data.images.rows[index, drawn] for name, drawn in batches.items()}


def _regularizer_needs(context):
    name = context.config.regularizer.name
    if not context.has_previous or name == "none":
        return frozenset()
    return REGULARIZERS[name][1]


def _form(step, pixels):
    """Multi-formation of one class, at most `batch_syn_max` images of it."""
    config = step.context.config
    synthetic, size = config.synthetic, config.matching.batch_syn_max
    formed = decode(pixels, synthetic.factor, synthetic.decode, size)
    total = len(formed)
    if total <= size:
        return formed
    key = rng.stream(step.key, "formed")
    return formed[rng.sample_without_replacement(key, total, total, size)]


def _regularizer(step, classes, index, num_previous, real):
    """The weighted regularizer of the class as a function of the new gradient."""
    config = step.context.config
    if not step.context.has_previous or config.regularizer.name == "none":
        return lambda gradient: 0.0
    term, needs = REGULARIZERS[config.regularizer.name]
    whole, previous, previous_loss = None, None, None
    if "whole_class" in needs:
        whole = step.gradient(real["whole_class"])
    if needs & {"previous", "previous_loss"}:
        earlier, weights = _previous_batch(step, classes.previous[index], num_previous)
    if "previous" in needs:
        previous = step.gradient(earlier, weights)
    if "previous_loss" in needs:
        images = step.augment(earlier)
        previous_loss = lambda matched: step.loss(
            step.layers.merge(step.params, matched), images, weights
        )
    new = classes.pixels.shape[1]
    constants = RegularizerContext(
        distance=lambda x, y: distance(config.matching.distance, x, y),
        params=step.layers.split(step.params),
        previous=previous,
        whole_class=whole,
        previous_loss=previous_loss,
        previous_share=num_previous / (num_previous + new),
        step_size=config.regularizer.step_size,
    )
    return lambda gradient: config.regularizer.weight * term(gradient, constants)


def _previous_batch(step, previous, num_previous):
    """Formed images of the earlier segments and weights, zero where there are fewer.

    A fresh random subset in every step where there are more than `batch_syn_max`.
    """
    config = step.context.config
    tiles = config.synthetic.factor**2
    capacity = len(previous) * tiles
    size = min(config.matching.batch_syn_max, capacity)
    available = num_previous * tiles
    drawn = rng.sample_without_replacement(
        rng.stream(step.key, "previous"), available, capacity, size
    )
    images = previous[drawn // tiles].astype(jnp.float32) / 255.0
    formed = form_tiles(images, drawn % tiles, config.synthetic.factor)
    return formed, (jnp.arange(size) < available).astype(jnp.float32)

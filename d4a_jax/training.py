"""Supervised training of a network: one recipe, used wherever a network is trained."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax

from d4a_jax import rng
from d4a_jax.augment import cutmix, siamese_augment
from d4a_jax.networks import Network


class Recipe(Protocol):
    """How a network is trained; sections of the configuration fulfil it."""

    batch_size: int
    learning_rate: float
    momentum: float
    weight_decay: float
    augmentation: str
    cutmix_probability: float


class NetworkState(NamedTuple):
    """A network in training."""

    params: Any
    batch_stats: Any
    opt_state: Any

    @property
    def variables(self) -> dict:
        return {"params": self.params, "batch_stats": self.batch_stats}


class Batch(NamedTuple):
    """Images in [0, 1] `[b, h, w, c]`, labels and weights `[b]`, 0 for padding.

    Labels are int32 `[b]`, or distributions float32 `[b, classes]`, learned ones or a
    teacher's.
    """

    images: jax.Array
    labels: jax.Array
    weights: jax.Array


class Normalization(NamedTuple):
    """Mean and standard deviation per channel, in units of [0, 1] pixels."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, images: jax.Array) -> jax.Array:
        """Normalizes `[n, h, w, c]`: uint8, or float32 in [0, 1]."""
        if images.dtype == jnp.uint8:
            images = images.astype(jnp.float32) / 255.0
        return (images - jnp.array(self.mean)) / jnp.array(self.std)


def sgd(
    recipe: Recipe, learning_rate: optax.ScalarOrSchedule
) -> optax.GradientTransformation:
    """Momentum SGD with weight decay on all parameters, as the field trains."""
    return optax.chain(
        optax.add_decayed_weights(recipe.weight_decay),
        optax.sgd(learning_rate, momentum=recipe.momentum),
    )


def step_decay(
    learning_rate: float, total_steps: int | jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """Learning rate times 0.2 after 2/3 and again after 5/6 of training (IDC)."""

    def schedule(step):
        decays = (step >= (2 * total_steps) // 3).astype(jnp.float32)
        decays += (step >= (5 * total_steps) // 6).astype(jnp.float32)
        return learning_rate * 0.2**decays

    return schedule


def constant(
    learning_rate: float, total_steps: int | jax.Array
) -> Callable[[jax.Array], jax.Array]:
    """The learning rate itself in every step."""
    del total_steps
    return lambda step: jnp.full_like(step, learning_rate, jnp.float32)


def start(
    key: jax.Array, network: Network, optimizer: optax.GradientTransformation
) -> NetworkState:
    """A freshly initialized network."""
    variables = network.init(key)
    params = variables["params"]
    stats = variables.get("batch_stats", {})
    return NetworkState(params, stats, optimizer.init(params))


def train_step(
    key: jax.Array,
    network: Network,
    optimizer: optax.GradientTransformation,
    recipe: Recipe,
    normalize: Normalization,
    state: NetworkState,
    batch: Batch,
    temperature: jax.Array | None = None,
) -> tuple[NetworkState, jax.Array]:
    """One SGD step on a batch, augmented per image and mixed by CutMix.

    With a temperature T the batch is taken as it is and its labels are a teacher's
    distributions at T: the loss is T**2 times the cross-entropy of the softmax at T.

    Returns:
      The new state and the weighted mean cross-entropy of the batch.
    """
    images, targets = normalize(batch.images), batch.labels
    if temperature is None:
        images, targets = _augmented(key, recipe, images, targets, network.num_classes)
        temperature = 1.0

    def loss(params):
        variables = {"params": params, "batch_stats": state.batch_stats}
        logits, stats = network.apply(variables, images, True)
        losses = optax.softmax_cross_entropy(logits / temperature, targets)
        losses *= temperature**2
        return jnp.sum(losses * batch.weights) / jnp.sum(batch.weights), stats

    (value, stats), grads = jax.value_and_grad(loss, has_aux=True)(state.params)
    updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    return NetworkState(params, stats, opt_state), value


def _augmented(key, recipe, images, labels, num_classes):
    """Augmented, mixed images and their labels as distributions."""
    images = siamese_augment(
        rng.stream(key, "augment"), images, recipe.augmentation, shared=False
    )
    return cutmix(
        rng.stream(key, "cutmix"),
        images,
        labels,
        recipe.cutmix_probability,
        num_classes=num_classes,
    )


def steps_per_epoch(count: int, batch_size: int) -> int:
    """Batches of one pass over `count` images; the last one may be partial."""
    return math.ceil(count / batch_size)

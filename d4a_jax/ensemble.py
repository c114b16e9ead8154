"""Networks trained from scratch on the same recipe, and what they predict.

One program trains several networks, each from its own key and on its own part of the
training images. It serves the evaluation of a distilled set, the networks of D4A's
filter (the same ones) and the cross-fitted networks that measure difficulty.
"""

import itertools
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from d4a_jax import rng
from d4a_jax.augment.crops import cut_crops
from d4a_jax.devices.parallel import (
    Layout,
    compiled,
    map_batches,
    map_indices,
    map_items,
    on_each_device,
    replicate,
    spread,
)
from d4a_jax.devices.streaming import Images
from d4a_jax.formation import form_tiles
from d4a_jax.networks import Network
from d4a_jax.training import (
    Batch,
    NetworkState,
    Normalization,
    Recipe,
    sgd,
    start,
    step_decay,
    train_step,
)

ProgressHook = Callable[[int, int, dict], None]
# Called with (steps done, variables); these are valid during the call only.
ObserveHook = Callable[[int, dict], None]
Schedule = Callable[[float, int | jax.Array], Callable[[jax.Array], jax.Array]]


class SoftLabels(NamedTuple):
    """A teacher's labels for stored crops; see `soft_labels`.

    Attributes:
      logits: float16 `[E, n * factor ** 2, classes]`.
      crops: int16 `[E, n * factor ** 2, 4]`.
      temperature: float32 scalar.
    """

    logits: jax.Array
    crops: jax.Array
    temperature: jax.Array


class TrainingImages(NamedTuple):
    """What all networks train on.

    Attributes:
      images: stored images, uint8 `[n, h, w, c]`.
      labels: int32 `[n]`.
      soft: a teacher's labels, and the crops that replace augmentation with them; None
        where there is no teacher.
      label_logits: float16 `[n * factor ** 2, classes]` in the order of
        `DistilledDataset.formed`: logits of learned labels, which replace the hard ones
        and nothing else; or None.
    """

    images: Images
    labels: jax.Array
    soft: SoftLabels | None = None
    label_logits: jax.Array | None = None


class Subsets(NamedTuple):
    """Which images each network trains on: `rows[e, :counts[e]]` for network e.

    Attributes:
      rows: int32 `[E, n]`, row numbers of the training images.
      counts: int32 `[E]`.
    """

    rows: np.ndarray
    counts: np.ndarray


class Member(NamedTuple):
    """One network in training; stacked along a leading axis for all of them."""

    key: jax.Array
    rows: jax.Array
    count: jax.Array
    order: jax.Array
    state: NetworkState


class Ensemble:
    """Trains networks of one kind by one recipe; compiled once, used many times.

    Args:
      network: the network to train.
      recipe: see `training.Recipe`.
      normalize: of the real training set, which the distilled set shares.
      factor: multi-formation factor of the training images; 1 for real ones.
      layout: devices; networks are spread over them.
      predict_batch: images classified at once.
      schedule: of (learning rate, total steps), the rate as a function of the step.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        normalize: Normalization,
        factor: int,
        layout: Layout,
        predict_batch: int,
        schedule: Schedule = step_decay,
    ):
        self.network = network
        self.recipe = recipe
        self.normalize = normalize
        self.factor = factor
        self.layout = layout
        self.predict_batch = predict_batch
        self.schedule = schedule
        self._begin = compiled(self._begin_all)
        self._advance = compiled(self._advance_all, donate=("members",))
        self._reductions: dict[tuple[Callable, str], Callable] = {}

    def total_steps(self, count: int, epochs: int, max_steps: int | None) -> int:
        """Steps of a training on `count` stored images, never more than `max_steps`."""
        formed = count * self.factor**2
        steps = epochs * math.ceil(formed / self.recipe.batch_size)
        return min(steps, max_steps) if max_steps else steps

    def fit(
        self,
        key: jax.Array,
        training: TrainingImages,
        subsets: Subsets,
        total_steps: int,
        progress: ProgressHook | None = None,
        steps_per_call: int = 100,
        observe: ObserveHook | None = None,
        observe_at: Collection[int] = (),
    ) -> dict:
        """Trains a network per subset and returns their variables, stacked `[E, ...]`.

        Args:
          key: typed key; network e uses the stream `("member", e)`.
          training: the images that `subsets` points into.
          subsets: what each network sees.
          total_steps: SGD steps of each network.
          progress: called with (steps done, total steps, figures) after every call.
          steps_per_call: steps between two calls of `progress`; no effect on results.
          observe: sees the networks during training, without an effect on them.
          observe_at: after which steps, each from 1 to `total_steps`.
        """
        count = len(subsets.counts)
        training = replicate(self.layout, training)
        members = self.begin(key, range(count), subsets)
        stops = {*range(0, total_steps, steps_per_call), total_steps, *observe_at}
        for first, last in itertools.pairwise(sorted(stops)):
            members, loss = self.advance(training, members, first, last, total_steps)
            if progress:
                progress(last, total_steps, {"loss": float(loss[:count].mean())})
            if last in observe_at:
                observe(last, _variables(members, count))
        return _variables(members, count)

    def begin(self, key: jax.Array, numbers: Sequence[int], subsets: Subsets) -> Member:
        """Networks before their first step, stacked and spread over the devices.

        Args:
          key: typed key; network e uses the stream `("member", e)`.
          numbers: e of every network.
          subsets: what each of them sees.
        """
        numbers = jnp.array(list(numbers), jnp.int32)
        keys = jax.vmap(lambda e: rng.stream(key, "member", e))(numbers)
        return self._begin(*spread(self.layout, (keys, *subsets)))

    def advance(
        self,
        training: TrainingImages,
        members: Member,
        first: int,
        last: int,
        total_steps: int,
    ) -> tuple[Member, jax.Array]:
        """Trains from step `first` to `last`; also returns each network's last loss.

        `training` must be on all devices (`parallel.replicate`); `members` are used up.
        """
        bounds = np.array([first, last, total_steps], np.int32)
        return self._advance((training, bounds), members=members)

    def predict(
        self,
        variables: dict,
        images: Any,
        labels: Any,
        reduce: Callable,
        output: Literal["logits", "embedding"] = "logits",
    ) -> Any:
        """Classifies images with all networks and reduces the result batch by batch.

        Args:
          variables: stacked variables from `fit`.
          images: uint8 `[n, h, w, c]` spread over the devices (see `parallel.spread`),
            or `[C, m, h, w, c]` grouped by class.
          labels: int32 of the images' leading shape.
          reduce: pure function of (logits `[E, b, classes]`, labels `[b]`) to a tree of
            arrays `[b, ...]`. Pass the same function object to reuse its program.
          output: what `reduce` gets: logits, or the embeddings `[E, b, d]` that the
            classifier sees.

        Returns:
          What `reduce` returns, for all images, in the leading shape of `labels`.
        """
        if (reduce, output) not in self._reductions:
            self._reductions[reduce, output] = compiled(
                lambda variables, images, labels: self._predict_all(
                    variables, images, labels, reduce, output
                )
            )
        variables = replicate(self.layout, variables)
        return self._reductions[reduce, output](variables, images, labels)

    def _optimizer(self, total_steps):
        rate = self.schedule(self.recipe.learning_rate, total_steps)
        return sgd(self.recipe, rate)

    def _begin_all(self, keys, rows, counts):
        # Only the structure of its state matters here, not the length of training.
        optimizer = self._optimizer(total_steps=1)

        def one(_, items, index):
            key, rows, count = (item[index] for item in items)
            state = start(rng.stream(key, "network"), self.network, optimizer)
            order = jnp.zeros(len(rows) * self.factor**2, jnp.int32)
            return Member(key, rows, count, order, state)

        return map_items(self.layout, one, (), (keys, rows, counts))

    def _advance_all(self, shared, members):
        return map_items(self.layout, self._advance_one, shared, members)

    def _advance_one(self, shared, members, index):
        training, (first, last, total_steps) = shared
        member = jax.tree.map(lambda x: x[index], members)
        optimizer = self._optimizer(total_steps)
        size = self.recipe.batch_size
        formed = member.count * self.factor**2
        epoch_steps = -(-formed // size)

        def step_once(step, carry):
            state, order, _ = carry
            epoch, place = step // epoch_steps, step % epoch_steps
            order = lax.cond(
                place == 0,
                lambda: _shuffled(
                    rng.stream(member.key, "epoch", epoch), formed, len(order)
                ),
                lambda: order,
            )
            positions = place * size + jnp.arange(size)
            batch = self._batch(training, member, order[positions % formed], epoch)
            batch = batch._replace(weights=(positions < formed).astype(jnp.float32))
            state, loss = train_step(
                rng.stream(member.key, "step", step),
                self.network,
                optimizer,
                self.recipe,
                self.normalize,
                state,
                batch,
                None if training.soft is None else training.soft.temperature,
            )
            return state, order, loss

        carry = (member.state, member.order, jnp.zeros(()))
        state, order, loss = lax.fori_loop(first, last, step_once, carry)
        return member._replace(state=state, order=order), loss

    def _batch(self, training, member, formed_positions, epoch):
        tiles = self.factor**2
        rows, tile = member.rows[formed_positions // tiles], formed_positions % tiles
        images = training.images[rows].astype(jnp.float32) / 255.0
        images = form_tiles(images, tile, self.factor)
        formed = tile * len(training.labels) + rows
        labels = training.labels[rows]
        if training.label_logits is not None:
            learned = training.label_logits[formed].astype(jnp.float32)
            labels = jax.nn.softmax(learned)
        if training.soft is not None:
            soft = training.soft
            epoch = epoch % len(soft.crops)
            images = cut_crops(images, soft.crops[epoch, formed], *images.shape[1:3])
            logits = soft.logits[epoch, formed].astype(jnp.float32)
            labels = jax.nn.softmax(logits / soft.temperature)
        return Batch(images, labels, jnp.ones(len(rows)))

    def _predict_all(self, variables, images, labels, reduce, output):
        def outputs_of(variables, images):
            images = self.normalize(images)
            if output == "embedding":
                return self.network.features(variables, images, False)[-1]
            return self.network.apply(variables, images, False)[0]

        def on_batch(variables, batch):
            images, labels = batch
            images = images[...]  # Images on the host are read here.
            networks = len(jax.tree.leaves(variables)[0])
            of_network = lambda i: outputs_of(
                jax.tree.map(lambda x: x[i], variables), images
            )
            return reduce(map_indices(self.layout, of_network, networks), labels)

        def local(variables, arrays):
            images, labels = arrays
            flat = jax.tree.map(
                lambda x: x.reshape(-1, *x.shape[labels.ndim :]), arrays
            )
            out = map_batches(
                lambda batch: on_batch(variables, batch), flat, self.predict_batch
            )
            return jax.tree.map(lambda x: x.reshape(*labels.shape, *x.shape[1:]), out)

        return on_each_device(self.layout, local, variables, (images, labels))


def _variables(members, count):
    """The networks without those that fill up the devices."""
    return jax.tree.map(lambda x: x[:count], members.state.variables)


def checkpoints(total_steps: int, count: int) -> tuple[int, ...]:
    """Up to `count` steps, evenly spaced, the last one that of the end."""
    return tuple(sorted({-(-total_steps * k // count) for k in range(1, count + 1)}))


def _shuffled(key, count, capacity):
    """A permutation of the first `count` of `capacity` positions, then the others."""
    priority = jax.random.uniform(key, (capacity,))
    return jnp.argsort(jnp.where(jnp.arange(capacity) < count, priority, 2.0))


def everything(count: int, capacity: int, networks: int) -> Subsets:
    """All networks train on the first `count` of `capacity` images."""
    rows = np.tile(np.arange(capacity, dtype=np.int32), (networks, 1))
    return Subsets(rows, np.full(networks, count, np.int32))

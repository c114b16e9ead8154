"""What a distillation costs, counted from its programs: matching steps and FLOPs.

FLOPs are those of convolutions and matrix products as the programs are written (see
`benchmark.flops`), so they do not depend on the machine. Counted is everything that a
method needs to make its images: matching steps with the networks trained between them,
the networks that filter and their pass over the real set, and the cross-fitted networks
of difficulty and the experts of trajectories, although these serve every later run on
the same data. The final test is the same for every method and is not counted. Of
selected real images the networks that choose them are counted.

`d4a_jax/cost.py` counts image passes instead, from the configuration alone, and without
the networks that filter, measure difficulty or are trained ahead. A pass through one
network costs about the FLOPs of its forward pass, so the two agree on the order of
methods where these networks weigh little. Comparisons are on passes, which are the same
for every network; sweeps are on matching steps, or on FLOPs, which also charge D4A for
its filter.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from d4a_jax.config import Config
from d4a_jax.data import Dataset
from d4a_jax.distillation.range_test import RATES, trial_steps
from d4a_jax.distillation.run import Run, prepare
from d4a_jax.methods import Task
from d4a_jax.metrics.journal import Journal
from d4a_jax.networks import Network, create_network
from d4a_jax.real_data import Pool, RealData
from d4a_jax.selection.work import Work, difficulty_work, selection_work
from d4a_jax.training import steps_per_epoch
from d4a_jax.trajectories.judgement import JUDGES
from experiments.benchmark import flops


class Budget(NamedTuple):
    """The cost of one distillation.

    Attributes:
      steps: matching steps on all classes.
      matching: FLOPs of these, with the training of networks between them.
      filtering: FLOPs of training and asking the filter's networks.
      difficulty: FLOPs of the cross-fitted networks, where they are needed.
      experts: FLOPs of training and asking the experts, where they are needed.
      selection: FLOPs of other networks that choose real images.
    """

    steps: int
    matching: int
    filtering: int = 0
    difficulty: int = 0
    experts: int = 0
    selection: int = 0

    @property
    def total(self) -> int:
        """FLOPs in all."""
        return sum(self[1:])


class _PerImage(NamedTuple):
    """FLOPs of one image through a network."""

    forward: int
    training: int


def count(config: Config, dataset: Dataset) -> Budget:
    """Counts what a configuration costs on a data set; nothing is compiled or run."""
    runtime = dataclasses.replace(config.runtime, devices=1)
    config = dataclasses.replace(config, runtime=runtime)
    steps = config.steps_per_segment * len(config.segment_sizes)
    matching = _matching(config, dataset) + _pretraining(config, dataset)
    matching += _on_stages(config, dataset)
    parts = (_filtering, _difficulty, _experts)
    return Budget(steps, matching, *(part(config, dataset) for part in parts))


def count_selection(
    selection: str, factor: int, config: Config, dataset: Dataset
) -> Budget | None:
    """Counts what choosing real images costs; None for random ones.

    Args:
      selection: as `work.selection_work` takes it.
      factor: of multi-formation, 1 for images as they are.
      config: the networks that choose.
      dataset: the real data.
    """
    found = {
        work.need: _flops_of(work, config, dataset)
        for work in selection_work(selection, factor, config, dataset)
    }
    difficulty = found.pop("difficulty", 0)
    paid = Budget(0, 0, difficulty=difficulty, selection=sum(found.values()))
    return paid if paid.total else None


def _flops_of(work: Work, config, dataset):
    cost = _per_image(work.network, config, dataset)
    return work.trained * cost.training + work.seen * cost.forward


def with_flops(config: Config, dataset: Dataset, total: int) -> Config:
    """The configuration with as many outer iterations as a number of FLOPs pays for.

    Raises:
      ValueError: if it does not pay for one.
    """
    one = dataclasses.replace(config.matching, outer_iterations=1)
    two = dataclasses.replace(config.matching, outer_iterations=2)
    first, second = (
        count(dataclasses.replace(config, matching=matching), dataset).total
        for matching in (one, two)
    )
    iterations = 1 + (total - first) // (second - first)
    if iterations < 1:
        raise ValueError(
            f"a budget of {total:.3g} FLOPs does not pay for one outer iteration in "
            f"every segment, which takes {first:.3g}."
        )
    matching = dataclasses.replace(config.matching, outer_iterations=int(iterations))
    return dataclasses.replace(config, matching=matching)


def _matching(config, dataset):
    """FLOPs of all matching steps, and of the trials of a range test for their rate."""
    run = _run(config, dataset)
    found = {}
    for stage, size in enumerate(config.segment_sizes):
        if (size, stage > 0) not in found:
            found[size, stage > 0] = _step(run, size, stage > 0)
    steps = sum(found[size, k > 0] for k, size in enumerate(config.segment_sizes))
    work = config.steps_per_segment * steps
    if config.matching.learning_rate is None:
        trials = len(RATES) * sum(trial_steps(config))
        work += trials * found[config.segment_sizes[0], False]
    return work


def _run(config, dataset) -> Run:
    """A run whose programs hold what every step does, at any learning rate."""
    training = dataclasses.replace(
        config.network_training, pretrain_epochs=0, stage_epochs=0
    )
    rate = config.matching.learning_rate or 1.0
    config = dataclasses.replace(
        config,
        matching=dataclasses.replace(config.matching, learning_rate=rate),
        network_training=training,
    )
    return prepare(config, dataset, Journal(None), None)


def _step(run: Run, size: int, has_previous: bool) -> int:
    """FLOPs of one matching step on all classes."""
    init, advance = run.unfed_programs(size, has_previous)
    method, task = run.method(has_previous), _task(run)
    segment = jax.eval_shape(init, run.key, task)
    fed = method.fed(1, task) if method.fed else None
    # Step 1: not that in which a fresh network is made.
    traced = advance.trace(
        run.key, jnp.int32(1), steps=1, state=segment, task=task, fed=fed
    )
    return flops.count(traced.jaxpr).flops


def _task(run):
    """Shapes of what a segment is matched to."""
    array = jax.ShapeDtypeStruct
    classes, most = run.index.rows.shape
    sizes, shape = run.config.segment_sizes, run.dataset.image_shape
    places = max(1, sum(sizes) - sizes[-1])
    per_class = array((classes,), jnp.int32)
    labels = None
    if run.config.method.learns_labels:
        tiles = run.config.synthetic.factor**2
        labels = array((classes, places, tiles, classes), jnp.float16)
    return Task(
        RealData(array((classes, most, *shape), jnp.uint8), per_class, per_class),
        Pool(array((classes, most), jnp.int32), per_class),
        array((classes, places, *shape), jnp.uint8),
        array((), jnp.int32),
        previous_labels=labels,
    )


def _pretraining(config, dataset):
    images = config.network_training.pretrain_epochs * len(dataset.train_labels)
    if not images:
        return 0
    networks = config.matching.outer_iterations * len(config.segment_sizes)
    return networks * images * _per_image(config.network, config, dataset).training


def _on_stages(config, dataset):
    """Training of fresh networks on the unions of earlier segments (PDD)."""
    training, per_image = config.network_training, config.synthetic.factor**2
    if not training.stage_epochs:
        return 0
    steps = 0
    for stage in range(1, len(config.segment_sizes)):
        for per_class in np.cumsum(config.segment_sizes[:stage]):
            formed = int(per_class) * per_image * dataset.num_classes
            steps += steps_per_epoch(formed, training.batch_size)
    epochs = training.stage_epochs * config.matching.outer_iterations
    cost = _per_image(config.network, config, dataset).training
    return epochs * steps * training.batch_size * cost


def _filtering(config, dataset):
    sizes, settings = config.segment_sizes, config.filter
    if not settings.enabled or len(sizes) == 1:
        return 0
    spec = config.evaluation.network or config.network
    cost, recipe = _per_image(spec, config, dataset), config.evaluation
    passes = 0
    for per_class in np.cumsum(sizes)[:-1]:
        formed = int(per_class) * dataset.num_classes * config.synthetic.factor**2
        steps = recipe.epochs * steps_per_epoch(formed, recipe.batch_size)
        steps = min(steps, recipe.max_steps or steps)
        passes += steps * recipe.batch_size * cost.training
        passes += len(dataset.train_labels) * cost.forward
    return settings.networks * passes


def _difficulty(config, dataset):
    needed = bool(config.make_rule().needs)
    needed &= config.filter.enabled and len(config.segment_sizes) > 1
    if not (needed or config.synthetic.init == "window"):
        return 0
    work = difficulty_work(config.synthetic.factor, config, dataset)
    return _flops_of(work, config, dataset)


def _experts(config, dataset):
    """Training, the first ones' opinion of the real images, and all ones' labels."""
    if not config.uses_experts:
        return 0
    settings, count = config.experts, len(dataset.train_labels)
    cost = _per_image(config.network, config, dataset)
    per_epoch = steps_per_epoch(count, settings.batch_size) * settings.batch_size
    work = settings.count * settings.epochs * per_epoch * cost.training
    if _asks_for_a_judgement(config):
        judges = min(settings.count, JUDGES)
        work += judges * (1 + settings.epochs) * count * cost.forward
    if config.method.learns_labels:
        synthetic = config.synthetic
        formed = synthetic.images_per_class * synthetic.factor**2 * dataset.num_classes
        work += settings.count * formed * cost.forward
    return work


def _asks_for_a_judgement(config):
    """Whether the experts say when they learn each real image."""
    follows = config.method.follows_filter and config.filter.enabled
    is_filtered = follows and len(config.segment_sizes) > 1
    return config.synthetic.init == "correct" or is_filtered


def _per_image(spec: str, config: Config, dataset: Dataset) -> _PerImage:
    dtype = jnp.dtype(config.runtime.compute_dtype)
    network = create_network(spec, dataset.num_classes, dataset.image_shape, dtype)
    return _image_flops(network, dataset.image_shape)


def _image_flops(network: Network, shape: tuple[int, int, int], batch: int = 8):
    variables = jax.eval_shape(network.init, jax.random.key(0))
    images = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    labels = jax.ShapeDtypeStruct((batch,), jnp.int32)

    def gradient(variables, images, labels):
        def loss(params):
            logits, _ = network.apply({**variables, "params": params}, images, True)
            losses = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            return losses.mean()

        return jax.grad(loss)(variables["params"])

    forward = jax.make_jaxpr(lambda v, x: network.apply(v, x, False)[0])
    training = jax.make_jaxpr(gradient)
    return _PerImage(
        flops.count(forward(variables, images)).flops // batch,
        flops.count(training(variables, images, labels)).flops // batch,
    )

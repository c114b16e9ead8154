"""The programs that are measured: exactly those that a distillation runs."""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import filters
from d4a_jax.config import Config
from d4a_jax.distillation.run import Run, prepare
from d4a_jax.distillation.run_state import first_state, segment_key, segment_task
from d4a_jax.distillation.segments import finish
from d4a_jax.ensemble import TrainingImages, everything
from d4a_jax.metrics.journal import Journal
from experiments.benchmark import flops
from experiments.benchmark.cases import Case, random_images
from experiments.benchmark.grouped import grouped_convolutions

# Step 0 also makes a new network; the steps of a network are counted from there.
_FIRST_STEP = 1


class Program(NamedTuple):
    """A traced program.

    Attributes:
      traced: it, ready to be lowered and compiled.
      work: of one call.
      start: takes the compiled program and returns a function that calls it once and
        waits for the result.
    """

    traced: jax.stages.Traced
    work: flops.Work
    start: Callable[[jax.stages.Compiled], Callable[[], None]]


class Piece(NamedTuple):
    """One row of the benchmark.

    Attributes:
      name: of the row.
      unit: what one turn is, such as a step.
      trace: traces the program for a number of turns in one call.
      images: images that go through a network in a turn, where that is the figure.
      can_repeat: whether a call can take several turns.
    """

    name: str
    unit: str
    trace: Callable[[int], Program]
    images: int | None = None
    can_repeat: bool = True


class Subject:
    """A case on the devices, before its first step."""

    def __init__(self, case: Case, config: Config):
        self.case = case
        self.run = prepare(config, random_images(case), Journal(None), None)
        state = first_state(self.run)
        self.key = segment_key(self.run, state)
        self.task = segment_task(self.run, state)
        self.segment = jax.block_until_ready(state.segment)

    def pieces(self, grouped: bool = False) -> list[Piece]:
        """What is measured, in the order of the table.

        Args:
          grouped: also the matching step with grouped convolutions.
        """
        config = self.run.config
        batch = config.evaluation.batch_size * config.evaluation.repeats
        real = self.case.classes * self.case.real_per_class
        compared = [Piece("matching, grouped", "step", self._trace_grouped)]
        return [
            Piece("matching", "step", self._trace_matching),
            *(compared if grouped else ()),
            Piece("iteration", "step", self._trace_iteration),
            Piece("filter", "pass", self._trace_filter, real, can_repeat=False),
            Piece("evaluation", "step", self._trace_evaluation, batch),
        ]

    def _trace_iteration(self, turns: int) -> Program:
        return self._trace_steps(self.run, turns)

    def _trace_matching(self, turns: int) -> Program:
        """The same without the training of the network in between."""
        config = self.run.config
        training = dataclasses.replace(config.network_training, images_per_step=0)
        config = dataclasses.replace(config, network_training=training)
        run = prepare(config, self.run.dataset, self.run.journal, None)
        return self._trace_steps(run, turns)

    def _trace_grouped(self, turns: int) -> Program:
        with grouped_convolutions():
            return self._trace_matching(turns)

    def _trace_steps(self, run: Run, turns: int) -> Program:
        _, advance = run.programs(run.config.segment_sizes[0], False)
        key, first = self.key, jnp.int32(_FIRST_STEP)

        def start(compiled):
            # The program overwrites its state, which the next call goes on with.
            state = jax.tree.map(jnp.copy, self.segment)

            def call():
                nonlocal state
                state, metrics = compiled(key, first, state=state, task=self.task)
                jax.block_until_ready((state, metrics))

            return call

        traced = advance.trace(
            key, first, steps=turns, state=self.segment, task=self.task
        )
        return Program(traced, flops.count(traced.jaxpr), start)

    def _trace_filter(self, turns: int) -> Program:
        """Classification of all real images by the filter's networks."""
        del turns
        run = self.run
        keys = jax.random.split(run.key, run.config.filter.networks)
        variables = jax.jit(jax.vmap(run.ensemble.network.init))(keys)
        data = run.data
        labels = jnp.broadcast_to(data.labels[:, None], data.images.shape[:2])

        def classify(variables, images, labels):
            return run.ensemble.predict(variables, images, labels, filters.verdict)

        return _program(classify, (variables, data.images, labels))

    def _trace_evaluation(self, turns: int) -> Program:
        """Training from scratch on the synthetic images, initialization included."""
        run = self.run
        pixels = np.asarray(finish(self.segment.params["images"]))
        images = jnp.asarray(pixels.reshape(-1, *pixels.shape[2:]))
        labels = jnp.repeat(jnp.arange(len(pixels)), pixels.shape[1])
        subsets = everything(len(images), len(images), run.config.evaluation.repeats)

        def train(key, images, labels):
            training = TrainingImages(images, labels)
            return run.ensemble.fit(key, training, subsets, turns, None, turns)

        return _program(train, (run.key, images, labels), while_turns=turns)


def _program(function, arguments, while_turns=None) -> Program:
    traced = jax.jit(function).trace(*arguments)
    work = flops.count(traced.jaxpr, while_turns)
    return Program(
        traced,
        work,
        lambda compiled: lambda: jax.block_until_ready(compiled(*arguments)),
    )

"""What stays the same during a run: configuration, data, networks and programs."""

import dataclasses
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from d4a_jax.augment import parse_strategy
from d4a_jax.config import Config, ConfigError
from d4a_jax.data import Dataset, data_directory
from d4a_jax.difficulty import Difficulty, load_or_cross_fit
from d4a_jax.ensemble import Ensemble
from d4a_jax.evaluation import Judge
from d4a_jax.journal import Journal
from d4a_jax.networks import Network, create_network
from d4a_jax.parallel import Layout, compiled, make_layout
from d4a_jax.real_data import ClassIndex, RealData, index_classes, load_real_data
from d4a_jax.segments import pixel_learning_rate, pixel_optimizer, segment_functions
from d4a_jax.streaming import HostImages, ReadAhead
from d4a_jax.surrogates import SURROGATES, Surrogate, SurrogateContext
from d4a_jax.training import Normalization


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that stays the same during a run, and its compiled programs.

    `workdir` is None where nothing is written: in memory, and in all processes but one.
    """

    config: Config
    dataset: Dataset
    layout: Layout
    network: Network
    index: ClassIndex
    journal: Journal
    workdir: Path | None
    difficulty_dir: Path

    @cached_property
    def key(self) -> jax.Array:
        return jax.random.key(self.config.seed)

    @cached_property
    def normalize(self) -> Normalization:
        return Normalization(self.dataset.mean, self.dataset.std)

    @cached_property
    def data(self) -> RealData:
        budget_gb = self.config.runtime.image_memory_gb
        images = self.dataset.train_images
        return load_real_data(images, self.index, self.layout, budget_gb)

    @cached_property
    def judge(self) -> Judge:
        return Judge(self.dataset, self.layout, self.config.runtime.image_memory_gb)

    @cached_property
    def ensemble(self) -> Ensemble:
        """The networks that are trained on the segments so far."""
        spec = self.config.evaluation.network or self.config.network
        return Ensemble(
            _create_network(spec, self.dataset, self.config),
            self.config.evaluation,
            self.normalize,
            self.config.synthetic.factor,
            self.layout,
            self.config.runtime.predict_batch,
        )

    @cached_property
    def difficulty(self) -> Difficulty:
        """Measured once and cached beside the data; see `difficulty`."""
        with self.journal.progress("difficulty of the real images", 0) as progress:
            return load_or_cross_fit(
                self.dataset,
                self.config,
                self.layout,
                self.difficulty_dir,
                lambda done, _, figures: progress.update(done, **figures),
            )

    @cached_property
    def _programs(self) -> dict:
        return {}

    def _surrogate(self, has_previous: bool) -> Surrogate:
        context = SurrogateContext(
            self.config, self.network, self.normalize, self.layout, has_previous
        )
        return SURROGATES[self.config.matching.surrogate](context)

    def _uses_previous(self, has_previous: bool) -> bool:
        return has_previous and (
            self.config.regularizer.name != "none"
            or self.config.network_training.data == "earlier"
        )

    def programs(self, size: int, has_previous: bool):
        """Compiled `init` and `advance` for segments of a size.

        The first segment has a program of its own: it has nothing to regularize on.
        """
        key = (size, self._uses_previous(has_previous))
        if key not in self._programs:
            optimizer = pixel_optimizer(
                pixel_learning_rate(self.config, size, self.dataset.image_shape[0]),
                self.config.matching.momentum,
                self.dataset.num_classes,
            )
            init, advance = segment_functions(
                self.config, self._surrogate(key[1]), optimizer, self.layout, size
            )
            self._programs[key] = (
                compiled(init),
                compiled(advance, donate=("state",), static=("steps",)),
            )
        return self._programs[key]

    @property
    def streams(self) -> bool:
        """Whether the real images are left on the host; see `streaming`."""
        return isinstance(self.data.images, HostImages)

    def read_ahead(self, has_previous: bool) -> Callable[..., None]:
        """To be called with (key, step, steps, task) before `advance` is.

        Where images are left on the host, it starts to read those of the next call.
        """
        uses_previous = self._uses_previous(has_previous)
        reads = self._surrogate(uses_previous).reads
        if reads is None or not self.streams:
            return lambda key, first, steps, task: None

        def of_steps(key, first, task, steps):
            numbers = first + jnp.arange(steps)
            return lax.map(lambda step: reads(key, step, task), numbers)

        key = ("reads", uses_previous)
        if key not in self._programs:
            self._programs[key] = compiled(of_steps, static=("steps",))
        return ReadAhead(self._programs[key], self.data.images.reader)


def check_fit(config: Config, dataset: Dataset) -> None:
    """Checks what depends on both the configuration and the data.

    Raises:
      ConfigError: naming every problem.
    """
    problems = []
    strategies = {
        "matching.augmentation": config.matching.augmentation,
        "network_training.augmentation": config.network_training.augmentation,
        "evaluation.augmentation": config.evaluation.augmentation,
    }
    for name, strategy in strategies.items():
        try:
            if parse_strategy(strategy).flip and not dataset.flip:
                problems.append(
                    f"{name} is {strategy!r}; {dataset.name} changes its meaning when "
                    "flipped, so it must be without 'flip'."
                )
        except ValueError as error:
            problems.append(f"{name}: {error}")
    factor, side = config.synthetic.factor, min(dataset.image_shape[:2])
    if factor > side // 2:
        problems.append(
            f"synthetic.factor is {factor}; images of {side} pixels allow at most "
            f"{side // 2}."
        )
    for name in ("network", "evaluation.network"):
        spec = config.network if name == "network" else config.evaluation.network
        try:
            _create_network(spec or config.network, dataset, config)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ConfigError(problems)


def prepare(
    config: Config, dataset: Dataset, journal: Journal, workdir: Path | None
) -> Run:
    """Lays a checked run out on the devices; nothing is compiled yet."""
    return Run(
        config,
        dataset,
        make_layout(config.runtime.devices, config.runtime.class_chunk),
        _create_network(config.network, dataset, config),
        index_classes(np.asarray(dataset.train_labels), dataset.num_classes),
        journal,
        workdir,
        data_directory(config.data.data_dir) / "difficulty",
    )


def _create_network(spec, dataset, config):
    dtype = jnp.dtype(config.runtime.compute_dtype)
    return create_network(spec, dataset.num_classes, dataset.image_shape, dtype)



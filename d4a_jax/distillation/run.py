"""The constants of a run: configuration, data, networks and programs."""

import dataclasses
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from d4a_jax.config import Config, ConfigError
from d4a_jax.data import Dataset, data_directory
from d4a_jax.devices.parallel import (
    Layout,
    compiled,
    make_layout,
    map_classes,
    split_batch,
)
from d4a_jax.devices.processes import any_of, is_main
from d4a_jax.devices.streaming import HostImages, ReadAhead
from d4a_jax.difficulty import MEASURES, RealDifficulty, load_or_cross_fit
from d4a_jax.distillation.segments import (
    pixel_learning_rate,
    pixel_optimizer,
    segment_functions,
)
from d4a_jax.ensemble import Ensemble, ProgressHook
from d4a_jax.evaluation import Judge
from d4a_jax.flips import flip_problems
from d4a_jax.methods import Method, Setting
from d4a_jax.metrics.journal import Journal
from d4a_jax.networks import Network, create_network
from d4a_jax.networks.flattening import flattening
from d4a_jax.real_data import (
    ClassIndex,
    Pool,
    RealData,
    host_rows,
    index_classes,
    load_real_data,
    make_pool,
    spread_pool,
)
from d4a_jax.selection import beginnings
from d4a_jax.training import Normalization
from d4a_jax.trajectories import (
    Experts,
    Judgement,
    check_size,
    judge,
    open_experts,
)


class Interrupted(Exception):
    """The run was asked to stop; its state is saved where it has a directory."""


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that stays the same during a run, and its compiled programs.

    `workdir` is None where nothing is written. All processes read it and write their
    parts of the checkpoints there; for the rest see `output`.
    """

    config: Config
    dataset: Dataset
    layout: Layout
    network: Network
    index: ClassIndex
    journal: Journal
    workdir: Path | None
    cache_dir: Path
    should_stop: Callable[[], bool] = lambda: False

    def watch(self, show: ProgressHook) -> ProgressHook:
        """Shows the progress of networks in training, and ends it on request.

        Nothing is lost by that: the segment before has its checkpoint.
        """

        def hook(done, total, figures):
            show(done, total, figures)
            if any_of(self.should_stop())[0]:
                raise Interrupted

        return hook

    @property
    def output(self) -> Path | None:
        """Where this process writes; None in all processes but one."""
        return self.workdir if is_main() else None

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
    def difficulty(self) -> RealDifficulty:
        """Measured once and cached beside the data; see `difficulty`."""
        with self.journal.progress_hook("difficulty of the real images") as progress:
            return load_or_cross_fit(
                self.dataset,
                self.config,
                self.layout,
                self.cache_dir / "difficulty",
                self.watch(progress),
            )

    @cached_property
    def experts(self) -> Experts:
        """Trained once and kept beside the data; see `trajectories`."""
        settings = self.config.experts
        total = settings.count * settings.epochs
        with self.journal.progress("epochs of the experts", total) as bar:
            return open_experts(
                self.dataset,
                self.config,
                self.layout,
                self.cache_dir / "experts",
                self.watch(lambda done, _, figures: bar.update(done, **figures)),
            )

    @cached_property
    def judgement(self) -> Judgement:
        """When the experts learn each real image."""
        budget_gb = self.config.runtime.image_memory_gb
        return judge(self.dataset, self.experts, budget_gb)

    def beginning(self, kept: np.ndarray, size: int) -> Pool:
        """The real images that a segment of a size may begin with.

        Args:
          kept: bool `[C, m]`, what the filter kept.
          size: images per class.
        """
        synthetic, to_classes = self.config.synthetic, self.index.to_classes
        needed = size * synthetic.factor**2
        if synthetic.init == "correct":
            right = to_classes(self.judgement.right)
            chosen = beginnings.correct_first(kept, right, needed)
        elif synthetic.init == "window":
            loss = to_classes(self.difficulty.train.loss)
            skipped = int(synthetic.skip_hardest * size)
            chosen = beginnings.difficulty_window(kept, loss, skipped, needed)
        else:
            return make_pool(kept, self.layout)
        return spread_pool(*chosen, self.layout)

    def epoch_shift(self, kept: np.ndarray) -> int:
        """How many epochs later the experts learn the kept images than all of them.

        Zero unless the method follows the filter.
        """
        valid = self.index.valid
        if not self.config.method.follows_filter or np.array_equal(kept, valid):
            return 0
        learned = self.index.to_classes(self.judgement.learned)
        return round(float(learned[kept].mean() - learned[valid].mean()))

    def method(self, has_previous: bool) -> Method:
        """The method, for the first segment or for later ones."""
        setting = setting_of(
            self.config,
            self.network,
            self.normalize,
            self.layout,
            has_previous,
            lambda: self.experts,
        )
        return self.config.method.build(setting)

    def pixel_optimizer(self, size: int) -> optax.GradientTransformation:
        """The optimizer of the images of a segment of a size."""
        if self.config.parts.optimizer is not None:
            return self.config.parts.optimizer
        return pixel_optimizer(
            self.config,
            pixel_learning_rate(self.config, size, self.dataset.image_shape[0]),
            self.dataset.num_classes,
            self.dataset.std,
        )

    @cached_property
    def _programs(self) -> dict:
        return {}

    def programs(self, size: int, has_previous: bool):
        """Compiled `init` and `advance` for segments of a size; `advance` feeds itself.

        The first segment has a program of its own: it has nothing to regularize on.
        """
        init, advance = self.unfed_programs(size, has_previous)
        return init, _fed(advance, self.method(has_previous))

    def unfed_programs(self, size: int, has_previous: bool):
        """Like `programs`, of an `advance` that takes the tree of the method's `feed`."""
        key = (size, has_previous and self.config.uses_previous)
        if key not in self._programs:
            method, optimizer = self.method(has_previous), self.pixel_optimizer(size)
            init, advance = segment_functions(
                self.config, method, optimizer, self.layout, size
            )
            advance = compiled(advance, donate=("state",), static=("steps",))
            self._programs[key] = compiled(init), advance
        return self._programs[key]

    @property
    def streams(self) -> bool:
        """Whether the real images are left on the host; see `streaming`."""
        return isinstance(self.data.images, HostImages)

    def read_ahead(self, has_previous: bool) -> Callable[..., None]:
        """To be called with (key, step, steps, task) before `advance` is.

        Where images are left on the host, it starts to read those of the next call.
        """
        if not self.streams:
            return lambda key, first, steps, task: None
        method = self.method(has_previous)

        def of_steps(key, first, task, steps):
            def of_step(step):
                return host_rows(task.data, method.draw(key, step, task))

            return lax.map(of_step, first + jnp.arange(steps))

        key = ("rows", has_previous and self.config.uses_previous)
        if key not in self._programs:
            self._programs[key] = compiled(of_steps, static=("steps",))
        return ReadAhead(self._programs[key], self.data.images.reader)


def setting_of(
    config: Config,
    network: Network,
    normalize: Normalization,
    layout: Layout,
    has_previous: bool,
    experts: Callable[[], Experts] | None = None,
) -> Setting:
    """The plain values that a run's configuration gives to its method."""
    return Setting(
        network,
        normalize,
        config.segment_sizes,
        config.synthetic.factor,
        config.synthetic.decode,
        config.matching.augmentation,
        config.matching.batch_real,
        config.matching.batch_syn_max,
        config.matching.inner_iterations,
        config.network_training,
        config.make_regularizer(),
        has_previous and config.uses_previous,
        experts,
        partial(map_classes, layout),
        partial(split_batch, layout),
    )


def _fed(advance, method: Method):
    """`advance` with the data that the method needs from the host for its steps."""
    if method.feed is None:
        return advance

    def advance_fed(key, first, steps, state, task):
        fed = method.feed(key, first, steps, task)
        return advance(key, first, steps=steps, state=state, task=task, fed=fed)

    return advance_fed


def check_fit(config: Config, dataset: Dataset) -> None:
    """Checks what depends on both the configuration and the data.

    Raises:
      ConfigError: naming every problem.
    """
    strategies = {
        "matching.augmentation": config.matching.augmentation,
        "network_training.augmentation": config.network_training.augmentation,
        "evaluation.augmentation": config.evaluation.augmentation,
    }
    if config.uses_experts:
        strategies["experts.augmentation"] = config.experts.augmentation
    problems = flip_problems(dataset, strategies)
    unknown = sorted(config.make_rule().needs - set(MEASURES))
    if unknown:
        problems.append(
            f"the filter's rule needs {', '.join(unknown)}; measures of difficulty are "
            f"{', '.join(MEASURES)}."
        )
    factor, side = config.synthetic.factor, min(dataset.image_shape[:2])
    if factor > side // 2:
        problems.append(
            f"synthetic.factor is {factor}; images of {side} pixels allow at most "
            f"{side // 2}."
        )
    for name in ("network", "evaluation.network"):
        spec = config.network if name == "network" else config.evaluation.network
        try:
            network = _create_network(spec or config.network, dataset, config)
            if name == "network":
                problems.extend(config.method.network_problems(network, config.network))
                if config.uses_experts:
                    check_size(config, flattening(network)[0])
        except ConfigError as error:
            problems.extend(error.problems)
        except ValueError as error:
            problems.append(f"{name}: {error}")
    if problems:
        raise ConfigError(problems)


def prepare(
    config: Config,
    dataset: Dataset,
    journal: Journal,
    workdir: Path | None,
    should_stop: Callable[[], bool] = lambda: False,
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
        data_directory(config.data.data_dir),
        should_stop,
    )


def _create_network(spec, dataset, config):
    dtype = jnp.dtype(config.runtime.compute_dtype)
    return create_network(spec, dataset.num_classes, dataset.image_shape, dtype)

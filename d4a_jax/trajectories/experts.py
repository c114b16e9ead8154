"""Experts: trained once for a data set and a recipe, then read from the disk.

Several are trained in one program. Each depends on its own number alone, so that a
store that was interrupted, damaged or is to grow is completed by the missing ones.
"""

import json
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax.config import Config, ConfigError
from d4a_jax.data import Dataset
from d4a_jax.data.cache import exclusive
from d4a_jax.devices.parallel import Layout, replicate, to_host
from d4a_jax.devices.processes import any_of, held_by_main
from d4a_jax.devices.streaming import place_everywhere
from d4a_jax.ensemble import Ensemble, ProgressHook, TrainingImages, everything
from d4a_jax.networks import create_network
from d4a_jax.networks.flattening import flatten, flattening
from d4a_jax.options import all_but
from d4a_jax.storage import fileio
from d4a_jax.storage.entries import data_identity, name_of_entry
from d4a_jax.training import Normalization, constant, steps_per_epoch
from d4a_jax.trajectories.store import ExpertStore, stored_bytes

# Experts trained at once on each device where there is memory for more than one.
_TOGETHER = 10


class Experts(NamedTuple):
    """Trained experts; from `open_experts`.

    Attributes:
      store: where their parameters are.
      count: how many.
      ensemble: trains and applies networks of their kind.
      digest: of the data and the recipe, 16 hexadecimal digits.
    """

    store: ExpertStore
    count: int
    ensemble: Ensemble
    digest: str

    def pairs(
        self, experts: np.ndarray, epochs: np.ndarray, ahead: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Where students start and where they shall end, float32 `[s, d]` each.

        Args:
          experts: int `[s]`.
          epochs: int `[s]`, t; students start at the expert's epoch t.
          ahead: M; they shall end at its epoch t + M.
        """
        places = list(zip(experts.tolist(), epochs.tolist(), strict=True))
        start = np.stack([self.store.read(e, t) for e, t in places])
        target = np.stack([self.store.read(e, t + ahead) for e, t in places])
        return start, target

    def trajectory(self, expert: int) -> dict:
        """Variables of an expert after every epoch, stacked `[1 + epochs, ...]`."""
        return self._variables((expert, t) for t in range(1 + self.store.epochs))

    def last(self, experts: Iterable[int]) -> dict:
        """Variables of experts after their last epoch, stacked `[E, ...]`."""
        return self._variables((expert, self.store.epochs) for expert in experts)

    def _variables(self, places):
        _, unflatten = flattening(self.ensemble.network)
        return jax.vmap(unflatten)(np.stack([self.store.read(*at) for at in places]))


def open_experts(
    dataset: Dataset,
    config: Config,
    layout: Layout,
    cache_dir: str | Path,
    progress: ProgressHook | None = None,
) -> Experts:
    """Opens the experts of a configuration, and trains those that are missing.

    Args:
      dataset: what they are trained on.
      config: `network` and `experts`; the run's seed has no part in them.
      layout: the devices.
      cache_dir: each data set and recipe has a folder of its own in it.
      progress: called with (expert epochs done, expert epochs in all, figures).

    Raises:
      ConfigError: they would take more than `experts.max_gigabytes`, or more than
        the disk has left.
    """
    identity = _identity(dataset, config)
    exists = lambda name: (Path(cache_dir) / name).exists()
    digest = name_of_entry(identity, dataset, exists, _dump)
    directory, settings = Path(cache_dir) / digest, config.experts
    ensemble = _ensemble(dataset, config, layout)
    size, _ = flattening(ensemble.network)
    check_size(config, size)
    store = ExpertStore(directory, settings.epochs, size, settings.storage_dtype)
    experts = Experts(store, settings.count, ensemble, digest)
    with held_by_main(exclusive(directory)):
        missing = _missing(store, settings.count)
        if missing:
            _check_space(store, len(missing))
            fileio.write_json_atomic(directory / "about.json", identity)
            images, budget_gb = dataset.train_images, config.runtime.image_memory_gb
            training = TrainingImages(
                place_everywhere(images, layout, budget_gb),
                np.asarray(dataset.train_labels, np.int32),
            )
            _train(replicate(layout, training), experts, missing, progress)
    return experts


def _missing(store: ExpertStore, count: int) -> list[int]:
    """Experts that any process lacks: it takes all of them to train one."""
    here = store.missing(count)
    lacking = any_of(*(expert in here for expert in range(count)))
    return [expert for expert in range(count) if lacking[expert]]


def check_size(config: Config, size: int) -> None:
    """Refuses experts that would take more room than `experts.max_gigabytes`.

    Args:
      config: the run.
      size: numbers that a network has.

    Raises:
      ConfigError: says how much they would take.
    """
    settings = config.experts
    needed = 1e-9 * stored_bytes(
        settings.count, settings.epochs, size, settings.storage_dtype
    )
    if needed > settings.max_gigabytes:
        raise ConfigError(
            [
                f"experts.max_gigabytes is {settings.max_gigabytes:g}, but "
                f"{settings.count} experts of {settings.epochs} epochs take "
                f"{needed:.3g} GB; take fewer of either, experts.storage_dtype "
                "'bfloat16', or allow more."
            ]
        )


def _check_space(store: ExpertStore, experts: int) -> None:
    needed = stored_bytes(experts, store.epochs, store.size, store.dtype)
    free = shutil.disk_usage(store.directory).free
    if needed > free:
        raise ConfigError(
            [
                f"{experts} experts take {1e-9 * needed:.3g} GB, but the disk of "
                f"{store.directory} has {1e-9 * free:.3g} GB left; choose another "
                "data.data_dir or smaller experts.count."
            ]
        )


def _identity(dataset: Dataset, config: Config) -> dict[str, Any]:
    """What an expert depends on, besides its number."""
    return {
        "dataset": dataset.name,
        **data_identity(dataset),
        "network": config.network,
        "recipe": all_but(config.experts, ("count", "max_gigabytes")),
        **config.runtime.identity(),
    }


def _dump(identity: dict[str, Any]) -> bytes:
    return json.dumps(identity, sort_keys=True).encode()


def _ensemble(dataset, config, layout):
    dtype = jnp.dtype(config.runtime.compute_dtype)
    return Ensemble(
        create_network(config.network, dataset.num_classes, dataset.image_shape, dtype),
        config.experts,
        Normalization(dataset.mean, dataset.std),
        1,
        layout,
        config.runtime.predict_batch,
        constant,
    )


def _train(
    training: TrainingImages,
    experts: Experts,
    missing: list[int],
    progress: ProgressHook | None,
) -> None:
    """Trains experts, group by group, and stores each group when it is done."""
    ensemble = experts.ensemble
    together = ensemble.layout.num_devices
    if ensemble.layout.chunk != 1:
        together *= _TOGETHER
    epochs = experts.store.epochs
    for first in range(0, len(missing), together):
        group = missing[first : first + together]

        def report(epoch, loss):
            if progress:
                done = first * epochs + len(group) * epoch
                progress(done, len(missing) * epochs, {"loss": loss})

        snapshots = _trajectories(ensemble, training, group, epochs, report)
        for expert, trajectory in zip(group, snapshots, strict=True):
            experts.store.write(expert, trajectory)


def _trajectories(
    ensemble: Ensemble,
    training: TrainingImages,
    group: list[int],
    epochs: int,
    report: Callable[[int, float], None],
) -> np.ndarray:
    """Trains a group; returns float32 `[E, 1 + epochs, d]`."""
    count = len(training.labels)
    per_epoch = steps_per_epoch(count, ensemble.recipe.batch_size)
    flatten_all = jax.vmap(flatten)

    def snapshot(members):
        variables = jax.tree.map(lambda x: x[: len(group)], members.state.variables)
        return to_host(flatten_all(variables))

    subsets = everything(count, count, len(group))
    members = ensemble.begin(jax.random.key(0), group, subsets)
    snapshots = [snapshot(members)]
    for epoch in range(epochs):
        members, losses = ensemble.advance(
            training, members, epoch * per_epoch, (epoch + 1) * per_epoch, 0
        )
        snapshots.append(snapshot(members))
        report(epoch + 1, float(losses[: len(group)].mean()))
    return np.stack(snapshots, axis=1)

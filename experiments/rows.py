"""Rows: configurations that are distilled or selected, tested and kept.

What `sweep.py` and `compare.py` share. A row is defined by a nested dictionary as
`d4a_jax.config.from_dict` takes it. `"baseline"` beside its sections stands for
selected real images of the same storage instead of a distillation, by a name as
`experiments/selections.py` takes it.
`"soft_label_epochs"` adds as many epochs of a teacher's soft labels, which count among
the stored bytes; only tests on the whole set then see them.

A row has a directory for each seed, which is locked while a process works on it. It
holds what a distillation goes on with, the set itself in `distilled` (in `stored` with
soft labels), the time so far in `clock.json` and, when all is done, `row.json`.
"""

import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from d4a_jax.artifact import DistilledDataset, load_distilled, save_distilled
from d4a_jax.config import Config, ConfigError, from_dict
from d4a_jax.cost import total_passes
from d4a_jax.data import Dataset
from d4a_jax.distillation import DivergenceError, distill
from d4a_jax.evaluation import evaluate
from d4a_jax.log import logger
from d4a_jax.networks import create_network
from d4a_jax.soft_labels import with_soft_labels
from d4a_jax.storage import fileio, identity
from d4a_jax.storage.entries import data_identity
from experiments import selections
from experiments.stopping import Clock, StopCheck

# What a row has beside the sections of a configuration.
ROW_KEYS = ("baseline", "soft_label_epochs")


class Row(NamedTuple):
    """A row for one seed.

    Attributes:
      name: in log lines and messages.
      config: the configuration, with the seed.
      baseline: what is selected where nothing is distilled; None otherwise.
      soft_label_epochs: epochs of soft labels; None for hard ones.
    """

    name: str
    config: Config
    baseline: str | None = None
    soft_label_epochs: int | None = None


def make_row(name: str, values: dict[str, Any], seed: int) -> Row:
    """A row from its definition.

    Args:
      name: of the row.
      values: the definition; see the module's docstring.
      seed: of the distillation or selection, and of the tests.

    Raises:
      ConfigError: the definition is wrong.
    """
    sections = {key: value for key, value in values.items() if key not in ROW_KEYS}
    baseline, epochs = (values.get(key) for key in ROW_KEYS)
    if baseline is not None:
        selections.check(name, baseline)
    return Row(name, from_dict(sections | {"seed": seed}), baseline, epochs)


def try_row(
    row: Row,
    workdir: Path,
    dataset: Dataset,
    networks: Sequence[str] = (),
    should_stop: StopCheck = lambda: False,
    figures: Callable[[], dict] = dict,
) -> dict | None:
    """`run_row`, or None where another process works on the row, with a log line."""
    try:
        record = run_row(row, workdir, dataset, networks, should_stop, figures)
        if "failed" in record:
            logger.warning("%s diverged: %s", row.name, record["failed"])
        return record
    except fileio.WorkdirBusyError as error:
        logger.warning("%s is left out: %s", row.name, error)
        return None


def run_row(
    row: Row,
    workdir: Path,
    dataset: Dataset,
    networks: Sequence[str] = (),
    should_stop: StopCheck = lambda: False,
    figures: Callable[[], dict] = dict,
) -> dict:
    """Makes and tests a row, or reads what was done before.

    Args:
      row: what to make.
      workdir: directory of this row and seed; a distillation continues there.
      dataset: what the row is made from.
      networks: further networks to test on; the configured one is always tested.
      should_stop: says whether to stop; see `distill`.
      figures: asked for further figures of a row that was just made.

    Returns:
      What `row.json` in the directory holds: `config`, `baseline`,
      `soft_label_epochs`, `tests` (accuracies of every network in [0, 1]), `prefixes`
      (images per class and accuracies of each, the whole set last), what the filter
      `kept` and what was `learned` and `forgotten`, `matching_steps`, `passes`,
      `selection_passes` (what choosing real images took, None of what is distilled),
      `stored_bytes`, `minutes`, `hardware`, `dataset_fingerprint` and the statistics
      that `normalization` takes, the further figures; `failed`, a sentence, instead of
      results if the matching loss diverged.

    Raises:
      ConfigError: the directory holds another row, or one of other data.
      WorkdirBusyError: another process works on it.
      Interrupted: if `should_stop` said so.
    """
    done = workdir / "row.json"
    with fileio.WorkdirLock(workdir):
        if is_new := not done.exists():
            identity.claim(workdir, row.config, dataset, baseline=row.baseline)
            record = _make(row, workdir, dataset, should_stop) | figures()
        else:
            record = _finished(row, workdir, dataset)
        if "failed" not in record:
            is_new |= _test(record, row, workdir, dataset, networks)
        if is_new:
            fileio.write_json_atomic(done, record)
    # As it is read the next time.
    return json.loads(fileio.dump_json(record))


def _finished(row: Row, workdir: Path, dataset: Dataset) -> dict:
    source = workdir / "row.json"
    record = _completed(json.loads(source.read_bytes()), source, row, dataset)
    found = record["config"] | {key: record[key] for key in ROW_KEYS}
    found["dataset"] = _data_of(record, workdir)
    wanted = identity.run_identity(row.config, dataset)
    wanted |= {key: row._asdict()[key] for key in ROW_KEYS}
    if changed := identity.differing(found, wanted):
        raise ConfigError(
            [
                f"{workdir} holds a row that differs in {', '.join(changed)}; choose "
                "another --workdir or remove it.",
                *identity.both_values(found, wanted, changed),
            ]
        )
    return record


def _data_of(record: dict, workdir: Path) -> dict:
    """What is known of the data of a row; older ones say it of their set alone."""
    if "dataset_fingerprint" in record:
        fingerprint = {"fingerprint": record["dataset_fingerprint"]}
        return fingerprint | record.get("normalization", {})
    for name in ("distilled", "stored"):
        if found := identity.set_identity(workdir / name, {}):
            return found["dataset"]
    return {}


def _completed(record: dict, source: Path, row: Row, dataset: Dataset) -> dict:
    """A row with what those of older versions lack; nowhere else are these known.

    Options of the configuration that have come since have their defaults. Comparisons
    kept `ROW_KEYS` within the configuration and lacked some figures of sweeps. Sweeps
    lacked `tests`, since they tested on the configured network alone, and the figures
    of comparisons.
    """
    config = dict(record["config"])
    apart = {key: config.pop(key, None) for key in ROW_KEYS}
    config = identity.config_identity(config, source)
    lacking = {"learned": [], "cost": None, "hardware": "unknown hardware"}
    lacking["selection_passes"] = _selection_passes(row, dataset)
    record = apart | lacking | record | {"config": config}
    if "failed" in record or "tests" in record:
        return record
    (spec,) = _specs(row, dataset)
    return record | {"tests": {spec: record["prefixes"][-1][1]}}


def _make(row: Row, workdir: Path, dataset: Dataset, should_stop: StopCheck) -> dict:
    """The distilled or selected set of a row, saved, and its figures."""
    clock = Clock(workdir / "clock.json", should_stop)
    data = data_identity(dataset)
    record = {
        "config": row.config.identity(),
        "baseline": row.baseline,
        "soft_label_epochs": row.soft_label_epochs,
        "dataset_fingerprint": data.pop("fingerprint"),
        "normalization": data,
        "hardware": _hardware(),
    }
    try:
        distilled = _distilled(row, workdir, dataset, clock)
    except DivergenceError as error:
        return record | {"failed": str(error), "minutes": clock.seconds / 60}
    record |= _figures(row, dataset, distilled)
    return record | {"minutes": clock.seconds / 60}


def _distilled(row, workdir, dataset, clock) -> DistilledDataset:
    config = row.config
    if row.baseline:
        distilled = selections.select(row.baseline, config, dataset)
        protocol = dataclasses.asdict(config.evaluation)
        distilled.metadata.update(config=config.identity(), protocol=protocol)
        save_distilled(workdir / "distilled", distilled)
    else:
        distilled = distill(dataset, config, workdir, clock)
    if row.soft_label_epochs:
        distilled = with_soft_labels(
            distilled, dataset, row.soft_label_epochs, config, config.seed
        )
        # A distillation goes on with the set in `distilled`.
        save_distilled(workdir / "stored", distilled)
    return distilled


def _selection_passes(row: Row, dataset: Dataset) -> int | None:
    if row.baseline is None:
        return None
    return selections.passes(row.baseline, row.config, dataset)


def _figures(row: Row, dataset: Dataset, distilled: DistilledDataset) -> dict:
    config, is_made = row.config, row.baseline is None
    history = distilled.metadata["history"] if is_made else []
    prefixes = [
        [entry["images_per_class"], list(entry["evaluation"]["top1_each"])]
        for entry in history
        if "evaluation" in entry
    ]
    if row.soft_label_epochs:
        prefixes = prefixes[:-1]  # That test was without the soft labels.
    is_tested = prefixes and not row.soft_label_epochs
    (spec,) = _specs(row, dataset)
    filters = [entry["filter"] for entry in history if "filter" in entry]
    steps = config.steps_per_segment * len(config.segment_sizes)
    passes = total_passes(config, dataset.num_classes, len(dataset.train_labels))
    return {
        "prefixes": prefixes,
        "tests": {spec: prefixes[-1][1]} if is_tested else {},
        **{
            name: [figures[name] for figures in filters]
            for name in ("kept", "learned", "forgotten")
        },
        "matching_steps": steps if is_made else 0,
        "passes": passes if is_made else 0,
        "selection_passes": _selection_passes(row, dataset),
        "stored_bytes": distilled.stored_bytes,
    }


def _test(record, row, workdir, dataset, networks) -> bool:
    """Adds the tests that are missing, on the set as it is stored; whether any were."""
    specs = _specs(row, dataset, networks)
    missing = [spec for spec in dict.fromkeys(specs) if spec not in record["tests"]]
    if not missing:
        return False
    began, config = time.monotonic(), row.config
    # Comparisons of older versions kept selections in `stored`.
    is_plain = not row.soft_label_epochs and (workdir / "distilled").exists()
    distilled = load_distilled(workdir / ("distilled" if is_plain else "stored"))
    results = evaluate(
        distilled, dataset, missing, config.evaluation, config.runtime, config.seed
    )
    for result in results:
        record["tests"][result.network] = list(result.top1)
    if specs[0] in missing:
        size = config.synthetic.images_per_class
        record["prefixes"].append([size, record["tests"][specs[0]]])
    record["minutes"] += (time.monotonic() - began) / 60
    return True


def _specs(row: Row, dataset: Dataset, others: Sequence[str] = ()) -> list[str]:
    """Full specifications of the configured network and of others."""
    specs = (row.config.evaluation.network or row.config.network, *others)
    classes, shape = dataset.num_classes, dataset.image_shape
    return [create_network(spec, classes, shape).spec for spec in specs]


def _hardware():
    device = jax.devices()[0]
    return f"{jax.device_count()} × {device.device_kind}, jax {jax.__version__}"


def merged(values: dict, sections: dict) -> dict:
    """Nested values in which those of other sections replace or complete the old."""
    changed = dict(values)
    for name, change in sections.items():
        old = changed.get(name)
        changed[name] = {**old, **change} if isinstance(old, dict) else change
    return changed

"""Runs the rows of a sweep, one after the other, and prints their table.

    python experiments/sweep.py --sweep=sweeps/cifar10_cpu.py --workdir=runs/cifar10_cpu

A sweep file defines `ROWS`, a mapping from names to configurations (nested
dictionaries as `d4a_jax.config.from_dict` takes them). Beside a configuration may stand

    "baseline": "random"          real images drawn at random in the same storage
    "baseline": "random_mosaic"   the same as multi-formation's mosaics
    "budget": "flops"             as many outer iterations as the FLOPs of the row
                                  `REFERENCE` ("idc", where the file names none) pay for

Every row is distilled once per seed into a directory of its own, which the other
commands read. A sweep that is interrupted goes on within the row where it stopped, and
never repeats a finished row; several processes may work on different rows of one sweep.
The table is written as Markdown and JSON after every row.
"""

import dataclasses
import fnmatch
import importlib.util
import itertools
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import jax  # noqa: E402
from absl import app, flags  # noqa: E402

from d4a_jax import fileio  # noqa: E402
from d4a_jax.artifact import DistilledDataset, save_distilled  # noqa: E402
from d4a_jax.baselines import random_images  # noqa: E402
from d4a_jax.config import Config, ConfigError, differences, from_dict  # noqa: E402
from d4a_jax.data import Dataset, load_dataset  # noqa: E402
from d4a_jax.distillation import DivergenceError, Interrupted, distill  # noqa: E402
from d4a_jax.evaluation import evaluate  # noqa: E402
from d4a_jax.log import logger  # noqa: E402
from experiments import budget, cli, sweep_table  # noqa: E402

_SWEEP = flags.DEFINE_string("sweep", None, "File that defines ROWS.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Where rows are kept.", **cli.SHARED)
_SEEDS = flags.DEFINE_multi_integer(
    "seed", [0], "Distillation seeds; repeat the flag.", **cli.SHARED
)
_ROWS = flags.DEFINE_list(
    "rows", None, "Names, such as 'idc*'; all by default.", **cli.SHARED
)
_PLAN = flags.DEFINE_bool("plan", False, "Only count what the rows will cost.")
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Where prepared data are cached.", **cli.SHARED
)
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir", None, "Folder with archives.", **cli.SHARED
)

_BASELINES = ("random", "random_mosaic")
# How often the time that a row has taken is written down.
_CLOCK_SECONDS = 20.0


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a sweep, with its configuration for one seed.

    Attributes:
      name: in tables.
      config: with the number of steps that its budget pays for.
      baseline: a name in `_BASELINES` where nothing is distilled.
    """

    name: str
    config: Config
    baseline: str | None


class Sweep:
    """The rows of a sweep file and the data sets that they need."""

    def __init__(self, module: ModuleType, data: dict[str, Any]):
        self.values = module.ROWS
        self.reference = getattr(module, "REFERENCE", "idc")
        self._data = data
        self._datasets: dict[str, Dataset] = {}
        self._costs: dict[str, budget.Budget] = {}

    def names(self, patterns: Sequence[str] | None) -> list[str]:
        """The rows that match, in the order of the file.

        Raises:
          ConfigError: a pattern matches none.
        """
        for pattern in patterns or ():
            if not fnmatch.filter(self.values, pattern):
                known = ", ".join(self.values)
                raise ConfigError([f"--rows: {pattern!r} is not one of {known}."])
        return [
            name
            for name in self.values
            if not patterns or any(fnmatch.fnmatch(name, p) for p in patterns)
        ]

    def dataset(self, config: Config) -> Dataset:
        """The data of a row; each set is loaded once."""
        data = dataclasses.asdict(config.data)
        key = json.dumps(data, sort_keys=True)
        if key not in self._datasets:
            self._datasets[key] = load_dataset(**data)
        return self._datasets[key]

    def row(self, name: str, seed: int) -> Row:
        """A row for one seed.

        Raises:
          ConfigError: its configuration is wrong.
        """
        values = dict(self.values[name])
        baseline, limit = values.pop("baseline", None), values.pop("budget", None)
        if baseline not in (None, *_BASELINES):
            known = ", ".join(_BASELINES)
            raise ConfigError(
                [f"{name}: baseline is {baseline!r}; it must be one of {known}."]
            )
        values["data"] = values.get("data", {}) | self._data
        config = from_dict(values | {"seed": seed})
        if baseline:
            return Row(name, config, baseline)
        if limit == "flops":
            paid = self.cost(self.row(self.reference, seed)).total
            config = budget.with_flops(config, self.dataset(config), paid)
        elif limit is not None:
            raise ConfigError([f"{name}: budget is {limit!r}; it must be 'flops'."])
        return Row(name, config, None)

    def cost(self, row: Row) -> budget.Budget | None:
        """What a row's distillation takes; None for a baseline."""
        if row.baseline:
            return None
        if row.name not in self._costs:
            self._costs[row.name] = budget.count(row.config, self.dataset(row.config))
        return self._costs[row.name]


class Clock:
    """Counts the seconds of a row over all its interruptions.

    Args:
      path: file that keeps them.
      should_stop: asked at every call.
    """

    def __init__(self, path: Path, should_stop: Callable[[], bool]):
        self._path, self._should_stop = path, should_stop
        self._before = (
            json.loads(path.read_bytes())["seconds"] if path.exists() else 0.0
        )
        self._start = self._written = time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + time.monotonic() - self._start

    def __call__(self) -> bool:
        """Says whether to stop, and writes the time down now and then."""
        stop = self._should_stop()
        if stop or time.monotonic() - self._written > _CLOCK_SECONDS:
            self._written = time.monotonic()
            fileio.write_json_atomic(self._path, {"seconds": self.seconds})
        return stop


def load_sweep(path: str, data: dict[str, Any] | None = None) -> Sweep:
    """A sweep file, looked for as given and beside this script.

    Args:
      path: the file.
      data: values of the section `data` that all rows get, such as folders.

    Raises:
      ConfigError: there is no such file, or it defines no rows.
    """
    candidates = [Path(path), Path(__file__).parent / path]
    found = next((p for p in candidates if p.is_file()), None)
    if found is None:
        tried = " and ".join(str(p) for p in candidates)
        raise ConfigError([f"--sweep: no such file; tried {tried}."])
    spec = importlib.util.spec_from_file_location("sweep", found)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    if not getattr(module, "ROWS", None):
        raise ConfigError([f"--sweep: {found} defines no ROWS."])
    return Sweep(module, data or {})


def run_row(
    sweep: Sweep,
    row: Row,
    workdir: Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict:
    """Distills and tests one row, or reads what was done before.

    Raises:
      ConfigError: the directory holds a row of another configuration.
      WorkdirBusyError: another process works on it.
    """
    done, dataset = workdir / "row.json", sweep.dataset(row.config)
    with fileio.WorkdirLock(workdir):
        if done.exists():
            return _finished(done, row)
        clock = Clock(workdir / "clock.json", should_stop)
        if row.baseline:
            record = _baseline(row, dataset, workdir)
        else:
            distilled = distill(dataset, row.config, workdir, clock)
            record = _figures(distilled.metadata["history"])
        cost = sweep.cost(row)
        record |= {
            "cost": cost and cost._asdict() | {"total": cost.total},
            "minutes": clock.seconds / 60,
            "hardware": _hardware(),
            "baseline": row.baseline,
            "dataset_fingerprint": dataset.fingerprint,
            "config": row.config.identity(),
        }
        fileio.write_json_atomic(done, record)
    return json.loads(done.read_bytes())


def _finished(done, row):
    record = json.loads(done.read_bytes())
    wanted = json.loads(fileio.dump_json(row.config.identity()))
    changed = differences(record["config"], wanted)
    if changed:
        raise ConfigError(
            [
                f"{done.parent} holds a row made with another configuration: "
                f"{', '.join(changed)} differ; choose another --workdir."
            ]
        )
    return record


def _baseline(row, dataset, workdir):
    config = row.config
    size = config.synthetic.images_per_class
    factor = config.synthetic.factor if row.baseline == "random_mosaic" else 1
    distilled: DistilledDataset = random_images(dataset, size, factor, config.seed)
    network = config.evaluation.network or config.network
    (result,) = evaluate(
        distilled, dataset, [network], config.evaluation, config.runtime, config.seed
    )
    protocol = dataclasses.asdict(config.evaluation)
    distilled.metadata.update(config=config.identity(), protocol=protocol)
    save_distilled(workdir / "distilled", distilled)
    figures = {"images_per_class": size, "evaluation": {"top1_each": result.top1}}
    return _figures([figures])


def _figures(history):
    filters = [entry["filter"] for entry in history if "filter" in entry]
    return {
        "prefixes": [
            [entry["images_per_class"], list(entry["evaluation"]["top1_each"])]
            for entry in history
        ],
        **{
            name: [figures[name] for figures in filters]
            for name in ("kept", "learned", "forgotten")
        },
    }


def _hardware():
    device = jax.devices()[0]
    return f"{jax.device_count()} × {device.device_kind}, jax {jax.__version__}"


def run_sweep(
    sweep: Sweep,
    names: Sequence[str],
    seeds: Sequence[int],
    workdir: Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> str:
    """Runs rows, seed by seed, and writes the table after every row.

    A row that another process works on is left to it, and one whose matching loss
    diverges is left out.

    Returns:
      The table.
    """
    results, text = {}, ""
    total = len(names) * len(seeds)
    for place, (seed, name) in enumerate(itertools.product(seeds, names), start=1):
        row = sweep.row(name, seed)
        logger.info("row %d of %d: %s, seed %d", place, total, name, seed)
        directory = workdir / f"{name}-seed{seed}"
        try:
            record = run_row(sweep, row, directory, should_stop)
        except (fileio.WorkdirBusyError, DivergenceError) as error:
            logger.warning("%s is left out: %s", directory.name, error)
            continue
        results.setdefault(name, []).append(record | {"seed": seed})
        text = sweep_table.markdown(results, sweep.reference)
        fileio.write_bytes_atomic(workdir / "table.md", text.encode())
        fileio.write_json_atomic(workdir / "table.json", results)
    return text


def main(unused_argv) -> int:
    """Runs the command; returns its exit status."""
    cli.set_up_logging()
    cli.keep_compiled_programs()
    folders = {"data_dir": _DATA_DIR.value, "manual_dir": _MANUAL_DIR.value}
    should_stop = cli.StopSignal()
    try:
        with cli.plain_user_errors():
            for flag in (_SWEEP,) if _PLAN.value else (_SWEEP, _WORKDIR):
                if not flag.value:
                    raise ConfigError([f"--{flag.name} must be given."])
            given = {k: value for k, value in folders.items() if value is not None}
            sweep = load_sweep(_SWEEP.value, given)
            names = sweep.names(_ROWS.value)
            if _PLAN.value:
                rows = [sweep.row(name, _SEEDS.value[0]) for name in names]
                costs = {row.name: sweep.cost(row) for row in rows}
                print(sweep_table.plan(costs))
                return 0
            workdir = Path(_WORKDIR.value)
            print(run_sweep(sweep, names, _SEEDS.value, workdir, should_stop))
            return 0
    except Interrupted:
        pass
    print(cli.STOPPED)
    return 128 + (should_stop.number or signal.SIGINT)


def _parse(argv):
    with cli.plain_user_errors():
        cli.parse_flags(argv)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

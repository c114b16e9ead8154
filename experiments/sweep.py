"""Runs the rows of a sweep, one after the other, and prints their table.

    python experiments/sweep.py --sweep=sweeps/cifar10_cpu.py --workdir=runs/cifar10_cpu

A sweep file defines `ROWS`, a mapping from names to configurations (nested
dictionaries as `d4a_jax.config.from_dict` takes them). Beside a configuration may stand

    "baseline": "random"          real images drawn at random in the same storage
    "baseline": "random_mosaic"   the same as multi-formation's mosaics; for others, and
                                  for soft labels, see `experiments/rows.py`
    "budget": "flops"             as many outer iterations as the FLOPs of the row
                                  `REFERENCE` ("idc", where the file names none) pay for

Every row is made once per seed in a directory of its own, which the other commands
read. A sweep that is interrupted goes on within the row where it stopped, and
never repeats a finished row; several processes may work on different rows of one sweep.
The table is written as Markdown and JSON after every row.
"""

import dataclasses
import fnmatch
import itertools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from absl import app, flags  # noqa: E402

from d4a_jax.config import Config, ConfigError  # noqa: E402
from d4a_jax.data import Dataset, load_dataset  # noqa: E402
from d4a_jax.distillation import Interrupted  # noqa: E402
from d4a_jax.log import logger  # noqa: E402
from d4a_jax.storage import fileio  # noqa: E402
from experiments import budget, cli, selections, sweep_table  # noqa: E402
from experiments.rows import Row, make_row, try_row  # noqa: E402
from experiments.stopping import StopCheck, until_stopped  # noqa: E402

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


class Sweep:
    """The rows of a sweep file and the data sets that they need."""

    def __init__(self, module: ModuleType, data: dict[str, Any]):
        self.values = module.ROWS
        self.reference = getattr(module, "REFERENCE", "idc")
        self._data = data
        self._datasets: dict[str, Dataset] = {}
        self._costs: dict[str, budget.Budget | None] = {}

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
        limit = values.pop("budget", None)
        values["data"] = values.get("data", {}) | self._data
        row = make_row(name, values, seed)
        if row.baseline or limit is None:
            return row
        if limit != "flops":
            raise ConfigError([f"{name}: budget is {limit!r}; it must be 'flops'."])
        paid = self.cost(self.row(self.reference, seed)).total
        config = budget.with_flops(row.config, self.dataset(row.config), paid)
        return row._replace(config=config)

    def cost(self, row: Row) -> budget.Budget | None:
        """What it takes to make a row's images; None where they are drawn at random."""
        if row.name not in self._costs:
            dataset = self.dataset(row.config)
            self._costs[row.name] = (
                selections.flops(row.baseline, row.config, dataset)
                if row.baseline
                else budget.count(row.config, dataset)
            )
        return self._costs[row.name]


def load_sweep(path: str, data: dict[str, Any] | None = None) -> Sweep:
    """A sweep file, looked for as given and beside this script.

    Args:
      path: the file.
      data: values of the section `data` that all rows get, such as folders.

    Raises:
      ConfigError: there is no such file, or it defines no rows.
    """
    module = cli.load_definitions(path, "sweep")
    if not getattr(module, "ROWS", None):
        raise ConfigError([f"--sweep: {module.__file__} defines no ROWS."])
    return Sweep(module, data or {})


def run_sweep(
    sweep: Sweep,
    names: Sequence[str],
    seeds: Sequence[int],
    workdir: Path,
    should_stop: StopCheck = lambda: False,
) -> str:
    """Runs rows, seed by seed, and writes the table after every row.

    A row that another process works on is left to it, and one whose matching loss
    diverges is left out.

    Returns:
      The table.

    Raises:
      Interrupted: if `should_stop` said so.
    """
    results, text = {}, ""
    total = len(names) * len(seeds)
    for place, (seed, name) in enumerate(itertools.product(seeds, names), start=1):
        row = sweep.row(name, seed)
        logger.info("row %d of %d: %s, seed %d", place, total, name, seed)
        record = try_row(
            row,
            workdir / f"{name}-seed{seed}",
            sweep.dataset(row.config),
            should_stop=should_stop,
            figures=lambda row=row: {"cost": _cost(sweep, row)},
        )
        if record is not None and "failed" not in record:
            results.setdefault(name, []).append(record | {"seed": seed})
            text = sweep_table.markdown(results, sweep.reference)
            fileio.write_bytes_atomic(workdir / "table.md", text.encode())
            fileio.write_json_atomic(workdir / "table.json", results)
        if should_stop():
            raise Interrupted
    return text


def _cost(sweep: Sweep, row: Row) -> dict | None:
    cost = sweep.cost(row)
    return cost and cost._asdict() | {"total": cost.total}


def main(unused_argv) -> int:
    """Runs the command; returns its exit status."""
    cli.set_up_logging()
    cli.keep_compiled_programs()
    return until_stopped(_run)


def _run(should_stop: StopCheck) -> None:
    for flag in (_SWEEP,) if _PLAN.value else (_SWEEP, _WORKDIR):
        if not flag.value:
            raise ConfigError([f"--{flag.name} must be given."])
    folders = {"data_dir": _DATA_DIR.value, "manual_dir": _MANUAL_DIR.value}
    given = {k: value for k, value in folders.items() if value is not None}
    sweep = load_sweep(_SWEEP.value, given)
    names = sweep.names(_ROWS.value)
    if _PLAN.value:
        rows = [sweep.row(name, _SEEDS.value[0]) for name in names]
        print(sweep_table.plan({row.name: sweep.cost(row) for row in rows}))
        return
    print(run_sweep(sweep, names, _SEEDS.value, Path(_WORKDIR.value), should_stop))


def _parse(argv):
    with cli.plain_user_errors():
        cli.parse_flags(argv)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

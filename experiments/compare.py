"""Compares methods on data sets, images per class and networks with one budget.

    python experiments/compare.py --comparison=comparisons/cifar10_cpu.py

A comparison file defines

    METHODS           name -> {"config": NAME} of a file in configs/, or {"baseline":
                      SELECTION}, and sections that differ (see `experiments/rows.py`)
    DATASETS          name -> sections that every method takes on it; `data` among them
    IMAGES_PER_CLASS  numbers
    NETWORKS          specifications: the first one distills, all of them test; a method
                      that names a `network` of its own is distilled with that one
    PASSES            budget of one distillation in image passes (`d4a_jax/cost.py`);
                      None leaves every method its own length

A method's sections go before those of the data set, and those before its configuration.
The budget sets the number of iterations, at least one. Where flipping changes the
label, every augmentation is without it. Each combination and seed has a directory of
its own below `--workdir`, so a comparison that is interrupted goes on within the
combination where it stopped, and several processes may work on one comparison.
`table.md` and `table.csv` are written after every one; published figures stand beside
ours where data, size, images per class and network agree, and are marked as published.
"""

import csv
import importlib
import io
import itertools
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from d4a_jax.config import ConfigError, from_dict  # noqa: E402
from d4a_jax.cost import total_passes  # noqa: E402
from d4a_jax.data import Dataset, load_dataset  # noqa: E402
from d4a_jax.distillation import Interrupted  # noqa: E402
from d4a_jax.flips import without_flip  # noqa: E402
from d4a_jax.log import logger  # noqa: E402
from d4a_jax.networks import create_network  # noqa: E402
from d4a_jax.storage.fileio import write_bytes_atomic  # noqa: E402
from experiments import cli  # noqa: E402
from experiments.published import published  # noqa: E402
from experiments.rows import ROW_KEYS, make_row, merged, try_row  # noqa: E402
from experiments.spread import plus_minus, summary  # noqa: E402
from experiments.stopping import StopCheck, until_stopped  # noqa: E402
from experiments.worth import worth  # noqa: E402

_COMPARISON = flags.DEFINE_string(
    "comparison", "comparisons/digits.py", "File that defines what is compared."
)
_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "Where everything goes; by default runs/NAME-OF-THE-COMPARISON.",
    **cli.SHARED,
)
_SEEDS = flags.DEFINE_multi_integer(
    "seed", [0], "Seeds; repeat the flag.", **cli.SHARED
)
_METHODS = flags.DEFINE_list("methods", None, "Methods to run; by default all.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where data are kept.", **cli.SHARED)
_MANUAL_DIR = flags.DEFINE_string(
    "manual_dir", None, "Folder with archives.", **cli.SHARED
)

COLUMNS = (
    *("dataset", "images_per_class", "method", "network", "seeds"),
    *("top1", "std_over_seeds", "std_over_networks"),
    *("published", "published_in", "stored_bytes", "passes", "selection_passes"),
    "minutes",
)


class Comparison(NamedTuple):
    """What a comparison file defines; see the module's docstring."""

    methods: dict[str, dict]
    datasets: dict[str, dict]
    images_per_class: tuple[int, ...]
    networks: tuple[str, ...]
    passes: float | None


class Cell(NamedTuple):
    """A method on a data set at a number of images per class."""

    dataset: str
    images_per_class: int
    method: str

    @property
    def name(self) -> str:
        """Its directory, and what log lines call it."""
        return f"{self.dataset}/ipc{self.images_per_class}/{self.method}"

    def directory(self, workdir: Path, seed: int) -> Path:
        """Where one seed of it is kept."""
        return workdir / self.name / f"seed{seed}"


def load_comparison(path: str) -> tuple[str, Comparison]:
    """The name and content of a comparison file, as given or beside this script.

    Raises:
      ConfigError: there is no such file, or it lacks a part.
    """
    module = cli.load_definitions(path, "comparison")
    names = [field.upper() for field in Comparison._fields]
    missing = [name for name in names if not hasattr(module, name)]
    if missing:
        raise ConfigError([f"{module.__file__} does not define {', '.join(missing)}."])
    parts = (getattr(module, name) for name in names)
    return Path(module.__file__).stem, Comparison(*parts)


def row_of(comparison: Comparison, cell: Cell, dataset: Dataset) -> dict:
    """The row of a cell: its configuration with everything merged, as values.

    Args:
      comparison: what is compared.
      cell: the method, data set and images per class.
      dataset: its `flip`, and its size for the budget.
    """
    method = dict(comparison.methods[cell.method])
    name = method.pop("config", None)
    apart = {key: method.pop(key) for key in ROW_KEYS if key in method}
    values = {}
    if name:
        values = importlib.import_module(f"experiments.configs.{name}").get_config()
        values = values.to_dict()
    for sections in (comparison.datasets[cell.dataset], method):
        values = merged(values, sections)
    size = cell.images_per_class
    segments = values.get("synthetic", {}).get("segments", 1)
    if isinstance(segments, int):
        segments = min(segments, size)
    changes = {"images_per_class": size, "segments": segments}
    tested = comparison.networks[0]
    values = merged(values, {"synthetic": changes, "evaluation": {"network": tested}})
    values["network"] = method.get("network", tested)
    if not dataset.flip:
        values = _without_flip(values)
    if comparison.passes and "baseline" not in apart:
        values = _on_budget(values, comparison.passes, dataset)
    return values | apart


def _without_flip(values: dict) -> dict:
    defaults = from_dict({}).to_dict()
    changes: dict[str, Any] = {}
    for section in ("matching", "experts", "network_training", "evaluation"):
        old = values.get(section, {}).get("augmentation")
        strategy = without_flip(old or defaults[section]["augmentation"])
        changes[section] = {"augmentation": strategy}
    return merged(values, changes)


def _on_budget(values: dict, passes: float, dataset: Dataset) -> dict:
    """As many iterations as the budget has room for, at least one.

    Of the outer ones, or of the inner ones where a segment has a single teacher.
    """
    single = from_dict(values).method.single_network
    name = "inner_iterations" if single else "outer_iterations"
    lasting = lambda count: merged(values, {"matching": {name: count}})
    once, twice = (
        total_passes(
            from_dict(lasting(count)), dataset.num_classes, len(dataset.train_labels)
        )
        for count in (1, 2)
    )
    return lasting(1 + max(0, int((passes - once) // (twice - once))))


def lines_of(comparison: Comparison, cell: Cell, runs: list[dict]) -> list[dict]:
    """What the tables say of a cell: one line per network, `COLUMNS` as keys."""
    good = [run for run in runs if "failed" not in run]
    size = comparison.datasets[cell.dataset]["data"].get("size")
    name = comparison.datasets[cell.dataset]["data"]["name"]
    lines = []
    for network in good[0]["tests"] if good else ():
        mean, over, within = summary([run["tests"][network] for run in good])
        known = published(cell.method, name, size, cell.images_per_class, network)
        figures = (
            *(network, len(good), mean, over, within),
            *((known.top1, known.table) if known else (None, None)),
            good[0]["stored_bytes"],
            good[0]["passes"],
            good[0]["selection_passes"],
            float(np.mean([run["minutes"] for run in good])),
        )
        identity = (cell.dataset, cell.images_per_class, cell.method)
        lines.append(dict(zip(COLUMNS, identity + figures, strict=True)))
    return lines


def markdown(lines: list[dict], failures: dict[Cell, int]) -> str:
    """One table per data set, images per class and network, the best method first.

    Below each stands by how much the best distilled set leads the best selected real
    images, and what either costs. The passes of a distillation leave out the networks
    that filter and measure difficulty (`d4a_jax/cost.py`), those of a selection do not.
    """
    parts = []
    groups: dict[tuple, list[dict]] = {}
    for line in lines:
        key = (line["dataset"], line["images_per_class"], line["network"])
        groups.setdefault(key, []).append(line)
    header = ["method", "seeds", "top-1 (%)", "± networks", "published (%)"]
    header += ["stored bytes", "passes, M", "to select, M", "minutes"]
    for (dataset, size, network), group in groups.items():
        ranked = sorted(group, key=lambda line: -line["top1"])
        table = cli.markdown_table(header, [_cells(line) for line in ranked])
        parts.append(f"## {dataset}, {size} images per class, {network}\n\n{table}\n")
        if sentence := worth(ranked):
            parts.append(f"{sentence}\n")
    for cell, count in failures.items():
        where = f"{cell.dataset}, {cell.images_per_class} images per class"
        parts.append(f"{cell.method} diverged in {count} run(s) on {where}.\n")
    return "\n".join(parts)


def _cells(line: dict) -> list[str]:
    shown = line["published"]
    return [
        line["method"],
        str(line["seeds"]),
        plus_minus(line["top1"], line["std_over_seeds"]),
        f"{line['std_over_networks']:.2f}",
        "–" if shown is None else f"{shown:.1f} ({line['published_in']})",
        f"{line['stored_bytes']:,}",
        f"{line['passes'] / 1e6:.1f}" if line["passes"] else "–",
        f"{line['selection_passes'] / 1e6:.2f}" if line["selection_passes"] else "–",
        f"{line['minutes']:.1f}",
    ]


def as_csv(lines: list[dict]) -> str:
    """The lines as comma-separated values, empty where something is unknown."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def compare(
    comparison: Comparison,
    workdir: Path,
    seeds: list[int],
    methods: list[str],
    load: Any = load_dataset,
    should_stop: StopCheck = lambda: False,
) -> str:
    """Runs every cell with every seed and writes the tables after each.

    A cell that another process works on is left to it, with this seed.

    Args:
      comparison: what is compared.
      workdir: where everything goes.
      seeds: of the distillations.
      methods: names of those to run.
      load: loads a data set by the values of its `data` section.
      should_stop: says whether to stop; see `distill`.

    Returns:
      The Markdown tables.

    Raises:
      Interrupted: if `should_stop` said so.
    """
    text = ""
    cells: dict[Cell, list[dict]] = {}
    for seed, (name, sections) in itertools.product(seeds, comparison.datasets.items()):
        dataset = load(**sections["data"])
        _check_networks(comparison.networks, dataset)
        for size, method in itertools.product(comparison.images_per_class, methods):
            cell = Cell(name, size, method)
            values = row_of(comparison, cell, dataset)
            logger.info("%s, seed %d", cell.name, seed)
            run = try_row(
                make_row(cell.name, values, seed),
                cell.directory(workdir, seed),
                dataset,
                comparison.networks[1:],
                should_stop,
            )
            if run is not None:
                cells.setdefault(cell, []).append(run)
                text = _write(comparison, cells, workdir)
            if should_stop():
                raise Interrupted
    return text


def _write(comparison, cells, workdir) -> str:
    lines, failures = [], {}
    for cell, runs in cells.items():
        lines += lines_of(comparison, cell, runs)
        failed = sum("failed" in run for run in runs)
        failures |= {cell: failed} if failed else {}
    text = markdown(lines, failures)
    write_bytes_atomic(workdir / "table.md", text.encode())
    write_bytes_atomic(workdir / "table.csv", as_csv(lines).encode())
    return text


def _check_networks(networks, dataset: Dataset) -> None:
    for spec in networks:
        try:
            create_network(spec, dataset.num_classes, dataset.image_shape)
        except ValueError as error:
            raise ConfigError([f"NETWORKS: {error}"]) from None


def _parse(argv):
    with cli.plain_user_errors():
        cli.parse_flags(argv)


def main(unused_argv) -> int:
    """Runs the command; returns its exit status."""
    cli.set_up_logging()
    cli.keep_compiled_programs()
    return until_stopped(_run)


def _run(should_stop: StopCheck) -> None:
    name, comparison = load_comparison(_COMPARISON.value)
    methods = _METHODS.value or list(comparison.methods)
    unknown = [method for method in methods if method not in comparison.methods]
    if unknown:
        known = ", ".join(comparison.methods)
        raise ConfigError([f"--methods: {unknown[0]!r} is not one of {known}."])
    workdir = Path(_WORKDIR.value or Path("runs") / f"compare-{name}")
    paths = {"data_dir": _DATA_DIR.value, "manual_dir": _MANUAL_DIR.value}
    load = lambda **data: load_dataset(**{**paths, **data})
    print(compare(comparison, workdir, _SEEDS.value, methods, load, should_stop))


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

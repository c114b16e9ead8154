"""Runs the rows of a sweep, one after the other, and prints their table.

    python experiments/sweep.py --sweep=sweeps/cifar10_cpu.py --workdir=runs/cifar10_cpu

A sweep file defines `ROWS`, a mapping from names to rows (see `experiments/rows.py`).
Every row is distilled once per seed into a working directory of its own, so a sweep
that is interrupted goes on where it stopped and never repeats a finished row. The table
is written as Markdown and JSON after every row.
"""

import importlib.util
import json
import logging
import sys
from pathlib import Path

import numpy as np
from absl import app, flags

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from d4a_jax.data import load_dataset  # noqa: E402
from d4a_jax.fileio import write_bytes_atomic, write_json_atomic  # noqa: E402
from experiments.rows import run_row, summary  # noqa: E402

_SWEEP = flags.DEFINE_string("sweep", None, "File that defines ROWS.", required=True)
_WORKDIR = flags.DEFINE_string("workdir", None, "Where rows are kept.", required=True)
_SEEDS = flags.DEFINE_multi_integer("seed", [0], "Distillation seeds; repeat the flag.")
_ROWS = flags.DEFINE_list("rows", None, "Names of the rows to run; all by default.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data are cached.")


def load_rows(path: str) -> dict[str, dict]:
    """The rows of a sweep file, looked for as given and beside this script."""
    candidates = [Path(path), Path(__file__).parent / path]
    found = next((p for p in candidates if p.is_file()), None)
    if found is None:
        tried = " and ".join(str(p) for p in candidates)
        raise app.UsageError(f"--sweep: no such file; tried {tried}.")
    spec = importlib.util.spec_from_file_location("sweep", found)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ROWS


def table(rows: dict[str, list[dict]]) -> str:
    """Markdown: mean ± standard deviation over distillation seeds of the mean accuracy."""
    lines = [
        "| row | seeds | test accuracy, % | ± networks | matching steps | "
        "image passes, M | kept, % | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in rows.items():
        mean, std, spread = summary([run["prefixes"][-1][1] for run in runs])
        over = "" if std is None else f" ± {std:.2f}"
        kept = " ".join(f"{100 * k:.0f}" for k in runs[0]["kept"]) or "–"
        lines.append(
            f"| {name} | {len(runs)} | {mean:.2f}{over} | {spread:.2f} | "
            f"{runs[0]['matching_steps']} | {runs[0]['image_steps'] / 1e6:.2f} | {kept} | "
            f"{np.mean([run['minutes'] for run in runs]):.1f} |"
        )
    return "\n".join(lines) + "\n"


def main(_):
    """Runs every row with every seed and writes the table after each."""
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("d4a_jax").setLevel(logging.INFO)
    rows, workdir = load_rows(_SWEEP.value), Path(_WORKDIR.value)
    names = _ROWS.value or list(rows)
    unknown = [name for name in names if name not in rows]
    if unknown:
        raise app.UsageError(f"--rows: {unknown[0]!r} is not one of {', '.join(rows)}.")
    results, datasets = {}, {}
    for seed in _SEEDS.value:
        for name in names:
            data = rows[name]["data"]
            key = json.dumps(data, sort_keys=True)
            if key not in datasets:
                datasets[key] = load_dataset(**data, data_dir=_DATA_DIR.value)
            row = run_row(rows[name], seed, workdir / f"{name}-seed{seed}", datasets[key])
            results.setdefault(name, []).append(row)
            text = table(results)
            write_bytes_atomic(workdir / "table.md", text.encode())
            write_json_atomic(workdir / "table.json", results)
    print(table(results))


if __name__ == "__main__":
    app.run(main)

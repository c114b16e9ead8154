"""Runs the rows of a sweep, one after the other, and prints their table.

    python experiments/sweep.py --sweep=sweeps/cifar10_cpu.py --workdir=runs/cifar10_cpu

A sweep file defines `ROWS`, a mapping from names to configurations (nested
dictionaries as `d4a_jax.config.from_dict` takes them; `"baseline": "random"` or
`"random_mosaic"` beside a configuration stands for random real images of the same
storage, as they are or as multi-formation's mosaics). Every row is distilled
once per seed into a working directory of its own, so a sweep that is interrupted goes on
where it stopped and never repeats a finished row. The table is written as Markdown and
JSON after every row.
"""

import importlib.util
import json
import logging
import sys
import time
from pathlib import Path

import numpy as np
from absl import app, flags

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from d4a_jax.baselines import random_images  # noqa: E402
from d4a_jax.config import from_dict  # noqa: E402
from d4a_jax.data import load_dataset  # noqa: E402
from d4a_jax.distillation import distill  # noqa: E402
from d4a_jax.evaluation import evaluate  # noqa: E402
from d4a_jax.fileio import write_bytes_atomic, write_json_atomic  # noqa: E402

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


def run_row(values: dict, seed: int, workdir: Path, dataset) -> dict:
    """Distills and tests one row with one seed, or reads what was done before."""
    done = workdir / "row.json"
    if done.exists():
        return json.loads(done.read_text())
    baseline = values.pop("baseline", None)
    config = from_dict(values | {"seed": seed})
    began = time.monotonic()
    if baseline:
        size = config.synthetic.images_per_class
        factor = config.synthetic.factor if baseline == "random_mosaic" else 1
        distilled = random_images(dataset, size, factor, seed)
        result = evaluate(
            distilled, dataset, [config.network], config.evaluation, config.runtime, seed
        )[0]
        history = [{"images_per_class": size, "evaluation": {"top1_each": result.top1}}]
        steps = 0
    else:
        distilled = distill(dataset, config, workdir)
        history = distilled.metadata["history"]
        steps = config.steps_per_segment * len(config.segment_sizes)
    row = {
        "prefixes": [
            [h["images_per_class"], list(h["evaluation"]["top1_each"])] for h in history
        ],
        "kept": [h["filter"]["kept"] for h in history if "filter" in h],
        "forgotten": [h["filter"]["forgotten"] for h in history if "filter" in h],
        "matching_steps": steps,
        "image_steps": matched_images(config) if steps else 0,
        "minutes": (time.monotonic() - began) / 60,
        "config": config.identity(),
    }
    workdir.mkdir(parents=True, exist_ok=True)
    write_json_atomic(done, row)
    return row


def matched_images(config) -> int:
    """Image passes of all matching steps, in units of one image's forward pass.

    A real image costs 3 (forward, backward for weights and activations), a formed
    synthetic one 7 (the same and the forward-mode pass along it), an image of a
    regularizer's constant 3.
    """
    factor, matching = config.synthetic.factor**2, config.matching
    cost = 0
    for stage, size in enumerate(config.segment_sizes):
        formed = min(size * factor, matching.batch_syn_max)
        step = 3 * matching.batch_real + 7 * formed
        earlier = min(sum(config.segment_sizes[:stage]) * factor, matching.batch_syn_max)
        constants = {"anchor": matching.batch_real, "previous": earlier}
        constants |= {"conflict": earlier, "replay": earlier}
        constants["union"] = matching.batch_real + earlier
        if stage:
            step += 3 * constants.get(config.regularizer.name, 0)
        cost += step * config.steps_per_segment
    return cost


def table(rows: dict[str, list[dict]]) -> str:
    """Markdown: mean ± standard deviation over distillation seeds of the mean accuracy."""
    lines = [
        "| row | seeds | test accuracy, % | ± networks | matching steps | "
        "image passes, M | kept, % | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, runs in rows.items():
        final = [100 * np.array(run["prefixes"][-1][1]) for run in runs]
        means = [float(f.mean()) for f in final]
        spread = np.mean([f.std(ddof=1) if len(f) > 1 else 0.0 for f in final])
        over = f" ± {np.std(means, ddof=1):.2f}" if len(means) > 1 else ""
        kept = " ".join(f"{100 * k:.0f}" for k in runs[0]["kept"]) or "–"
        lines.append(
            f"| {name} | {len(runs)} | {np.mean(means):.2f}{over} | {spread:.2f} | "
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
            values = {k: v for k, v in rows[name].items()}
            data = values["data"]
            key = json.dumps(data, sort_keys=True)
            if key not in datasets:
                datasets[key] = load_dataset(**data | {"data_dir": _DATA_DIR.value})
            row = run_row(values, seed, workdir / f"{name}-seed{seed}", datasets[key])
            results.setdefault(name, []).append(row)
            text = table(results)
            write_bytes_atomic(workdir / "table.md", text.encode())
            write_json_atomic(workdir / "table.json", results)
    print(table(results))


if __name__ == "__main__":
    app.run(main)

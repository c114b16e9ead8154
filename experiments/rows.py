"""One row of a sweep: a configuration, distilled or selected, tested and kept.

A row is a nested dictionary as `d4a_jax.config.from_dict` takes it. `"baseline"` beside
its sections stands for selected real images of the same storage instead of a
distillation: a name of `d4a_jax.baselines.SELECTIONS`, with `_mosaic` behind it for
mosaics as multi-formation stores them, or `rded` for mosaics of realistic patches.
`"soft_label_epochs"` adds as many epochs of a teacher's soft labels, which count among
the stored bytes; only tests on the whole set then see them.
"""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from d4a_jax.artifact import DistilledDataset, load_distilled, save_distilled
from d4a_jax.baselines import select_images
from d4a_jax.config import Config, ConfigError, differences, from_dict
from d4a_jax.cost import matching_passes, total_passes
from d4a_jax.data import Dataset
from d4a_jax.distillation import DivergenceError, distill
from d4a_jax.evaluation import evaluate
from d4a_jax.fileio import write_json_atomic
from d4a_jax.networks import create_network
from d4a_jax.patches import realistic_patches
from d4a_jax.soft_labels import with_soft_labels

# What a row has beside the sections of a configuration.
ROW_KEYS = ("baseline", "soft_label_epochs")

_MOSAIC = "_mosaic"

# Beside what a distillation keeps in its directory, which it goes on with.
ARTIFACT = "stored"


def run_row(
    values: dict,
    seed: int,
    workdir: Path,
    dataset: Dataset,
    networks: Sequence[str] = (),
) -> dict:
    """Makes and tests one row with one seed, or reads what was done before.

    Args:
      values: the row.
      seed: of the distillation and of the tests.
      workdir: directory of this row and seed; a distillation continues there.
      dataset: what the row is made from.
      networks: further networks to test on; the configured one is always tested.

    Returns:
      What `row.json` in the directory holds: `config`, `tests` (accuracies of every
      network in [0, 1]), `prefixes`, what the filter `kept` and was `forgotten`,
      `stored_bytes`, `passes`, `minutes`; only `config` and `failed`, a sentence, if
      the matching loss diverged.

    Raises:
      ConfigError: if the directory holds another row, or the row is wrong.
    """
    values = dict(values)
    baseline = values.pop("baseline", None)
    soft_epochs = values.pop("soft_label_epochs", 0)
    config = from_dict(values | {"seed": seed})
    identity = config.identity() | {
        "baseline": baseline,
        "soft_label_epochs": soft_epochs,
    }
    done = workdir / "row.json"
    row = json.loads(done.read_text()) if done.exists() else None
    if row:
        _check_same(row["config"], identity, workdir)
    else:
        row = {"config": identity} | _make(
            baseline, soft_epochs, config, workdir, dataset
        )
    if "failed" not in row:
        _test(row, config, workdir, dataset, networks, seed)
    workdir.mkdir(parents=True, exist_ok=True)
    write_json_atomic(done, row)
    return row


def _check_same(found, wanted, workdir):
    changed = differences(found, json.loads(json.dumps(wanted)))
    if changed:
        raise ConfigError(
            [
                f"{workdir} holds a row that differs in {', '.join(changed)}; choose "
                "another --workdir or remove it."
            ]
        )


def _make(baseline, soft_epochs, config, workdir, dataset):
    """The distilled or selected set of a row, saved, and its figures."""
    began = time.monotonic()
    if baseline:
        distilled = _select(baseline, config, dataset, config.seed)
        history, steps = [], 0
    else:
        try:
            distilled = distill(dataset, config, workdir)
        except DivergenceError as error:
            return {"failed": str(error)}
        history = distilled.metadata["history"]
        steps = config.steps_per_segment * len(config.segment_sizes)
    if soft_epochs:
        distilled = with_soft_labels(
            distilled, dataset, soft_epochs, config, config.seed
        )
    save_distilled(workdir / ARTIFACT, distilled)
    filters = [h["filter"] for h in history if "filter" in h]
    tests = [h for h in history if "evaluation" in h]
    return {
        "prefixes": [
            [h["images_per_class"], list(h["evaluation"]["top1_each"])] for h in tests
        ],
        "tests": {
            h["evaluation"]["network"]: list(h["evaluation"]["top1_each"])
            for h in tests[-1:]
            if not soft_epochs
        },
        "kept": [f["kept"] for f in filters],
        "forgotten": [f["forgotten"] for f in filters],
        "matching_steps": steps,
        "image_steps": matching_passes(config) if steps else 0,
        "passes": total_passes(config, dataset.num_classes) if steps else 0,
        "stored_bytes": distilled.stored_bytes,
        "minutes": (time.monotonic() - began) / 60,
    }


def _select(baseline: str, config: Config, dataset, seed) -> DistilledDataset:
    size, factor = config.synthetic.images_per_class, config.synthetic.factor
    if baseline == "rded":
        return realistic_patches(dataset, size, factor, config, seed)
    selection = baseline.removesuffix(_MOSAIC)
    factor = factor if baseline.endswith(_MOSAIC) else 1
    return select_images(dataset, selection, size, factor, config, seed)


def _test(row, config, workdir, dataset, networks, seed):
    """Adds the tests that are missing, on the set as it is stored."""
    specs = (config.evaluation.network or config.network, *networks)
    canonical = [
        create_network(spec, dataset.num_classes, dataset.image_shape).spec
        for spec in specs
    ]
    missing = [spec for spec in dict.fromkeys(canonical) if spec not in row["tests"]]
    if not missing:
        return
    began = time.monotonic()
    distilled = load_distilled(workdir / ARTIFACT)
    results = evaluate(
        distilled, dataset, missing, config.evaluation, config.runtime, seed
    )
    for result in results:
        row["tests"][result.network] = list(result.top1)
    if not row["prefixes"]:
        size = config.synthetic.images_per_class
        row["prefixes"] = [[size, row["tests"][canonical[0]]]]
    row["minutes"] += (time.monotonic() - began) / 60


def summary(accuracies: Sequence[Sequence[float]]) -> tuple[float, float | None, float]:
    """Mean in percent, its standard deviation over seeds, and that over networks.

    Args:
      accuracies: in [0, 1], the networks of each seed.

    Returns:
      The mean of all, the sample standard deviation of the seeds' means (None with one
      seed) and the mean of the standard deviations within the seeds.
    """
    percent = [100 * np.array(each) for each in accuracies]
    means = [each.mean() for each in percent]
    within = np.mean([each.std(ddof=1) if len(each) > 1 else 0.0 for each in percent])
    over = float(np.std(means, ddof=1)) if len(means) > 1 else None
    return float(np.mean(means)), over, float(within)

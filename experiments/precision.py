"""Measures what rounding does to the pixel gradient of gradient matching.

    python experiments/precision.py --config=configs/cifar10_ipc10.py --network_steps=0

For networks that were trained on the real images for some SGD steps: the pixel gradient
of a segment's first images against float64, over a few classes and for every distance,
with networks that compute in float32 and in bfloat16 (`runtime.compute_dtype`; in both
cases with float32 parameters, norm statistics, matching and pixels). Reported are the
cosine of the two gradients and the ratio of their norms.
"""

import dataclasses
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import jax  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

from d4a_jax.config import Config  # noqa: E402
from d4a_jax.data import Dataset, load_dataset  # noqa: E402
from d4a_jax.networks import create_network  # noqa: E402
from d4a_jax.selection.baselines import random_images  # noqa: E402
from d4a_jax.selection.teachers import train_on_real_data  # noqa: E402
from d4a_jax.training import Normalization  # noqa: E402
from experiments import cli, config_flag  # noqa: E402
from experiments.benchmark.one_class import match_class  # noqa: E402

_STEPS = flags.DEFINE_list("network_steps", ["0", "500"], "SGD steps on real images.")
_CLASSES = flags.DEFINE_integer("classes", 3, "Classes to look at.", 1)

DISTANCES = ("mse", "l1", "cosine")
DTYPES = ("float32", "bfloat16")


def batches(dataset: Dataset, config: Config, label: int) -> tuple[np.ndarray, ...]:
    """Normalized float64 images of a class: a real batch, and formed first images."""
    rows = np.flatnonzero(dataset.train_labels == label)[: config.matching.batch_real]
    size, factor = config.segment_sizes[0], config.synthetic.factor
    formed, labels = random_images(dataset, size, factor, config.seed).formed()
    formed = formed[labels == label][: config.matching.batch_syn_max]
    normalize = Normalization(dataset.mean, dataset.std)
    real = np.asarray(dataset.train_images[rows], np.float64) / 255
    return tuple(np.asarray(normalize(x), np.float64) for x in (real, formed))


def compare(exact: np.ndarray, found: np.ndarray) -> tuple[float, float]:
    """Cosine of two gradients and ratio of the second one's norm to the first's."""
    norms = np.linalg.norm(exact), np.linalg.norm(found)
    cosine = np.vdot(exact, np.asarray(found, exact.dtype)) / (norms[0] * norms[1])
    return float(cosine), norms[1] / norms[0]


def measure(dataset: Dataset, config: Config, steps: int, classes: int) -> list[list]:
    """Rows of the table for one network, means over the classes."""
    variables = _variables(dataset, config, steps)
    rows = []
    for distance in DISTANCES:
        settings = dataclasses.replace(config.method, distance=distance)
        found = {dtype: [] for dtype in DTYPES}
        for label in range(min(classes, dataset.num_classes)):
            given = (config.network, settings, variables, label)
            given += batches(dataset, config, label)
            _, exact = match_class(*given, "float64")
            for dtype in DTYPES:
                _, rounded = match_class(*given, dtype)
                found[dtype].append(compare(exact, rounded))
        means = [f"{x:.6f}" for dtype in DTYPES for x in np.mean(found[dtype], 0)]
        rows.append([str(steps), distance, *means])
    return rows


def _variables(dataset, config, steps):
    if not steps:
        network = create_network(
            config.network, dataset.num_classes, dataset.image_shape
        )
        return network.init(jax.random.key(config.seed))
    settings = dataclasses.replace(config.difficulty, max_steps=steps)
    config = dataclasses.replace(config, difficulty=settings)
    _, variables = train_on_real_data(dataset, config, config.seed)
    return jax.tree.map(lambda stacked: stacked[0], variables)


def main(choice: config_flag.Choice) -> None:
    """Runs the command."""
    cli.set_up_logging()
    cli.keep_compiled_programs()
    with cli.plain_user_errors():
        dataset = load_dataset(**dataclasses.asdict(choice.config.data))
    header = ["SGD steps", "distance"]
    header += [f"{dtype}, {what}" for dtype in DTYPES for what in ("cosine", "norm")]
    rows = []
    for steps in _STEPS.value:
        rows += measure(dataset, choice.config, int(steps), _CLASSES.value)
    print(cli.markdown_table(header, rows))


if __name__ == "__main__":
    app.run(main, flags_parser=config_flag.parse_all)

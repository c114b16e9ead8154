"""Compares the matching loss and its pixel gradient with the official IDC code.

    python experiments/agreement.py --against=PATH

PATH is your own checkout of github.com/snu-mllab/Efficient-Dataset-Condensation, of
which nothing is kept here; PyTorch must be installed. Both compute in float64, with the
same weights and images (random ones) and without augmentation, for every distance.
Printed are relative errors: of the loss, and of the gradient's difference in norm.
"""

import sys
from pathlib import Path
from typing import Any, NamedTuple

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import jax  # noqa: E402
import numpy as np  # noqa: E402
from absl import app, flags  # noqa: E402

from d4a_jax.config import ConfigError, from_dict  # noqa: E402
from d4a_jax.networks import create_network  # noqa: E402
from experiments import cli  # noqa: E402
from experiments.benchmark import official, versus  # noqa: E402
from experiments.benchmark.one_class import match_class  # noqa: E402

_AGAINST = flags.DEFINE_string("against", None, "Checkout of the official code.")
_NETWORK = flags.DEFINE_string("network", "convnet:width=16", "ConvNet to match in.")
_SIDE = flags.DEFINE_integer("side", 32, "Side of the images.", 8)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights and images.", 0)

DISTANCES = ("mse", "l1", "cosine")
_CLASSES, _REAL, _SYNTHETIC = 4, 16, 8


class Agreement(NamedTuple):
    """Relative errors of one distance."""

    distance: str
    loss: float
    gradient: float


def agreement(
    names: dict[str, Any], spec: str, side: int, seed: int, distance: str
) -> Agreement:
    """Compares one distance.

    Args:
      names: the official code, from `official.load`.
      spec: of the network.
      side: of the images.
      seed: of weights and images.
      distance: one of `DISTANCES`.
    """
    config = from_dict({"network": spec, "matching": {"distance": distance}})
    shape = (side, side, 3)
    draw = np.random.default_rng(seed)
    real, new = (draw.normal(size=(n, *shape)) for n in (_REAL, _SYNTHETIC))
    variables = create_network(spec, _CLASSES, shape).init(jax.random.key(seed))
    variables = jax.tree.map(lambda x: np.asarray(x, np.float64), variables)
    images = np.zeros((_CLASSES, 1, *shape), np.uint8)  # A session wants some.
    session = official.Session(
        names,
        config,
        images,
        images.astype(np.float32),
        versus.official_weights(variables["params"]),
        "cpu",
    )
    session.model.double()
    theirs = versus.official_match(session, real, new)
    ours = match_class(spec, config.method, variables, 0, real, new, "float64")
    errors = (np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in zip(ours, theirs))
    return Agreement(distance, *map(float, errors))


def main(unused_argv) -> int:
    """Runs the command; returns its exit status."""
    cli.set_up_logging()
    with cli.plain_user_errors():
        if not _AGAINST.value:
            raise ConfigError(["--against must be given."])
        official.check(_AGAINST.value)
    names = official.load(_AGAINST.value, "cpu")
    rows = []
    for distance in DISTANCES:
        found = agreement(names, _NETWORK.value, _SIDE.value, _SEED.value, distance)
        rows.append([distance, f"{found.loss:.1e}", f"{found.gradient:.1e}"])
    print(cli.markdown_table(["distance", "loss", "pixel gradient"], rows))
    return 0


if __name__ == "__main__":
    app.run(main)

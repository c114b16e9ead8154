"""Trains the experts that a configuration's trajectories are matched to, ahead of it.

    python experiments/experts.py --config=configs/cifar10_mtt.py

A run would train them itself. They are kept below the data directory and shared by all
runs on the same data with the same `network` and the same recipe in `experts`; the
same command goes on where it was stopped, trains damaged ones again and adds those that
are missing after `--config.experts.count` was raised.
"""

import dataclasses
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from absl import app  # noqa: E402

from d4a_jax.data import load_dataset  # noqa: E402
from d4a_jax.distillation.run import check_fit, prepare  # noqa: E402
from d4a_jax.evaluation import Judge  # noqa: E402
from d4a_jax.metrics.journal import Journal  # noqa: E402
from experiments import cli, config_flag  # noqa: E402

# Experts that are tested; the test is for a look at the recipe.
_TESTED = 3


def train(choice: config_flag.Choice) -> str:
    """Trains the missing experts of a configuration.

    Args:
      choice: from `config_flag.parse`.

    Returns:
      A table: where they are, how large they are and how they test after some epochs.
    """
    config = choice.config
    dataset = load_dataset(**dataclasses.asdict(config.data))
    check_fit(config, dataset)
    run = prepare(config, dataset, Journal(None), None)
    experts, store = run.experts, run.experts.store
    size = sum(store.path(expert).stat().st_size for expert in range(experts.count))
    rows = [
        ["folder", str(store.directory)],
        [
            "experts",
            f"{experts.count} of {store.epochs} epochs, {store.size:,} numbers",
        ],
        ["size", f"{size / 1e9:.3f} GB ({store.dtype})"],
    ]
    judge = Judge(dataset, run.layout)
    tested = min(experts.count, _TESTED)
    trajectories = [experts.trajectory(expert) for expert in range(tested)]
    for epoch in sorted({1, store.epochs // 2, store.epochs}):
        chosen = [jax.tree.map(lambda x: x[epoch], one) for one in trajectories]
        variables = jax.tree.map(lambda *x: jnp.stack(x), *chosen)
        result = judge.test(experts.ensemble, variables, tested, 0)
        accuracy = f"{100 * result.mean:.2f} ± {100 * result.std:.2f} %"
        rows.append([f"test accuracy after epoch {epoch}", accuracy])
    return cli.markdown_table(["", f"experts {experts.digest}"], rows)


def main(choice: config_flag.Choice) -> None:
    """Runs the command."""
    cli.set_up_logging()
    cli.keep_compiled_programs()
    with cli.plain_user_errors():
        print(train(choice))


if __name__ == "__main__":
    app.run(main, flags_parser=config_flag.parse_all)

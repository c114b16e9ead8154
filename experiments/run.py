"""Distills a data set, from the first image to the last test.

    python experiments/run.py --config=configs/tin50.py

`--config.x.y=VALUE` changes a value of the configuration, and `:smoke` behind the name
of its file shrinks the run to seconds. Everything goes to `--workdir`, by default
`runs/NAME`; the same command continues a run that was interrupted. Without `--config`
it distills the handwritten digits that come with scikit-learn.
"""

import dataclasses
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from absl import app, flags  # noqa: E402

from d4a_jax.analysis.report import write_report  # noqa: E402
from d4a_jax.checkpoint import CheckpointError  # noqa: E402
from d4a_jax.config import Config, ConfigError  # noqa: E402
from d4a_jax.data import Dataset, load_dataset  # noqa: E402
from d4a_jax.distillation import (  # noqa: E402
    DivergenceError,
    Interrupted,
    distill,
)
from d4a_jax.parallel import make_layout  # noqa: E402
from d4a_jax.run import check_fit  # noqa: E402
from d4a_jax.workdir import Workdir  # noqa: E402
from experiments import cli, config_flag  # noqa: E402

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; by default runs/NAME-OF-THE-CONFIGURATION."
)


def run(
    choice: config_flag.Choice,
    workdir: str | Path,
    should_stop: Callable[[], bool] = lambda: False,
) -> None:
    """Distills what a configuration says and prints how good it is.

    Args:
      choice: from `config_flag.parse`.
      workdir: the run's directory.
      should_stop: says whether to stop; see `distill`.
    """
    config, start = choice.config, time.monotonic()
    with Workdir(workdir, config) as place:
        dataset = load_dataset(**dataclasses.asdict(config.data), verify=True)
        check_fit(config, dataset)
        print(plan(config, dataset, place.path), flush=True)
        place.record(dataset, choice.overrides)
        distilled = distill(dataset, config, place.path, should_stop)
        report = write_report(place.path, None, dataset)
    print(f"\n{results(distilled.metadata['history'])}\n")
    minutes = (time.monotonic() - start) / 60
    print(f"{minutes:.1f} minutes. The distilled set: {place.path / 'distilled'}")
    print(f"To look at: {report}")


def plan(config: Config, dataset: Dataset, workdir: Path) -> str:
    """What will be done, in a few lines."""
    synthetic, matching = config.synthetic, config.matching
    sizes, classes = config.segment_sizes, dataset.num_classes
    shape = " x ".join(map(str, dataset.image_shape))
    objective = matching.surrogate
    if objective != "trajectory":
        objective += f" by {matching.distance}"
    selected = "the filter" if config.filter.enabled else "no filter"
    selected += " with the noise guard" if config.filter.guard else ""
    devices = _devices(config)
    rows = {
        "Data": f"{dataset.name}, {len(dataset.train_labels):,} training and "
        f"{len(dataset.test_labels):,} test images, {shape}, {classes} classes",
        "Distilled": f"{synthetic.images_per_class} images per class in {len(sizes)} "
        f"segment(s) of {', '.join(map(str, sizes))}; factor {synthetic.factor}",
        "Matching": f"{len(sizes)} x {config.steps_per_segment:,} steps on all "
        f"classes, {objective} on {config.network}",
        "Selection": f"{selected}; regularizer {config.regularizer.name}",
        "Devices": ", ".join(devices),
        "Workdir": str(workdir),
    }
    return "\n".join(f"{name:9}  {text}" for name, text in rows.items())


def _devices(config: Config) -> list[str]:
    try:
        mesh = make_layout(config.runtime.devices, config.runtime.class_chunk).mesh
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    return [f"{device.device_kind} {device.id}" for device in mesh.devices.flat]


def results(history) -> str:
    """A table of the figures of every prefix S_1 ... S_k."""
    header = ["images per class", "test accuracy (%)", "repeats", "kept (%)"]
    rows = []
    for entry in history:
        test, kept = entry.get("evaluation"), entry.get("filter")
        accuracy = f"{test['top1']:.2f} ± {test['top1_std']:.2f}" if test else "-"
        rows.append(
            [
                str(entry["images_per_class"]),
                accuracy,
                str(test["repeats"]) if test else "-",
                f"{100 * kept['kept']:.1f}" if kept else "-",
            ]
        )
    return cli.markdown_table(header, rows)


def _parse(argv):
    with cli.plain_user_errors():
        choice, rest = config_flag.parse(argv)
        cli.parse_flags(rest)
    return choice


def main(choice: config_flag.Choice) -> int:
    """Runs the command; returns its exit status."""
    cli.set_up_logging()
    cli.keep_compiled_programs()
    workdir = _WORKDIR.value or Path("runs") / choice.name
    should_stop = cli.StopSignal()
    try:
        with cli.plain_user_errors():
            run(choice, workdir, should_stop)
            return 0
    except (CheckpointError, DivergenceError) as error:
        print(error, file=sys.stderr)
        return 1
    except Interrupted:
        pass
    print(cli.STOPPED)
    return 128 + (should_stop.number or signal.SIGINT)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

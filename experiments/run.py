"""Distills a data set, from the first image to the last test.

    python experiments/run.py --config=configs/tin50.py

`--config.x.y=VALUE` changes a value of the configuration, and `:smoke` behind the name
of its file shrinks the run to seconds. Everything goes to `--workdir`, by default
`runs/NAME`; the same command continues a run that was interrupted. Without `--config`
it distills the handwritten digits that come with scikit-learn.

The same command on several hosts makes one run of them, with a working directory that
all can reach: started by `srun` or `mpirun`, on a Cloud TPU pod slice with
`--distributed`, or by hand with `--coordinator`, `--num_processes` and `--process_id`.
"""

import dataclasses
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from absl import app, flags  # noqa: E402

from d4a_jax.analysis.report import write_report  # noqa: E402
from d4a_jax.config import Config, ConfigError  # noqa: E402
from d4a_jax.data import Dataset, load_dataset  # noqa: E402
from d4a_jax.devices import processes  # noqa: E402
from d4a_jax.devices.parallel import make_layout  # noqa: E402
from d4a_jax.distillation import (  # noqa: E402
    DivergenceError,
    Interrupted,
    distill,
)
from d4a_jax.distillation.run import check_fit  # noqa: E402
from d4a_jax.storage.checkpoint import CheckpointError  # noqa: E402
from d4a_jax.storage.workdir import Workdir  # noqa: E402
from experiments import cli, config_flag  # noqa: E402

_PROCESS_LOST = 75  # What sysexits.h calls a temporary failure: try again.

_WORKDIR = flags.DEFINE_string(
    "workdir", None, "Directory of the run; by default runs/NAME-OF-THE-CONFIGURATION."
)
_DISTRIBUTED = flags.DEFINE_bool(
    "distributed", False, "Meet the other processes of a launcher that JAX knows."
)
_COORDINATOR = flags.DEFINE_string(
    "coordinator", None, "HOST:PORT of process 0, where processes meet."
)
_NUM_PROCESSES = flags.DEFINE_integer(
    "num_processes", None, "How many processes make the run.", 1
)
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Number of this one.", 0)


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
        dataset = processes.main_first(
            lambda: load_dataset(**dataclasses.asdict(config.data), verify=True)
        )
        check_fit(config, dataset)
        text = plan(config, dataset, place.path)
        if processes.is_main():
            print(text, flush=True)
        place.record(dataset, choice.overrides)
        distilled = distill(dataset, config, place.path, should_stop)
        if not processes.is_main():
            return
        report = write_report(place.path, None, dataset)
    print(f"\n{results(distilled.metadata['history'])}\n")
    minutes = (time.monotonic() - start) / 60
    print(f"{minutes:.1f} minutes. The distilled set: {place.path / 'distilled'}")
    print(f"To look at: {report}")


def plan(config: Config, dataset: Dataset, workdir: Path) -> str:
    """What will be done, in a few lines."""
    synthetic = config.synthetic
    sizes, classes = config.segment_sizes, dataset.num_classes
    shape = " x ".join(map(str, dataset.image_shape))
    objective = config.method_name.replace("_", " ")
    if distance := getattr(config.method, "distance", None):
        objective += f" by {distance}"
    selected = "the filter" if config.filter.enabled else "no filter"
    selected += " with the noise guard" if config.filter.guard else ""
    devices = _devices(config)
    rows = {
        "Data": f"{dataset.name}, {len(dataset.train_labels):,} training and "
        f"{len(dataset.test_labels):,} test images, {shape}, {classes} classes",
        **({"Read": "; ".join(dataset.understood)} if dataset.understood else {}),
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


def join_processes() -> None:
    """Meets the other processes, where there are any.

    Raises:
      ConfigError: the flags do not fit.
    """
    flags_given = (_COORDINATOR.value, _NUM_PROCESSES.value, _PROCESS_ID.value)
    several = any(value is not None for value in flags_given)
    if several or _DISTRIBUTED.value or processes.launched_together():
        try:
            processes.join(*flags_given)
        except ValueError as error:
            raise ConfigError([str(error)]) from None


def main(choice: config_flag.Choice) -> int:
    """Runs the command; returns its exit status."""
    cli.set_up_logging()
    cli.keep_compiled_programs()
    try:
        with cli.plain_user_errors():
            join_processes()
            return _distill(choice)
    except SystemExit as error:
        return processes.failed(error.code)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        # Writes that are still in flight would show stack traces at an ordinary end.
        processes.end(1)
    except DivergenceError as error:
        print(error, file=sys.stderr)
        return processes.failed(1)
    except Exception as error:  # pylint: disable=broad-except
        lost = processes.loss_of(error)
        if lost is None:
            traceback.print_exc()
            return processes.failed(1)
        print(lost, file=sys.stderr)
        return processes.failed(_PROCESS_LOST)


def _distill(choice):
    workdir = _WORKDIR.value or Path("runs") / choice.name
    should_stop = cli.StopSignal()
    try:
        run(choice, workdir, should_stop)
        return 0
    except Interrupted:
        pass
    if processes.is_main():
        print(cli.STOPPED)
    return 128 + (should_stop.number or signal.SIGINT)


if __name__ == "__main__":
    app.run(main, flags_parser=config_flag.parse_all)

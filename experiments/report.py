"""Writes one HTML page about a run, which opens offline in a browser.

    python experiments/report.py --workdir=runs/tin50 --analysis=runs/analysis

Writes `report.html` into the run's directory (or `--output`), and every figure as PNG
and CSV into `report` beside it. `--analysis` is the output of analyze.py; without it
the page holds what the run recorded itself. `--workdir` may also be a distilled set
alone.
"""

import dataclasses
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from absl import app, flags  # noqa: E402

from d4a_jax.analysis.document import load_analysis  # noqa: E402
from d4a_jax.analysis.methods import distilled_directory  # noqa: E402
from d4a_jax.analysis.report import write_report  # noqa: E402
from d4a_jax.artifact import load_distilled  # noqa: E402
from d4a_jax.config import ConfigError, from_dict  # noqa: E402
from d4a_jax.data import Dataset, DatasetError, load_dataset  # noqa: E402
from d4a_jax.log import logger  # noqa: E402
from experiments import cli  # noqa: E402

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run or the set.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write; that of the run.")
_ANALYSIS = flags.DEFINE_string("analysis", None, "Output of analyze.py, or its file.")
_IMAGES = flags.DEFINE_integer("images", 10, "Most images of a kind in a group.", 1)
_CLASSES = flags.DEFINE_integer("classes", 20, "Most classes in the gallery.", 1)
_DATA = flags.DEFINE_string(
    "data", None, "The real data: a name, a folder or an .npz file; those of the run."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data are cached.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Where archives are.")
_PATH = flags.DEFINE_string("path", None, "Where own data are.")


def find_data(workdir: Path) -> Dataset | None:
    """The data set of a run; None, with a log line, where it is not at hand.

    Raises:
      ConfigError: `--data` names other data than those that were distilled.
      DatasetError: `--data` names data that are not at hand.
    """
    directory = distilled_directory(workdir)
    metadata = load_distilled(directory).metadata
    try:
        values = cli.artifact_values(
            metadata,
            cli.recorded_data(directory.absolute().parent),
            _DATA.value,
            data_dir=_DATA_DIR.value,
            manual_dir=_MANUAL_DIR.value,
            path=_PATH.value,
            download=False,
        )
        dataset = load_dataset(**dataclasses.asdict(from_dict(values).data))
        if dataset.fingerprint != metadata.get("dataset_fingerprint"):
            raise ConfigError([f"The set is not made from this {dataset.name}."])
    except (ConfigError, DatasetError, OSError) as error:
        if _DATA.value:
            raise
        logger.info("The page will show no real images: %s", error)
        return None
    return dataset


def run() -> None:
    """Writes the page that the flags describe."""
    if not _WORKDIR.value:
        raise ConfigError(["--workdir must name the directory of a run."])
    workdir = Path(_WORKDIR.value)
    try:
        analysis = load_analysis(_ANALYSIS.value) if _ANALYSIS.value else None
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    dataset = find_data(workdir)
    try:
        path = write_report(
            workdir,
            analysis,
            dataset,
            _IMAGES.value,
            _CLASSES.value,
            _OUTPUT.value,
        )
    except ValueError as error:
        raise ConfigError([str(error)]) from error
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


def main(unused_argv) -> None:
    """Runs the command."""
    cli.set_up_logging()
    with cli.plain_user_errors():
        run()


def _parse(argv):
    with cli.plain_user_errors():
        cli.parse_flags(argv)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

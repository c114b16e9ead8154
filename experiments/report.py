"""Writes one HTML page about a run, which opens offline in a browser.

    python experiments/report.py --workdir=runs/tin50 --analysis=runs/analysis

Writes `report.html` into the run's directory, and every figure as PNG and CSV into its
`report`. `--analysis` is the output of analyze.py; without it the page holds what the
run recorded itself.
"""

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import json  # noqa: E402

from absl import app, flags  # noqa: E402

from d4a_jax.analysis.report import write_report  # noqa: E402
from d4a_jax.analysis.study import load_analysis  # noqa: E402
from d4a_jax.artifact import load_distilled  # noqa: E402
from d4a_jax.data import Dataset, DatasetError, load_dataset  # noqa: E402
from d4a_jax.log import logger  # noqa: E402
from experiments import cli  # noqa: E402

_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run.")
_ANALYSIS = flags.DEFINE_string("analysis", None, "Output of analyze.py, or its file.")
_IMAGES = flags.DEFINE_integer("images", 10, "Most images of a kind in a group.", 1)
_CLASSES = flags.DEFINE_integer("classes", 20, "Most classes in the gallery.", 1)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data are cached.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Where archives are.")
_PATH = flags.DEFINE_string("path", None, "Where own data are.")


def find_data(workdir: Path) -> Dataset | None:
    """The data set of a run; None, with a log line, where it is not at hand."""
    metadata = load_distilled(workdir / "distilled").metadata
    # What the run was started with also says where its data were.
    record = workdir / "config.json"
    config = metadata.get("config")
    if record.exists():
        config = json.loads(record.read_bytes())["config"]
    if config is None:
        return None
    data = config["data"]
    classes = data["classes"]
    try:
        dataset = load_dataset(
            data["name"],
            data_dir=_DATA_DIR.value or data.get("data_dir"),
            manual_dir=_MANUAL_DIR.value or data.get("manual_dir"),
            download=False,
            size=data["size"],
            classes=tuple(classes) if isinstance(classes, list) else classes,
            path=_PATH.value or data.get("path"),
        )
    except (DatasetError, OSError) as error:
        logger.info("The page will show no real images: %s", error)
        return None
    if dataset.fingerprint != metadata.get("dataset_fingerprint"):
        logger.info("The page will show no real images: other data were distilled.")
        return None
    return dataset


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected argument {argv[1]!r}.")
    cli.set_up_logging()
    workdir = Path(_WORKDIR.value)
    with cli.plain_user_errors():
        try:
            analysis = load_analysis(_ANALYSIS.value) if _ANALYSIS.value else None
        except ValueError as error:
            raise flags.Error(str(error)) from error
        dataset = find_data(workdir)
        path = write_report(workdir, analysis, dataset, _IMAGES.value, _CLASSES.value)
    print(f"{path} ({path.stat().st_size / 1e6:.1f} MB)")


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main)

"""Tests a distilled set: trains networks from scratch on it, any list of them.

    python experiments/evaluate.py --artifact=DIR/distilled --networks=convnet,resnet18

The recipe is the one that the distilled set names as its protocol, changed by
`--repeats`, `--epochs` and `--max_steps`. `--segments=k` tests the first k segments
only. The table goes to the terminal and, with everything else, to `--output=FILE.json`.
"""

import dataclasses
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from absl import app, flags  # noqa: E402

from d4a_jax.artifact import ArtifactError, DistilledDataset, load_distilled  # noqa: E402
from d4a_jax.artifact.provenance import with_class_order  # noqa: E402
from d4a_jax.config import Config, ConfigError, from_dict  # noqa: E402
from d4a_jax.data import Dataset, load_dataset  # noqa: E402
from d4a_jax.evaluation import Evaluation, evaluate  # noqa: E402
from d4a_jax.flips import forbids_flips, without_flips  # noqa: E402
from d4a_jax.log import logger  # noqa: E402
from d4a_jax.metrics import progress_hook  # noqa: E402
from d4a_jax.networks import create_network  # noqa: E402
from d4a_jax.storage import fileio  # noqa: E402
from d4a_jax.storage.environment import environment  # noqa: E402
from experiments import cli  # noqa: E402

_ARTIFACT = flags.DEFINE_string("artifact", None, "Directory of a distilled set.")
_NETWORKS = flags.DEFINE_list(
    "networks",
    None,
    "Networks such as convnet,resnet18:norm=batch; by default the protocol's.",
)
_SEGMENTS = flags.DEFINE_integer("segments", None, "First segments to take; all.")
_REPEATS = flags.DEFINE_integer("repeats", None, "Networks of each kind.")
_EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs of each training.")
_MAX_STEPS = flags.DEFINE_integer("max_steps", None, "Most SGD steps of each training.")
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the trainings.")
_DATA = flags.DEFINE_string(
    "data", None, "The real data: a name, a folder or an .npz file; those of the set."
)
_SIZE = flags.DEFINE_integer("size", None, "Side to resize the data to.", 4)
_RESIZE = flags.DEFINE_bool(
    "resize", False, "Resize the real images to the size of the distilled ones."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where data are kept.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Folder with archives.")
_DATA_PATH = flags.DEFINE_string(
    "data_path", None, "For the data of arrays or folders."
)
_DOWNLOAD = flags.DEFINE_bool("download", True, "Whether data may be downloaded.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")


def run() -> None:
    """Tests the distilled set that the flags name."""
    if not _ARTIFACT.value:
        raise ConfigError(["--artifact must name the directory of a distilled set."])
    distilled = _load_artifact()
    config = _config(distilled)
    dataset = _load_dataset(config, distilled.metadata)
    distilled = with_class_order(distilled, dataset)
    if forbids_flips(distilled.metadata, dataset):
        config = without_flips(config)
    specs = _NETWORKS.value or [config.evaluation.network or config.network]
    _check_networks(specs, dataset)
    results = [_evaluate(distilled, dataset, spec, config) for spec in specs]
    print(table(results, distilled))
    if _OUTPUT.value:
        _write(distilled, dataset, config, results)


def table(results: list[Evaluation], distilled: DistilledDataset) -> str:
    """The results as a Markdown table, accuracies in percent."""
    per_class = len(distilled.labels) / distilled.num_classes
    header = ["network", "images per class", "top-1 (%)", "repeats", "steps"]
    with_top5 = any(result.top5 for result in results)
    rows = []
    for result in results:
        figures = result.summary()
        row = [
            result.network,
            f"{per_class:g}",
            f"{figures['top1']:.2f} ± {figures['top1_std']:.2f}",
            str(figures["repeats"]),
            f"{figures['steps']:,}",
        ]
        rows.append(row + [f"{figures['top5']:.2f}"] if with_top5 else row)
    return cli.markdown_table(header + ["top-5 (%)"] if with_top5 else header, rows)


def _load_artifact() -> DistilledDataset:
    try:
        return load_distilled(_ARTIFACT.value, _SEGMENTS.value)
    except ValueError as error:
        raise ArtifactError(str(error)) from None


def _config(distilled) -> Config:
    """The configuration of the distilled set with the protocol that was asked for."""
    metadata, (height, width) = distilled.metadata, distilled.images.shape[1:3]
    recorded = cli.recorded_data(Path(_ARTIFACT.value).absolute().parent)
    if _RESIZE.value and height != width:
        raise ConfigError(
            [
                f"--resize makes images square, but those of the distilled set are "
                f"{height} x {width}."
            ]
        )
    values = cli.artifact_values(
        metadata,
        recorded,
        _DATA.value,
        data_dir=_DATA_DIR.value,
        manual_dir=_MANUAL_DIR.value,
        path=_DATA_PATH.value,
        size=height if _RESIZE.value else _SIZE.value,
        download=_DOWNLOAD.value,
    )
    asked = {
        "repeats": _REPEATS.value,
        "epochs": _EPOCHS.value,
        "max_steps": _MAX_STEPS.value,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    values["evaluation"] |= asked
    return from_dict(values | {"seed": _SEED.value})


def _load_dataset(config: Config, metadata) -> Dataset:
    dataset = load_dataset(**dataclasses.asdict(config.data))
    made_from = metadata.get("dataset_fingerprint")
    if made_from not in (None, dataset.fingerprint):
        if "source" not in metadata and not _DATA.value:
            raise ConfigError(
                [
                    f"The images of {dataset.name} are not those that were distilled, "
                    "and this set, of an earlier version, does not record where those "
                    "are. Say where they are by --data=..., a data set's name "
                    f"(--data={dataset.name} takes these), a folder or an .npz file."
                ]
            )
        reason = "" if _DATA.value else ": another version or another decoder"
        logger.warning(
            "The images of %s differ from those that were distilled%s.",
            dataset.name,
            reason,
        )
    return dataset


def _check_networks(specs, dataset):
    problems = []
    for spec in specs:
        try:
            create_network(spec, dataset.num_classes, dataset.image_shape)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ConfigError(problems)


def _evaluate(distilled, dataset, spec, config) -> Evaluation:
    protocol, runtime = config.evaluation, config.runtime
    with progress_hook(f"{protocol.repeats} x {spec}") as progress:
        return evaluate(
            distilled, dataset, [spec], protocol, runtime, _SEED.value, progress
        )[0]


def _write(distilled, dataset, config, results):
    report = environment() | {
        "artifact": str(Path(_ARTIFACT.value).absolute()),
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "images": len(distilled.labels),
        "segments": distilled.num_segments,
        "protocol": dataclasses.asdict(config.evaluation),
        "seed": _SEED.value,
        "results": [
            {"network": result.network, "top1_each": result.top1} | result.summary()
            for result in results
        ],
    }
    path = Path(_OUTPUT.value)
    path.parent.mkdir(parents=True, exist_ok=True)
    fileio.write_json_atomic(path, report)
    logger.info("Written to %s", path)


def _parse(argv):
    with cli.plain_user_errors():
        cli.parse_flags(argv)


def main(unused_argv) -> None:
    """Runs the command."""
    cli.set_up_logging()
    cli.keep_compiled_programs()
    with cli.plain_user_errors():
        run()


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

"""Measures what distilled sets teach: by difficulty, over segments, against baselines.

    python experiments/analyze.py --artifacts=runs/d4a,runs/idc --labels=D4A,IDC \\
        --random --full --output=runs/analysis

Trains networks on every prefix of every set, by one recipe (that of the first set),
and classifies all real images with them. Sets of one label count as several
distillations by one method; a path may hold `*`. Writes `analysis.json`, and every
figure as PNG and CSV, to `--output`. The same command continues where it was stopped: a
set is never trained on twice.

    --architectures=convnet:depth=4,resnet18:norm=batch    (or all)

tests the whole sets on other networks too.
"""

import contextlib
import dataclasses
import glob
import sys
import time
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import jax  # noqa: E402
from absl import app, flags  # noqa: E402

from d4a_jax.analysis import charts, methods, study_charts  # noqa: E402
from d4a_jax.analysis.answers import Examiner, TrainingSet  # noqa: E402
from d4a_jax.analysis.study import (  # noqa: E402
    Settings,
    Study,
    order_by_difficulty,
    run,
)
from d4a_jax.artifact import load_distilled  # noqa: E402
from d4a_jax.config import Config, ConfigError, from_dict  # noqa: E402
from d4a_jax.data import Dataset, data_directory, load_dataset  # noqa: E402
from d4a_jax.difficulty import Difficulty, load_or_cross_fit  # noqa: E402
from d4a_jax.flips import without_flips  # noqa: E402
from d4a_jax.log import logger  # noqa: E402
from d4a_jax.metrics import progress_hook  # noqa: E402
from d4a_jax.networks import create_network  # noqa: E402
from d4a_jax.storage.fileio import WorkdirLock, write_json_atomic  # noqa: E402
from experiments import cli  # noqa: E402

_ARTIFACTS = flags.DEFINE_list("artifacts", None, "Distilled sets, or their runs.")
_LABELS = flags.DEFINE_list("labels", None, "A name for each; by default its path's.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write.")
_RANDOM = flags.DEFINE_bool("random", False, "Add random real images.")
_FULL = flags.DEFINE_bool("full", False, "Add training on all real images.")
_PLAIN = flags.DEFINE_bool(
    "without_augmentation", False, "Train a second time without augmentation (for ARS)."
)
_ARCHITECTURES = flags.DEFINE_list(
    "architectures",
    None,
    "Other networks for the whole sets; 'all' for the usual ones.",
)
_BEST_OF = flags.DEFINE_integer(
    "best_of", 0, "Also the best of so many test accuracies during training.", 0
)
_NETWORK = flags.DEFINE_string("network", None, "Network; by default the first set's.")
_REPEATS = flags.DEFINE_integer("repeats", None, "Networks per set.", lower_bound=1)
_EPOCHS = flags.DEFINE_integer("epochs", None, "Epochs of every training.", 1)
_MAX_STEPS = flags.DEFINE_integer("max_steps", None, "Most SGD steps.", lower_bound=1)
_FULL_EPOCHS = flags.DEFINE_integer("full_epochs", 30, "Epochs on all real images.", 1)
_FULL_STEPS = flags.DEFINE_integer("full_max_steps", None, "Most steps on these.", 1)
_BINS = flags.DEFINE_integer("bins", 10, "Difficulty segments.", lower_bound=2)
_MEASURE = flags.DEFINE_enum(
    "measure", "loss", list(Difficulty._fields), "What orders the real images."
)
_PER_CLASS = flags.DEFINE_bool("per_class", False, "Cut every class on its own.")
_HARDEST = flags.DEFINE_integer("hardest", 3, "Last segments that count as hard.", 1)
_JUDGES = flags.DEFINE_integer(
    "difficulty_networks", None, "Networks per fold that measure difficulty.", 1
)
_JUDGE_EPOCHS = flags.DEFINE_integer("difficulty_epochs", None, "Their epochs.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of networks and random images.", 0)
_DATA = flags.DEFINE_string(
    "data", None, "A name, a folder or an .npz file; by default the first set's data."
)
_SIZE = flags.DEFINE_integer("size", None, "Side of its images.", lower_bound=1)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data are cached.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Where archives are.")
_PATH = flags.DEFINE_string("path", None, "Where own data are.")

# What the field tests transfer on.
_USUAL = (
    "convnet:depth=3",
    "convnet:depth=4",
    "resnet10",
    "resnet18",
    "resnet18:norm=batch",
    "vgg11",
    "alexnet",
    "densenet121",
    "vit",
)


def find_artifacts(patterns: list[str], labels: list[str]) -> list[tuple[str, str]]:
    """(label, path) of every distilled set; a label serves all paths of its pattern."""
    if labels and len(labels) != len(patterns):
        raise ConfigError(
            [f"--labels names {len(labels)} sets, but --artifacts {len(patterns)}."]
        )
    found = []
    for place, pattern in enumerate(patterns):
        paths = sorted(glob.glob(pattern)) if "*" in pattern else [pattern]
        if not paths:
            raise ConfigError([f"--artifacts: nothing matches {pattern!r}."])
        names = (
            [labels[place]] * len(paths) if labels else [Path(p).name for p in paths]
        )
        found += zip(names, paths)
    return found


def first_config(path: str | Path) -> Config:
    """The configuration of a distilled set, with what the flags change of it."""
    recorded = cli.recorded_data(path)
    paths = {
        "data_dir": _DATA_DIR.value or recorded.get("data_dir"),
        "manual_dir": _MANUAL_DIR.value or recorded.get("manual_dir"),
        "path": _PATH.value or recorded.get("path"),
    }
    asked = cli.named_data(_DATA.value)
    if _SIZE.value is not None:
        asked["size"] = _SIZE.value
    metadata = load_distilled(methods.distilled_directory(path)).metadata
    values = cli.artifact_values(metadata, **(paths | asked))
    if "config" not in metadata and _NETWORK.value:
        values["network"] = _NETWORK.value
    judges = {"networks": _JUDGES.value, "epochs": _JUDGE_EPOCHS.value}
    judges = {name: value for name, value in judges.items() if value is not None}
    values["difficulty"] = values.get("difficulty", {}) | judges
    return from_dict(values)


def make_examiner(
    config: Config, dataset: Dataset, network: str, output: Path
) -> Examiner:
    """Networks by the configuration's recipe and what the flags change of it."""
    changes = {"repeats": _REPEATS, "epochs": _EPOCHS, "max_steps": _MAX_STEPS}
    changes = {k: flag.value for k, flag in changes.items() if flag.value is not None}
    recipe = dataclasses.replace(config.evaluation, **changes)
    full = dataclasses.replace(
        recipe, epochs=_FULL_EPOCHS.value, max_steps=_FULL_STEPS.value
    )
    directory = output / "answers"
    return Examiner(
        dataset, network, recipe, full, config.runtime, _SEED.value, directory,
        _BEST_OF.value,
    )  # fmt: skip


def other_networks(dataset: Dataset) -> list[str]:
    """The architectures that the flags ask for; of 'all' those that fit the images."""
    asked = _ARCHITECTURES.value or []
    problems, fitting = [], []
    for spec in _USUAL if asked == ["all"] else asked:
        try:
            create_network(spec, dataset.num_classes, dataset.image_shape)
            fitting.append(spec)
        except ValueError as error:
            problems.append(str(error))
    if problems and asked != ["all"]:
        raise ConfigError(problems)
    for problem in problems:
        logger.info("left out: %s", problem)
    return fitting


def make_study(config: Config, examiner: Examiner, found: list) -> Study:
    """Orders the real images by difficulty; nothing else is trained yet."""
    dataset = examiner.dataset
    with _plain_values():
        options = (_BINS.value, _MEASURE.value, _PER_CLASS.value, _HARDEST.value)
        settings = Settings(*options)
    directory = data_directory(config.data.data_dir) / "difficulty"
    with progress_hook("difficulty of the real images") as hook:
        difficulty = load_or_cross_fit(
            dataset, config, examiner.layout, directory, hook
        )
    facts = {
        "network": examiner.network.spec,
        "protocol": dataclasses.asdict(examiner.recipe),
        "reference": dataclasses.asdict(config.difficulty)
        | {"network": config.network},
        "seed": _SEED.value,
        "best_of": _BEST_OF.value,
        "hardware": _hardware(examiner.layout),
    }
    with _plain_values():
        segments = order_by_difficulty(dataset, difficulty, settings)
    return Study(dataset, found, *segments, settings, facts)


def table(study: Study) -> str:
    """The accuracies and how long they took, as Markdown."""
    header = ["set", "test (%)", "easiest (%)", "hardest (%)", "ever right (%)",
              "distillations", "networks", "steps", "seconds"]  # fmt: skip
    lines = []
    for row in study.summary()["rows"]:
        test, by_segment = row["test"], row["train_by_segment"]["mean"]
        lines.append(
            [
                row["name"],
                f"{100 * test['mean']:.2f} ± {100 * test['std']:.2f}",
                f"{100 * by_segment[0]:.1f}",
                f"{100 * by_segment[-1]:.1f}",
                f"{100 * row['coverage']:.1f}",
                str(row["distillations"]),
                str(row["networks"]),
                str(row["steps"]),
                f"{row['seconds']:.0f}",
            ]
        )
    return cli.markdown_table(header, lines)


def architecture_table(study: Study) -> str:
    """Test accuracy of the whole sets on other architectures, as Markdown."""
    entries = study.summary()["architectures"]
    header = ["network", "set", "test (%)", "networks", "steps"]
    lines = [
        [
            entry["network"],
            entry["name"],
            f"{100 * entry['test']['mean']:.2f} ± {100 * entry['test']['std']:.2f}",
            str(entry["networks"]),
            str(entry["steps"]),
        ]
        for entry in entries
    ]
    return cli.markdown_table(header, lines)


def _progress(item: TrainingSet):
    return progress_hook(item.name)


@contextlib.contextmanager
def _plain_values():
    """Takes a ValueError for a user's mistake; to be used around no computation."""
    try:
        yield
    except ValueError as error:
        raise ConfigError([str(error)]) from error


def _hardware(layout):
    devices = list(layout.mesh.devices.flat)
    return f"{len(devices)} × {devices[0].device_kind}, jax {jax.__version__}"


def _prepare(output):
    """Study, first examiner, configuration and other networks; no training yet."""
    with _plain_values():
        artifacts = find_artifacts(_ARTIFACTS.value, _LABELS.value or [])
        config = first_config(artifacts[0][1])
        dataset = load_dataset(**dataclasses.asdict(config.data))
        config = config if dataset.flip else without_flips(config)
        found = [methods.load_method(*artifact, dataset) for artifact in artifacts]
        network = _NETWORK.value or config.evaluation.network or config.network
        examiner = make_examiner(config, dataset, network, output)
        others = other_networks(dataset)
    return make_study(config, examiner, found), examiner, config, others


def analyze(output: Path) -> Study:
    """Runs the study that the flags describe, and writes it after every set."""
    study, examiner, config, others = _prepare(output)
    sets = methods.training_sets(
        study.dataset, study.methods, _RANDOM.value, _FULL.value, _PLAIN.value,
        _SEED.value,
    )  # fmt: skip
    whole = [x for x in methods.whole(sets) if x.augmented]
    total = len(sets) + len(whole) * len(others)

    def reporter(examiner, record):
        def report(item, answers, known):
            record(item, answers)
            write_json_atomic(output / "analysis.json", study.summary())
            place = len(study.finished) + len(study.transfers)
            logger.info(
                "%d/%d %s on %s: %s, test %.2f %%",
                place, total, examiner.network.spec, item.name,
                "found" if known else "trained", 100 * answers.test.mean(),
            )  # fmt: skip

        return report

    own = lambda item, answers: study.finished.append((item, answers))
    run(examiner, sets, reporter(examiner, own), _progress)
    for network in others:
        other = make_examiner(config, study.dataset, network, output)
        add = lambda *found, n=network: study.transfers.append((n, *found))
        run(other, whole, reporter(other, add), _progress)
    charts.save_charts(list(study_charts.study_charts(study.summary())), output)
    return study


def main(unused_argv) -> None:
    """Runs the command."""
    cli.set_up_logging()
    cli.keep_compiled_programs()
    output, start = Path(_OUTPUT.value), time.monotonic()
    with cli.plain_user_errors(), WorkdirLock(output):
        study = analyze(output)
    print(f"\n{table(study)}\n")
    if study.transfers:
        print(f"{architecture_table(study)}\n")
    minutes = (time.monotonic() - start) / 60
    print(f"{minutes:.1f} minutes on {study.facts['hardware']}: {output}")


def _parse(argv):
    with cli.plain_user_errors():
        cli.parse_flags(argv)


if __name__ == "__main__":
    flags.mark_flags_as_required(["artifacts", "output"])
    app.run(main, flags_parser=_parse)

"""Measures what distilled sets teach: by difficulty, over segments, against baselines.

    python experiments/analyze.py --artifacts=runs/d4a,runs/idc --labels=D4A,IDC \\
        --random --full --output=runs/analysis

Trains networks on every prefix of every set, by one recipe (that of the first set),
and classifies all real images with them. Writes `analysis.json`, and every figure as
PNG and CSV, to `--output`. The same command continues where it was stopped: a set is
never trained on twice.
"""

import contextlib
import dataclasses
import sys
import time
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import jax  # noqa: E402
from absl import app, flags  # noqa: E402

from d4a_jax.analysis import charts, deciles, methods  # noqa: E402
from d4a_jax.analysis.answers import Examiner  # noqa: E402
from d4a_jax.analysis.study import Settings, Study, run  # noqa: E402
from d4a_jax.artifact import load_distilled  # noqa: E402
from d4a_jax.config import Config, from_dict  # noqa: E402
from d4a_jax.data import Dataset, data_directory, load_dataset  # noqa: E402
from d4a_jax.difficulty import Difficulty, load_or_cross_fit  # noqa: E402
from d4a_jax.fileio import WorkdirLock, write_json_atomic  # noqa: E402
from d4a_jax.log import logger  # noqa: E402
from d4a_jax.metrics import Progress  # noqa: E402
from experiments import cli  # noqa: E402

_ARTIFACTS = flags.DEFINE_list("artifacts", None, "Distilled sets, or their runs.")
_LABELS = flags.DEFINE_list("labels", None, "A name for each; by default its path's.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write.")
_RANDOM = flags.DEFINE_bool("random", False, "Add random real images.")
_FULL = flags.DEFINE_bool("full", False, "Add training on all real images.")
_PLAIN = flags.DEFINE_bool(
    "without_augmentation", False, "Train a second time without augmentation (for ARS)."
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
_SEED = flags.DEFINE_integer("seed", 0, "Seed of networks and random images.", 0)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where prepared data are cached.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Where archives are.")
_PATH = flags.DEFINE_string("path", None, "Where own data are.")


def open_data(config: Config) -> Dataset:
    """The data set that a configuration names."""
    data = config.data
    return load_dataset(
        data.name,
        data_dir=_DATA_DIR.value,
        manual_dir=_MANUAL_DIR.value,
        size=data.size,
        classes=data.classes,
        path=_PATH.value,
    )


def first_config(path: str | Path) -> Config:
    """The configuration by which a distilled set was made."""
    path = Path(path)
    path = path / "distilled" if (path / "distilled").is_dir() else path
    metadata = load_distilled(path).metadata
    if "config" not in metadata:
        raise ValueError(f"{path} does not say by which configuration it was made.")
    return from_dict(metadata["config"])


def make_examiner(config: Config, dataset: Dataset, output: Path) -> Examiner:
    """Networks by the configuration's recipe and what the flags change of it."""
    changes = {"repeats": _REPEATS, "epochs": _EPOCHS, "max_steps": _MAX_STEPS}
    changes = {k: flag.value for k, flag in changes.items() if flag.value is not None}
    recipe = dataclasses.replace(config.evaluation, **changes)
    full = dataclasses.replace(
        recipe, epochs=_FULL_EPOCHS.value, max_steps=_FULL_STEPS.value
    )
    network = _NETWORK.value or recipe.network or config.network
    directory = output / "answers"
    return Examiner(
        dataset, network, recipe, full, config.runtime, _SEED.value, directory
    )


def reference(config: Config, examiner: Examiner):
    """The difficulty of all real images; computed once per data set and kept."""
    directory = data_directory(_DATA_DIR.value) / "difficulty"
    with _progress("difficulty of the real images") as hook:
        return load_or_cross_fit(
            examiner.dataset, config, examiner.layout, directory, hook
        )


def make_study(config: Config, examiner: Examiner, found: list) -> Study:
    """Orders the real images by difficulty; nothing else is trained yet."""
    settings = Settings(
        _BINS.value, _MEASURE.value, _PER_CLASS.value, _HARDEST.value
    )
    dataset = examiner.dataset
    labels = dataset.train_labels, dataset.test_labels
    segments = [
        deciles.segments_by_difficulty(
            methods.hardness(part, settings.measure),
            part_labels,
            settings.bins,
            settings.per_class,
        )
        for part, part_labels in zip(reference(config, examiner), labels)
    ]
    facts = {
        "network": examiner.network.spec,
        "protocol": dataclasses.asdict(examiner.recipe),
        "reference": dataclasses.asdict(config.difficulty)
        | {"network": config.network},
        "seed": _SEED.value,
        "hardware": _hardware(examiner.layout),
    }
    return Study(dataset, found, *segments, settings, facts)


def table(study: Study) -> str:
    """The accuracies and how long they took, as Markdown."""
    header = ["set", "test (%)", "easiest (%)", "hardest (%)", "ever right (%)",
              "networks", "steps", "seconds"]  # fmt: skip
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
                str(row["networks"]),
                str(row["steps"]),
                f"{row['seconds']:.0f}",
            ]
        )
    return cli.markdown_table(header, lines)


@contextlib.contextmanager
def _progress(item):
    """A hook for `Ensemble.fit`; its first call says how many steps there are."""
    label, bars = item if isinstance(item, str) else item.name, []
    with contextlib.ExitStack() as stack:

        def hook(done, total, figures):
            if not bars:
                bars.append(stack.enter_context(Progress(total, label=label)))
            bars[0].update(done, **figures)

        yield hook


def _hardware(layout):
    devices = list(layout.mesh.devices.flat)
    return f"{len(devices)} × {devices[0].device_kind}, jax {jax.__version__}"


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f"Unexpected argument {argv[1]!r}.")
    cli.set_up_logging()
    cli.keep_compiled_programs()
    paths, start = _ARTIFACTS.value, time.monotonic()
    labels = _LABELS.value or [Path(path).name for path in paths]
    if len(labels) != len(paths):
        raise app.UsageError(
            f"--labels names {len(labels)} sets, but --artifacts lists {len(paths)}."
        )
    output = Path(_OUTPUT.value)
    try:
        config = first_config(paths[0])
        dataset = open_data(config)
        found = [
            methods.load_method(label, path, dataset)
            for label, path in zip(labels, paths)
        ]
        examiner = make_examiner(config, dataset, output)
    except (OSError, ValueError) as error:
        print(error, file=sys.stderr)
        sys.exit(cli.USER_ERROR)
    with cli.plain_user_errors(), WorkdirLock(output):
        study = make_study(config, examiner, found)
        sets = methods.training_sets(
            dataset, found, _RANDOM.value, _FULL.value, _PLAIN.value, _SEED.value
        )

        def report(item, answers, known):
            write_json_atomic(output / "analysis.json", study.summary())
            accuracy, verb = 100 * answers.test.mean(), "found" if known else "trained"
            place = f"{len(study.finished)}/{len(sets)}"
            logger.info("%s %s: %s, test %.2f %%", place, item.name, verb, accuracy)

        run(study, examiner, sets, report, _progress)
        charts.save_charts(list(charts.study_charts(study.summary())), output)
    print(f"\n{table(study)}\n")
    minutes = (time.monotonic() - start) / 60
    print(f"{minutes:.1f} minutes on {study.facts['hardware']}: {output}")


if __name__ == "__main__":
    flags.mark_flags_as_required(["artifacts", "output"])
    app.run(main)

"""Caches and rows: a changed field is never served from an old entry, others are."""

import dataclasses
import json

import numpy as np
import pytest
from config_changes import BASE, CHANGES, CHANGES_NOTHING, MATTERS, Change

from d4a_jax import difficulty
from d4a_jax.analysis.answers import Examiner, whole_data
from d4a_jax.artifact import load_distilled
from d4a_jax.config import ConfigError, from_dict
from d4a_jax.data import from_arrays
from d4a_jax.devices.parallel import make_layout
from d4a_jax.distillation import Interrupted
from d4a_jax.evaluation import Evaluation
from d4a_jax.selection.baselines import random_images
from d4a_jax.trajectories import experts, open_experts
from experiments import rows
from experiments.rows import Row, run_row

CONFIG = from_dict(BASE)

# Entries of `counted()` by the base as versions before 0.1 named them.
OLDER_EXPERTS = "fdb66caada778f4b"
OLDER_DIFFICULTY = "083aeba9ad077712"
OLDER_ANSWERS = "48a8879cab2e9c94"

_RECIPE = (
    *("batch_size", "learning_rate", "momentum", "weight_decay", "augmentation"),
    "cutmix_probability",
)
OF_EXPERTS = {"network", "runtime.compute_dtype"}
OF_EXPERTS |= {f"experts.{name}" for name in (*_RECIPE, "epochs", "storage_dtype")}
OF_DIFFICULTY = {"network", "runtime.compute_dtype"}
OF_DIFFICULTY |= {f"evaluation.{name}" for name in _RECIPE}
OF_DIFFICULTY |= {c.field for c in CHANGES if c.field.startswith("difficulty.")}
OF_ANSWERS = {"network", "runtime.compute_dtype", "seed", "evaluation.network"}
OF_ANSWERS |= {f"evaluation.{name}" for name in (*_RECIPE, "repeats", "max_steps")}


def counted(name="counted"):
    labels = np.tile([0, 1], 8).astype(np.int32)
    images = (np.arange(16 * 8 * 8 * 3) % 251).astype(np.uint8).reshape(16, 8, 8, 3)
    return from_arrays(name, images, labels, images[:8], labels[:8])


DATA = counted()
OTHER_DATA = (
    counted("other"),
    dataclasses.replace(DATA, mean=(0.25, 0.5, 0.5)),
    dataclasses.replace(DATA, std=(0.25, 0.5, 0.5)),
)
EACH_OTHER_DATA = pytest.mark.parametrize(
    "data", OTHER_DATA, ids=["fingerprint", "mean", "std"]
)
EACH_CHANGE = pytest.mark.parametrize("change", CHANGES, ids=lambda c: c.field)


# --- experts -------------------------------------------------------------------------


@pytest.fixture
def opened(tmp_path, monkeypatch):
    """Opens experts that nobody trains; returns their folder."""
    monkeypatch.setattr(experts, "_train", lambda *unused: None)
    layout = make_layout(1)
    return lambda data, config: open_experts(data, config, layout, tmp_path).store


@EACH_CHANGE
def test_experts_of_another_recipe_have_another_store(opened, change):
    before, after = opened(DATA, CONFIG), opened(DATA, change.config())
    assert (before.directory != after.directory) == (change.field in OF_EXPERTS)
    about = json.loads((after.directory / "about.json").read_bytes())
    assert about["fingerprint"] == DATA.fingerprint


@EACH_OTHER_DATA
def test_experts_of_other_data_have_another_store(opened, data):
    assert opened(DATA, CONFIG).directory != opened(data, CONFIG).directory


def test_experts_of_older_versions_serve_data_with_their_own_statistics(
    opened, tmp_path
):
    (tmp_path / OLDER_EXPERTS).mkdir()
    assert opened(DATA, CONFIG).directory == tmp_path / OLDER_EXPERTS
    for data in OTHER_DATA:
        assert opened(data, CONFIG).directory != tmp_path / OLDER_EXPERTS


# --- difficulty ----------------------------------------------------------------------


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """Asks for the difficulty, measured by a counter; returns how often it was."""
    calls = []

    def count(key, data, *unused):
        calls.append(key)
        sizes = (len(data.train_labels), len(data.test_labels))
        values = (np.full(size, len(calls), np.float32) for size in sizes)
        of_split = (difficulty.Difficulty(*[x] * 6) for x in values)
        return difficulty.RealDifficulty(*of_split)

    monkeypatch.setattr(difficulty, "cross_fit", count)
    layout = make_layout(1)

    def measure(data, config):
        found = difficulty.load_or_cross_fit(data, config, layout, tmp_path)
        return int(found.train.loss[0])

    return measure


@EACH_CHANGE
def test_difficulty_by_another_recipe_is_measured_anew(measured, change):
    assert measured(DATA, CONFIG) == 1
    assert measured(DATA, change.config()) == 1 + (change.field in OF_DIFFICULTY)
    assert measured(DATA, CONFIG) == 1


@EACH_OTHER_DATA
def test_difficulty_of_other_data_is_measured_anew(measured, data):
    assert measured(DATA, CONFIG) == 1
    assert measured(data, CONFIG) == 2


def test_difficulty_of_older_versions_serves_data_with_their_own_statistics(
    measured, tmp_path
):
    assert measured(DATA, CONFIG) == 1
    for kind in ("npz", "json"):
        (file,) = tmp_path.glob(f"*.{kind}")
        file.rename(tmp_path / f"difficulty-{OLDER_DIFFICULTY}.{kind}")
    assert measured(DATA, CONFIG) == 1
    assert [measured(data, CONFIG) for data in OTHER_DATA] == [2, 3, 4]


# --- answers -------------------------------------------------------------------------


def examiner(data, config, directory, item=None):
    """The files of a study's answers by a configuration, as `analyze.py` asks."""
    found = Examiner(
        data,
        config.evaluation.network or config.network,
        config.evaluation,
        config.evaluation,
        config.runtime,
        config.seed,
        directory,
    )
    return found._files(item or whole_data(data))


@EACH_CHANGE
def test_answers_by_another_recipe_are_asked_anew(change, tmp_path):
    files = examiner(DATA, CONFIG, tmp_path)
    others = examiner(DATA, change.config(), tmp_path)
    assert (files != others) == (change.field in OF_ANSWERS)


def test_answers_of_other_epochs_are_asked_anew(tmp_path):
    """Where the steps are not limited."""
    found = [
        examiner(DATA, from_dict(BASE | {"evaluation": settings}), tmp_path)
        for settings in ({"epochs": 1}, {"epochs": 2})
    ]
    assert found[0] != found[1]


@EACH_OTHER_DATA
def test_answers_about_other_data_are_asked_anew(data, tmp_path):
    item = whole_data(DATA)
    files = examiner(DATA, CONFIG, tmp_path, item)
    assert files != examiner(data, CONFIG, tmp_path, item)


def test_answers_of_older_versions_serve_data_with_their_own_statistics(tmp_path):
    older = [tmp_path / f"{OLDER_ANSWERS}.{kind}" for kind in ("json", "npy")]
    assert examiner(DATA, CONFIG, tmp_path) != older
    older[0].write_text("{}")
    assert examiner(DATA, CONFIG, tmp_path) == older
    for data in OTHER_DATA:
        item = dataclasses.replace(whole_data(data), digest=DATA.fingerprint)
        assert examiner(data, CONFIG, tmp_path, item) != older


# --- rows ----------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Makes a row with stand-ins for distilling and testing, and counts them."""
    calls = []

    def distill(data, config, workdir, should_stop):
        calls.append(config)
        if should_stop():
            raise Interrupted
        found = random_images(data, config.segment_sizes)
        found.metadata["history"] = [
            {"images_per_class": n + 1, "evaluation": {"top1_each": [0.5]}}
            for n in range(len(config.segment_sizes))
        ]
        return found

    tested = lambda distilled, data, networks, *unused: [
        Evaluation(network, (0.25,), (), 1) for network in networks
    ]
    monkeypatch.setattr(rows, "distill", distill)
    monkeypatch.setattr(rows, "evaluate", tested)

    def make(config=CONFIG, data=DATA, should_stop=lambda: False, **options):
        row = Row("mine", config, **options)
        record = run_row(row, tmp_path / "row", data, should_stop=should_stop)
        return record, len(calls)

    return make


@pytest.fixture(params=["finished", "interrupted"])
def begun(request, made):
    """The same after the row was made once, all of it or its beginning."""
    if request.param == "finished":
        made()
    else:
        with pytest.raises(Interrupted):
            made(should_stop=lambda: True)
    return made


@pytest.mark.parametrize("change", MATTERS, ids=lambda c: c.field)
def test_a_row_of_another_configuration_is_refused(begun, change):
    with pytest.raises(ConfigError, match=change.field.replace(".", r"\.")) as caught:
        begun(change.config())
    assert any(
        line.startswith(f"  {change.field} is ") for line in caught.value.problems
    )


@pytest.mark.parametrize("change", CHANGES_NOTHING, ids=lambda c: c.field)
def test_a_row_with_another_layout_is_served(made, change):
    record, _ = made()
    again, calls = made(change.config())
    assert calls == 1 and record.items() <= again.items()


@EACH_OTHER_DATA
def test_a_row_of_other_data_is_refused(begun, data):
    with pytest.raises(ConfigError, match="dataset"):
        begun(data=data)


@pytest.mark.parametrize("baseline", ["random", "random_mosaic"])
def test_a_row_of_another_kind_is_refused(begun, baseline):
    with pytest.raises(ConfigError, match="baseline is 'random"):
        begun(baseline=baseline)


def test_a_baseline_stays_one(made, tmp_path):
    record, _ = made(baseline="random")
    again, calls = made(baseline="random")
    assert calls == 0 and record.items() <= again.items()
    for options in ({}, {"baseline": "herding"}):
        with pytest.raises(ConfigError, match="baseline is .* and was 'random' there"):
            made(**options)
    (tmp_path / "row" / "row.json").unlink()
    with pytest.raises(ConfigError, match="baseline is None now and was 'random'"):
        made()
    assert load_distilled(tmp_path / "row" / "distilled").metadata["method"]


def test_a_row_without_statistics_agrees_with_any(made, tmp_path):
    """As older versions wrote it."""
    file = tmp_path / "row" / "row.json"
    made()
    record = json.loads(file.read_bytes())
    del record["normalization"], record["config"]["regularizer"]
    file.write_text(json.dumps(record))
    (tmp_path / "row" / "config.json").unlink()
    assert made()[1] == 1
    seed = Change("seed", 1).config()
    for changed in ({"config": seed}, {"data": OTHER_DATA[0]}):
        with pytest.raises(ConfigError, match="holds a row that differs in "):
            made(**changed)

"""One working directory is one run: another configuration or data set is refused."""

import dataclasses
import hashlib
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from config_changes import (
    BASE,
    CHANGES,
    CHANGES_NOTHING,
    MATTERS,
    OF_DATA,
    OF_METHODS,
    all_fields,
    merged,
)

from d4a_jax.artifact import load_distilled, save_distilled
from d4a_jax.config import ConfigError, differences, from_dict
from d4a_jax.data import from_arrays
from d4a_jax.distillation import Interrupted, distill
from d4a_jax.options import all_but
from d4a_jax.selection.baselines import random_images
from d4a_jax.storage import fileio, identity
from d4a_jax.storage.environment import environment
from d4a_jax.storage.workdir import Workdir
from experiments import config_flag
from experiments import run as run_command

CONFIG = from_dict(BASE)


def make_dataset(name="monday", seed=0, classes=2, flip=True):
    rng = np.random.default_rng(seed)
    labels = np.tile(np.arange(classes), 8)
    images = rng.integers(0, 256, (len(labels), 8, 8, 3), np.uint8)
    return from_arrays(name, images, labels, images[:8], labels[:8], flip=flip)


@pytest.fixture(scope="module")
def dataset():
    return make_dataset()


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """A run of the library that is complete, and what it made."""
    directory = tmp_path_factory.mktemp("run") / "w"
    return directory, distill(dataset, CONFIG, directory)


def contents(directory):
    """Every file and folder, with what it holds and when it was changed."""
    return {
        path.relative_to(directory): (
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else None,
        )
        for path in sorted([directory, *directory.rglob("*")])
    }


def refusal(directory, dataset, config, make=distill):
    """The problems that a run is refused with; the directory stays as it is."""
    before = contents(directory)
    with pytest.raises(ConfigError) as caught:
        make(dataset, config, directory)
    assert contents(directory) == before
    return caught.value.problems


# --- what identifies a run -----------------------------------------------------------


def test_every_field_has_another_legal_value():
    names = [change.field for change in CHANGES]
    assert sorted(names) == sorted(all_fields())
    for change in CHANGES:
        found = differences(CONFIG.to_dict(), change.config().to_dict())
        assert change.field in found, change


def test_a_new_field_counts_until_somebody_says_otherwise():
    named = set()
    for section in vars(CONFIG).values():
        if hasattr(section, "identity"):
            everything = dataclasses.asdict(section)
            assert section.identity().items() <= everything.items()
    for key in differences(CONFIG.identity(), CONFIG.to_dict()):
        named.add(key)
    # Fields whose value is None count as equal to none.
    unset = {"data.path", "data.data_dir", "data.manual_dir", "runtime.image_memory_gb"}
    assert named | unset == {change.field for change in CHANGES_NOTHING}
    with pytest.raises(KeyError):
        all_but(CONFIG.runtime, ("deviecs",))


@pytest.mark.parametrize("change", MATTERS, ids=lambda change: change.field)
def test_distill_refuses_another_value_by_name(dataset, finished, change):
    directory, _ = finished
    config = change.config()
    first, *lines = refusal(directory, dataset, config)
    assert str(directory) in first and "another configuration" in first
    ours, theirs = (
        identity._look_up(c.identity(), change.field) for c in (config, CONFIG)
    )
    line = f"  {change.field} is {ours!r} now and was {theirs!r} there."
    assert line in lines
    assert [problem.split()[0] for problem in lines] == [change.field]


@pytest.mark.parametrize("method", OF_METHODS)
def test_every_option_of_every_method_identifies_a_run(dataset, method):
    base = {"method": {"name": method}, "matching": {"outer_iterations": 1}}
    base |= {"network_training": {"pretrain_epochs": 1}}
    default = from_dict(merged(BASE, base | {"experts": {"epochs": 30}}))
    options = {field.name for field in dataclasses.fields(default.method)}
    assert options == set(OF_METHODS[method])
    for name, value in OF_METHODS[method].items():
        options = dataclasses.replace(default.method, **{name: value})
        changed = dataclasses.replace(default, method=options)
        identities = (identity.run_identity(c, dataset) for c in (default, changed))
        assert identity.differing(*identities) == [f"method.{name}"]


@pytest.mark.parametrize(
    "change", CHANGES_NOTHING + OF_DATA, ids=lambda change: change.field
)
def test_other_paths_layouts_and_limits_continue(
    dataset, finished, change, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    directory, made = finished
    shutil.copytree(directory, tmp_path / "w")
    again = distill(dataset, change.config(), tmp_path / "w")
    np.testing.assert_array_equal(again.images, made.images)
    assert again.metadata["history"] == made.metadata["history"]
    kept = (tmp_path / "w" / "config.json").read_bytes()
    assert kept == (directory / "config.json").read_bytes()


def cheap(**runtime):
    """One segment whose steps are quick to compile, and nothing after it."""
    changes = {
        "method": {"name": "distribution_matching"},
        "synthetic": {"images_per_class": 1, "segments": 1},
        "network_training": {"images_per_step": 0},
        "evaluation": {"enabled": False},
        "runtime": runtime,
    }
    return from_dict(merged(BASE, changes))


def test_calls_of_another_length_end_a_segment_where_they_should(dataset, tmp_path):
    """A run is stopped after one step of four and goes on two steps at a time."""
    undisturbed = distill(dataset, cheap())
    calls = iter([True])
    with pytest.raises(Interrupted):
        distill(dataset, cheap(), tmp_path, lambda: next(calls))
    resumed = distill(dataset, cheap(steps_per_call=2), tmp_path)
    np.testing.assert_array_equal(resumed.images, undisturbed.images)


# --- data ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "field"),
    [
        (make_dataset(seed=1), "dataset.fingerprint"),
        (make_dataset("tuesday"), "dataset.name"),
        (make_dataset(classes=3), "dataset.classes"),
        (dataclasses.replace(make_dataset(), mean=(0.5, 0.5, 0.5)), "dataset.mean"),
        (dataclasses.replace(make_dataset(), std=(0.5, 0.5, 0.5)), "dataset.std"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_distill_refuses_other_data(finished, other, field):
    directory, _ = finished
    first, *lines = refusal(directory, other, CONFIG)
    assert str(directory) in first and "holds a run on other images" in first
    assert field in [line.split()[0] for line in lines]
    if other.fingerprint != make_dataset().fingerprint:
        assert any(other.fingerprint in line for line in lines)
        assert any(make_dataset().fingerprint in line for line in lines)


def test_the_last_digits_of_statistics_do_not_count(finished):
    directory, made = finished
    dataset = make_dataset()
    mean = tuple(value * (1 + 1e-14) for value in dataset.mean)
    assert mean != dataset.mean
    again = distill(dataclasses.replace(dataset, mean=mean), CONFIG, directory)
    np.testing.assert_array_equal(again.images, made.images)


def test_tuesdays_run_does_not_return_mondays_images(finished):
    """As it was found: other images, another seed, rate and number of images."""
    directory, _ = finished
    changes = {"seed": 5, "matching": {"learning_rate": 3.0}}
    other = from_dict(merged(BASE, changes))
    tuesday = make_dataset("tuesday", seed=9)
    problems = refusal(directory, tuesday, other)
    assert "of another configuration on other images" in problems[0]
    assert {line.split()[0] for line in problems[1:]} == {
        *("seed", "matching.learning_rate"),
        *("dataset.fingerprint", "dataset.name"),
    }
    more = merged(BASE, {"synthetic": {"images_per_class": 4}})
    problems = refusal(directory, tuesday, from_dict(more))
    assert any("images_per_class is 4 now and was 2 there" in p for p in problems)
    assert not (directory / "damaged").exists()
    assert not (directory / "checkpoints" / "damaged").exists()


def test_the_command_refuses_what_the_library_refuses(
    dataset, finished, monkeypatch, tmp_path
):
    directory, _ = finished
    monkeypatch.setattr(run_command, "load_dataset", lambda **unused: dataset)
    command = lambda dataset, config, path: run_command.run(
        config_flag.Choice("mine", config, {}), path
    )
    seed = from_dict(BASE | {"seed": 7})
    problems = refusal(directory, dataset, seed, command)
    assert problems == refusal(directory, dataset, seed)
    shutil.copytree(directory, tmp_path / "w")
    monkeypatch.setattr(run_command, "load_dataset", lambda **unused: make_dataset("x"))
    with pytest.raises(ConfigError, match="holds a run on other images"):
        command(None, CONFIG, tmp_path / "w")


# --- the record ----------------------------------------------------------------------


def test_the_record_is_there_from_the_first_moment(dataset, tmp_path, monkeypatch):
    def fail(*unused):
        raise KeyboardInterrupt

    monkeypatch.setattr("d4a_jax.distillation.loop.prepare", fail)
    with pytest.raises(KeyboardInterrupt):
        distill(dataset, CONFIG, tmp_path / "a" / "b")
    record = json.loads((tmp_path / "a" / "b" / "config.json").read_bytes())
    found = from_dict(record["config"])
    assert dataclasses.replace(found, data=CONFIG.data) == CONFIG
    assert found.data.name == "monday"
    assert record["dataset"]["fingerprint"] == dataset.fingerprint
    assert record["versions"]["d4a_jax"]
    refusal(tmp_path / "a" / "b", dataset, from_dict(BASE | {"seed": 1}))


def test_the_commit_is_recorded_where_there_is_one():
    root = Path(__file__).resolve().parent.parent
    asked = ["git", "-C", str(root), "rev-parse", "HEAD"]
    found = subprocess.run(asked, capture_output=True, text=True, check=False)
    commit = found.stdout.strip() if (root / ".git").exists() else None
    revision = environment()["git_revision"]
    assert revision and revision.removesuffix("-dirty") == commit if commit else (
        revision is None
    )


def test_other_software_continues(dataset, finished, tmp_path):
    shutil.copytree(finished[0], tmp_path / "w")
    file = tmp_path / "w" / "config.json"
    record = json.loads(file.read_bytes())
    record |= {"versions": {"jax": "0.1"}, "git_revision": "0", "devices": ["abacus"]}
    file.write_text(json.dumps(record))
    distill(dataset, CONFIG, tmp_path / "w")
    assert json.loads(file.read_bytes())["git_revision"] == "0"


def test_a_directory_that_cannot_be_made_is_named(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="file cannot be used"):
        distill(dataset, CONFIG, tmp_path / "file")


@pytest.mark.parametrize("content", ["", "[1]", '{"config": {"sed": 1}}'])
def test_a_damaged_record_is_refused(dataset, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    (problem,) = refusal(tmp_path, dataset, CONFIG)
    assert f"{tmp_path / 'config.json'} is damaged" in problem


# --- directories of older versions ---------------------------------------------------


@pytest.fixture
def older(finished, tmp_path):
    """The finished run as an older version left it, without `config.json`."""
    directory = tmp_path / "older"
    shutil.copytree(finished[0], directory)
    (directory / "config.json").unlink()
    return directory


def without_identity(directory):
    """Drops what older checkpoints do not record."""
    for file in directory.glob("checkpoints/*/_CHECKPOINT_METADATA"):
        content = json.loads(file.read_bytes())
        metadata = content["custom_metadata"]
        del metadata["record"]["identity"]
        digest = hashlib.sha256(fileio.dump_json(metadata["record"])).hexdigest()
        metadata["record_sha256"] = digest
        file.write_text(json.dumps(content))


OTHERS = [
    (from_dict(BASE | {"seed": 1}), make_dataset(), "seed"),
    (CONFIG, make_dataset(seed=1), "dataset.fingerprint"),
]


@pytest.mark.parametrize("stored_in", ["distilled", "checkpoints"])
def test_a_run_without_a_record_is_known_by_what_it_left(
    dataset, finished, older, stored_in
):
    if stored_in == "checkpoints":
        shutil.rmtree(older / "distilled")
    else:
        without_identity(older)
    for config, data, field in OTHERS:
        problems = refusal(older, data, config)
        assert field in [line.split()[0] for line in problems[1:]]
    if stored_in == "checkpoints":
        again = distill(dataset, CONFIG, older)
        np.testing.assert_array_equal(again.images, finished[1].images)
    else:
        identity.claim(older, CONFIG, dataset)
    refusal(older, dataset, OTHERS[0][0])
    assert (older / "config.json").exists()


def test_a_record_without_statistics_agrees_with_any(dataset, finished, tmp_path):
    """As the command of older versions wrote it."""
    shutil.copytree(finished[0], tmp_path / "w")
    file = tmp_path / "w" / "config.json"
    record = json.loads(file.read_bytes())
    names = ("name", "fingerprint")
    record["dataset"] = {name: record["dataset"][name] for name in names}
    del record["baseline"], record["config"]["experts"]["momentum"]
    file.write_text(json.dumps(record))
    again = distill(dataset, CONFIG, tmp_path / "w")
    np.testing.assert_array_equal(again.images, finished[1].images)
    for config, data, _ in OTHERS:
        refusal(tmp_path / "w", data, config)


def test_checkpoints_alone_are_known_by_their_shapes(dataset, older, caplog):
    shutil.rmtree(older / "distilled")
    without_identity(older)
    more = {"synthetic": {"images_per_class": 4}}
    problems = refusal(older, dataset, from_dict(merged(BASE, more)))
    assert problems[1:] == ("  synthetic.images_per_class is 4 now and was 2 there.",)
    problems = refusal(older, make_dataset(classes=3), CONFIG)
    assert problems[1:] == ("  dataset.classes is 3 now and was 2 there.",)
    with caplog.at_level("WARNING", "d4a_jax"):
        identity.claim(older, CONFIG, dataset)
    assert "it is taken for a run of these" in caplog.text


def test_a_rate_that_a_range_test_found_is_the_run_of_an_open_one(dataset, older):
    """The set and the checkpoints hold the rate, the configuration None."""
    open_rate = from_dict(merged(BASE, {"matching": {"learning_rate": None}}))
    identity.claim(older, open_rate, dataset)
    recorded = json.loads((older / "config.json").read_bytes())
    assert recorded["config"]["matching"]["learning_rate"] is None
    refusal(older, dataset, CONFIG)


def test_a_set_that_was_not_distilled_is_no_run(dataset, tmp_path):
    save_distilled(tmp_path / "distilled", random_images(dataset, (1, 1), 2))
    first, line = refusal(tmp_path, dataset, CONFIG)
    assert line == "  baseline is None now and was 'random real images' there."


def test_the_command_leaves_no_lock_where_it_is_refused(dataset, finished):
    directory, _ = finished
    assert not (directory / ".lock").exists()
    with pytest.raises(ConfigError):
        with Workdir(directory, from_dict(BASE | {"seed": 1})):
            raise AssertionError
    assert not (directory / ".lock").exists()


def test_the_set_of_a_finished_run_is_the_one_that_was_made(finished):
    directory, made = finished
    np.testing.assert_array_equal(
        load_distilled(directory / "distilled").images, made.images
    )

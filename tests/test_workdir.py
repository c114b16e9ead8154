"""Working directories: their lock, their configuration and their data."""

import json

import numpy as np
import pytest

from d4a_jax.config import Config, ConfigError, from_dict
from d4a_jax.data import from_arrays
from d4a_jax.storage.environment import environment
from d4a_jax.storage.fileio import WorkdirBusyError
from d4a_jax.storage.workdir import Workdir

CONFIG = from_dict({"synthetic": {"segments": [4, 6]}})


def make_dataset(value=0):
    images = np.full((4, 8, 8, 1), value, np.uint8)
    labels = np.array([0, 0, 1, 1])
    return from_arrays("plain", images, labels, images, labels)


def open_and_record(path, config=CONFIG, dataset=None, overrides={}):
    with Workdir(path, config) as workdir:
        workdir.record(dataset or make_dataset(), overrides)
    return json.loads((path / "config.json").read_text())


def test_describes_what_was_run_with_what(tmp_path):
    found = open_and_record(tmp_path / "a" / "b", overrides={"seed": 0})
    assert from_dict(found["config"]) == CONFIG
    assert found["overrides"] == {"seed": 0}
    assert found["dataset"]["fingerprint"] == make_dataset().fingerprint
    assert found["versions"].keys() >= {"python", "d4a_jax", "jax", "flax", "optax"}
    assert found["devices"] == environment()["devices"]
    assert "git_revision" in found


def test_nothing_is_written_before_the_data_are_known_to_fit(tmp_path):
    with Workdir(tmp_path, CONFIG):
        pass
    with Workdir(tmp_path, Config()) as workdir:
        workdir.record(make_dataset())


def test_paths_and_layout_may_change_and_the_first_description_stays(tmp_path):
    first = open_and_record(tmp_path)
    other = from_dict(
        {
            "synthetic": {"segments": [4, 6]},
            "data": {"data_dir": "/elsewhere", "download": False},
            "runtime": {"devices": 1, "keep_checkpoints": 5},
        }
    )
    assert open_and_record(tmp_path, other) == first


def test_another_configuration_is_refused_with_both_values(tmp_path):
    open_and_record(tmp_path)
    with pytest.raises(ConfigError) as caught:
        with Workdir(tmp_path, from_dict({"seed": 2})):
            raise AssertionError
    first, *rest = caught.value.problems
    assert str(tmp_path) in first
    assert [line.strip() for line in rest] == [
        "seed is 2 now and was 0 there.",
        "synthetic.segments is 1 now and was (4, 6) there.",
    ]
    open_and_record(tmp_path)  # The refusal gave the lock back.


def test_other_images_are_refused(tmp_path):
    open_and_record(tmp_path)
    with pytest.raises(ConfigError, match="other images"):
        open_and_record(tmp_path, dataset=make_dataset(1))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "Expecting value"),
        ("[1]", "list"),
        ('{"config": {}}', "'dataset' is missing"),
        ('{"dataset": {"fingerprint": ""}}', "'config' is missing"),
        ('{"dataset": {"fingerprint": ""}, "config": {"sed": 1}}', "sed is not an opt"),
        ('{"dataset": {"fingerprint": ""}, "config": 3}', "section of named values"),
    ],
)
def test_a_damaged_description_is_named(tmp_path, content, reason):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError) as caught:
        with Workdir(tmp_path, CONFIG):
            raise AssertionError
    (problem,) = caught.value.problems
    assert str(tmp_path / "config.json") in problem and reason in problem


def test_one_run_at_a_time(tmp_path):
    with Workdir(tmp_path, CONFIG):
        with pytest.raises(WorkdirBusyError, match=str(tmp_path)):
            with Workdir(tmp_path, CONFIG):
                raise AssertionError


def test_a_file_is_no_directory(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(ConfigError, match=f"{path} cannot be used"):
        with Workdir(path, CONFIG):
            raise AssertionError

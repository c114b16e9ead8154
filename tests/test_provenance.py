"""Labels that mean what they say: where data are found, class order, protocol, flips."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import d4a_jax
from d4a_jax.artifact import ArtifactError, save_distilled
from d4a_jax.artifact.provenance import data_source, with_class_order
from d4a_jax.config import Config, ConfigError, EvaluationConfig, from_dict
from d4a_jax.data import from_arrays
from d4a_jax.evaluation import evaluate, network_of, protocol_of
from d4a_jax.flips import default_config, without_flip, without_flips
from d4a_jax.selection.baselines import random_images, train_on_real_data
from experiments import cli

ROOT = Path(__file__).resolve().parent.parent

NAMES = ("blue", "green", "red")
NETWORK = "convnet:width=8:depth=1"
RECIPE = {"repeats": 2, "max_steps": 60, "batch_size": 16, "augmentation": "none"}
TINY = {
    "network": NETWORK,
    "synthetic": {"images_per_class": 2, "factor": 1},
    "matching": {"outer_iterations": 1, "inner_iterations": 2},
    "network_training": {"images_per_step": 0},
    "evaluation": RECIPE,
    "runtime": {"devices": 1},
}


def make_data(order=NAMES, flip=True, name="colors", seed=0):
    """Images of one color each; the class names stand in any order."""
    rng = np.random.default_rng(seed)
    names = np.tile(NAMES, 8)
    images = rng.integers(0, 60, (24, 8, 8, 3), dtype=np.uint8)
    for channel, color in enumerate(("red", "green", "blue")):
        images[names == color, ..., channel] += 150
    shown = [{"rot": "red"}.get(name, name) for name in order]
    labels = np.array([shown.index(color) for color in names])
    return from_arrays(name, images, labels, images, labels, order, flip=flip)


# --- where the data are --------------------------------------------------------------


def test_a_set_of_arrays_is_recorded_as_that(tmp_path):
    """Not as CIFAR-10, the untouched default of the configuration."""
    made = d4a_jax.distill(make_data(), from_dict(TINY), tmp_path)
    assert made.metadata["dataset"] == "colors"
    assert made.metadata["source"] is None
    assert made.metadata["config"]["data"]["name"] == "colors"
    record = json.loads((tmp_path / "config.json").read_bytes())
    assert record["config"]["data"]["name"] == "colors"
    assert data_source(made.metadata) is None
    with pytest.raises(ConfigError, match="'colors', cannot be found.*--data"):
        cli.artifact_values(made.metadata)
    found = cli.artifact_values(made.metadata, name="digits")
    assert found["data"] == {"name": "digits"}


def test_a_set_of_loaded_data_knows_their_name():
    digits = d4a_jax.load_dataset("digits", size=6, classes=(3, 1))
    assert digits.source == {"name": "digits", "size": 6, "classes": [3, 1]}
    config = without_flips(from_dict(TINY))
    made = d4a_jax.distill(digits, config)
    data = made.metadata["config"]["data"]
    assert (data["name"], data["size"], tuple(data["classes"])) == ("digits", 6, (3, 1))
    assert cli.artifact_values(made.metadata)["data"] == digits.source
    again = from_dict(cli.artifact_values(made.metadata)).data
    assert again.classes == (3, 1) and again.name == "digits"
    assert random_images(digits, 1).metadata["source"] == digits.source


@pytest.mark.parametrize(
    ("metadata", "source"),
    [
        # A run of the command, and one of the library with arrays, of earlier versions.
        (
            {"dataset": "svhn", "config": {"data": {"name": "svhn", "size": None}}},
            {"name": "svhn", "size": None, "classes": None},
        ),
        ({"dataset": "colors", "config": {"data": {"name": "cifar10"}}}, None),
        (
            {"dataset": "photos", "config": {"data": {"name": "image_folder"}}},
            {"name": "image_folder", "size": None, "classes": None},
        ),
        ({"dataset": "svhn"}, {"name": "svhn", "size": None, "classes": None}),
        ({}, None),
    ],
)
def test_sets_of_earlier_versions_are_found_where_that_is_certain(metadata, source):
    assert data_source(metadata) == source


def test_a_name_a_folder_and_a_file_stand_for_data(tmp_path):
    np.savez(tmp_path / "own.npz")
    file, name = str(tmp_path / "own.npz"), {"size": None, "classes": None}
    assert cli.named_data(None) == {}
    assert cli.named_data("svhn") == {"name": "svhn"} | name
    assert cli.named_data(file) == {"name": "arrays", "path": file} | name
    folder = {"name": "image_folder", "path": str(tmp_path)} | name
    assert cli.named_data(str(tmp_path)) == folder


# --- class order ---------------------------------------------------------------------


def test_labels_are_matched_by_name():
    """Networks that know every color are right whatever the order of the names."""
    made = random_images(make_data(), 4)
    other = make_data(("red", "blue", "green"))
    config = EvaluationConfig(**RECIPE)
    for data in (make_data(), other):
        (result,) = evaluate(made, data, [NETWORK], config)
        assert result.mean > 0.9
    moved = with_class_order(made, other)
    for image, label in zip(made.images, made.labels):
        color = NAMES[label]
        place = next(i for i, x in enumerate(moved.images) if (x == image).all())
        assert other.class_names[moved.labels[place]] == color
    assert with_class_order(made, make_data()) is made


def test_logits_move_with_their_classes():
    made = random_images(make_data(), 1)
    logits = np.tile(np.arange(3, dtype=np.float16), (3, 1))
    soft = dataclasses.replace(made, label_logits=logits)
    moved = with_class_order(soft, make_data(("red", "blue", "green")))
    # Blue had 0, green 1 and red 2.
    np.testing.assert_array_equal(moved.label_logits, [[2, 0, 1]] * 3)
    assert moved.metadata["class_names"] == ["red", "blue", "green"]


def test_other_names_are_refused_with_both_orders():
    made = random_images(make_data(), 1)
    other = dataclasses.replace(make_data(), class_names=("blue", "green", "rot"))
    with pytest.raises(ArtifactError, match=r"\(blue, green, red\).*\(blue, green, rot"):
        evaluate(made, other, [NETWORK], EvaluationConfig(**RECIPE))


# --- protocol and flips --------------------------------------------------------------


def test_the_protocol_of_the_set_is_the_default():
    made = d4a_jax.distill(make_data(), from_dict(TINY))
    (result,) = evaluate(made, make_data())
    assert result.steps == 60 and len(result.top1) == 2
    assert result.network.startswith("convnet") and "width=8" in result.network
    assert protocol_of(made, make_data()) == from_dict(TINY).evaluation
    assert network_of(made) == NETWORK
    named = {"protocol": {"network": "vit"}, "config": {"network": NETWORK}}
    other = dataclasses.replace(made, metadata=made.metadata | named)
    assert network_of(other) == "vit"
    plain = random_images(make_data(), 1)
    assert protocol_of(plain, make_data()) == EvaluationConfig()
    assert network_of(plain) == "convnet"


def test_no_flips_where_the_data_forbid_them():
    upright = make_data(flip=False)
    plain = random_images(upright, 1)
    assert "flip" not in protocol_of(plain, upright).augmentation
    assert "flip" in protocol_of(plain, make_data()).augmentation
    assert default_config(make_data()) == Config()
    config = default_config(upright)
    assert "flip" not in json.dumps(config.to_dict())
    assert without_flip("flip") == "none"
    flipped = EvaluationConfig(max_steps=1, repeats=1)
    with pytest.raises(ConfigError, match="evaluation.augmentation.*without 'flip'"):
        evaluate(plain, upright, [NETWORK], flipped)
    for make in (
        lambda: train_on_real_data(upright, Config()),
        lambda: d4a_jax.measure_difficulty(upright, Config()),
        lambda: d4a_jax.select_images(upright, "herding", 1, config=Config()),
        lambda: d4a_jax.realistic_patches(upright, 1, config=Config()),
        lambda: d4a_jax.with_soft_labels(plain, upright, 1, Config()),
        lambda: d4a_jax.distill(upright, Config()),
    ):
        with pytest.raises(ConfigError, match="augmentation is .*without 'flip'"):
            make()


# --- the commands --------------------------------------------------------------------


def save_npz(path, order):
    data = make_data(order)
    names = ("train_images", "train_labels", "test_images", "test_labels")
    arrays = {name: getattr(data, name) for name in names}
    np.savez(path, **arrays, class_names=np.array(order))
    return str(path)


@pytest.fixture
def artifact(tmp_path):
    made = random_images(make_data(), 4)
    recipe = dataclasses.asdict(EvaluationConfig(**RECIPE))
    protocol = {"protocol": recipe, "config": {"network": NETWORK}}
    made = dataclasses.replace(made, metadata=made.metadata | protocol)
    save_distilled(tmp_path / "set", made)
    return str(tmp_path / "set")


def command(name, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, ROOT / "experiments" / f"{name}.py", *arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=environment,
        text=True,
    )


def test_evaluate_asks_for_the_data_and_matches_classes_by_name(artifact, tmp_path):
    done = command("evaluate", f"--artifact={artifact}")
    assert done.returncode == cli.USER_ERROR
    assert done.stderr.count("\n") == 1 and "cannot be found by a name" in done.stderr
    other = save_npz(tmp_path / "other.npz", ("red", "blue", "green"))
    output = tmp_path / "out.json"
    flags = (f"--artifact={artifact}", f"--data={other}", f"--output={output}")
    done = command("evaluate", *flags)
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_bytes())["results"][0]["top1"] > 90
    strange = save_npz(tmp_path / "strange.npz", ("rot", "blue", "green"))
    done = command("evaluate", f"--artifact={artifact}", f"--data={strange}")
    assert done.returncode == cli.USER_ERROR
    assert "(blue, green, red)" in done.stderr and "(rot, blue, green)" in done.stderr


def test_reports_and_studies_ask_for_the_data(artifact, tmp_path):
    done = command("report", f"--workdir={artifact}", f"--output={tmp_path / 'page'}")
    assert done.returncode == 0 and "cannot be found by a name" in done.stderr
    done = command("analyze", f"--artifacts={artifact}", f"--output={tmp_path / 'a'}")
    assert done.returncode == cli.USER_ERROR
    assert "cannot be found by a name" in done.stderr

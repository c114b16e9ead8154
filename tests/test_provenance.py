"""Labels that mean what they say: source of data, class order, protocol, flips."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import d4a_jax
from d4a_jax.analysis.answers import Examiner
from d4a_jax.artifact import ArtifactError, load_distilled, save_distilled
from d4a_jax.artifact.provenance import data_source, with_class_order
from d4a_jax.config import (
    Config,
    ConfigError,
    EvaluationConfig,
    RuntimeConfig,
    from_dict,
)
from d4a_jax.data import from_arrays
from d4a_jax.data.dataset import select_classes
from d4a_jax.evaluation import evaluate, network_of, protocol_of
from d4a_jax.flips import default_config, without_flip, without_flips
from d4a_jax.selection.baselines import random_images
from d4a_jax.selection.teachers import train_on_real_data
from d4a_jax.selection.windows import choose_window
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
    found = cli.artifact_values(made.metadata, data="digits")
    data = from_dict(found).data
    assert (data.name, data.path, data.size, data.classes) == ("digits", *[None] * 3)


def test_a_set_of_loaded_data_knows_their_name():
    digits = d4a_jax.load_dataset("digits", size=6, classes=(3, 1))
    source = {"name": "digits", "size": 6, "classes": [3, 1]}
    assert digits.source == source | {"path": None}
    config = without_flips(from_dict(TINY))
    made = d4a_jax.distill(digits, config)
    data = made.metadata["config"]["data"]
    assert (data["name"], data["size"], tuple(data["classes"])) == ("digits", 6, (3, 1))
    for asked in (None, "digits"):
        again = from_dict(cli.artifact_values(made.metadata, data=asked)).data
        assert (again.name, again.size, again.classes) == ("digits", 6, (3, 1))
    assert made.metadata["source"] == source
    assert random_images(digits, 1).metadata["source"] == source


def test_the_data_that_were_passed_win_over_the_configuration(tmp_path):
    """Their path too, which is of the run and not of the set that others get."""
    file = save_npz(tmp_path / "own.npz", NAMES)
    elsewhere = {"data": {"name": "svhn", "path": "/elsewhere", "size": 16}}
    config = from_dict(TINY | elsewhere)
    d4a_jax.distill(d4a_jax.load_dataset("arrays", path=file), config, tmp_path / "run")
    recorded = cli.recorded_data(tmp_path / "run")
    named = [recorded[key] for key in ("name", "path", "size")]
    assert named == ["arrays", file, None]
    metadata = load_distilled(tmp_path / "run" / "distilled").metadata
    assert metadata["source"] == {"name": "arrays", "size": None, "classes": None}
    assert file not in json.dumps(metadata)
    found = from_dict(cli.artifact_values(metadata, recorded)).data
    assert (found.name, found.path, found.size) == ("arrays", file, None)
    # Another data set does not lie there.
    found = from_dict(cli.artifact_values(metadata, recorded, "digits")).data
    assert (found.name, found.path) == ("digits", None)
    with pytest.raises(ConfigError, match="where they lie is not recorded.*--data="):
        cli.artifact_values(metadata)


def test_a_choice_of_classes_is_found_again():
    """Also where it was made after loading, and from a choice."""
    digits = d4a_jax.load_dataset("digits", classes=(4, 3, 1))
    chosen = select_classes(digits, (2, 0))
    assert chosen.class_names == ("1", "4")
    again = d4a_jax.load_dataset(**chosen.source)
    np.testing.assert_array_equal(again.train_images, chosen.train_images)
    np.testing.assert_array_equal(again.train_labels, chosen.train_labels)
    assert select_classes(digits, 2).source["classes"] == [4, 3]
    assert d4a_jax.load_dataset("digits", classes=3).source["classes"] == 3
    assert select_classes(make_data(), 2).source is None


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
    file = str(tmp_path / "own.npz")
    assert cli.named_data(None) == {}
    assert cli.named_data("svhn") == {"name": "svhn"}
    assert cli.named_data(file) == {"name": "arrays", "path": file}
    folder = {"name": "image_folder", "path": str(tmp_path)}
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


def test_figures_of_classes_move_with_them():
    figures = {"kept": 0.5, "kept_per_class": [0.1, 0.2, 0.3]}
    history = [{"segment": 0, "filter": figures}, {"segment": 1}]
    made = random_images(make_data(), 1)
    made = dataclasses.replace(made, metadata=made.metadata | {"history": history})
    moved = with_class_order(made, make_data(("red", "blue", "green")))
    first, second = moved.metadata["history"]
    assert first["filter"] == {"kept": 0.5, "kept_per_class": [0.3, 0.1, 0.2]}
    assert second == {"segment": 1}
    assert made.metadata["history"][0]["filter"]["kept_per_class"] == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("side", [8, 16])
def test_other_numbers_of_classes_and_sizes_are_refused(side):
    digits = d4a_jax.load_dataset("digits", size=side, classes=(3, 1, 4))
    made = random_images(d4a_jax.load_dataset("digits", classes=(3, 1)), 1)
    with pytest.raises(ArtifactError, match=r"\(3, 1\).*\(3, 1, 4\)"):
        evaluate(made, digits)
    two = select_classes(digits, (1, 0))
    if side == 16:
        with pytest.raises(ArtifactError, match="8 x 8 x 1; .* 16 x 16 x 1"):
            evaluate(made, two)


def test_other_names_are_refused_with_both_orders():
    made = random_images(make_data(), 1)
    other = dataclasses.replace(make_data(), class_names=("blue", "green", "rot"))
    both = r"\(blue, green, red\).*\(blue, green, rot\)"
    with pytest.raises(ArtifactError, match=both):
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


def test_no_flips_where_the_data_forbid_them(tmp_path):
    upright = make_data(flip=False)
    plain = random_images(upright, 1)
    assert "flip" not in protocol_of(plain, upright).augmentation
    assert default_config(make_data()) == Config()
    config = default_config(upright)
    assert "flip" not in json.dumps(config.to_dict())
    assert without_flip("flip") == "none"
    # The set may know what arrays without a word about flips do not say.
    assert "flip" not in protocol_of(plain, make_data()).augmentation
    mirrored = random_images(make_data(), 1)
    assert "flip" in protocol_of(mirrored, make_data()).augmentation
    flipped = EvaluationConfig(max_steps=1, repeats=1)
    with pytest.raises(ConfigError, match="evaluation.augmentation.*without 'flip'"):
        evaluate(plain, upright, [NETWORK], flipped)
    hardness = np.zeros(len(upright.train_labels))
    for make in (
        lambda: train_on_real_data(upright, Config()),
        lambda: d4a_jax.measure_difficulty(upright, Config()),
        lambda: d4a_jax.select_images(upright, "herding", 1, config=Config()),
        lambda: choose_window(upright, hardness, 1, 1, Config()),
        lambda: d4a_jax.realistic_patches(upright, 1, config=Config()),
        lambda: d4a_jax.with_soft_labels(plain, upright, 1, Config()),
        lambda: d4a_jax.distill(upright, Config()),
    ):
        with pytest.raises(ConfigError, match="augmentation is .*without 'flip'"):
            make()
    upright_recipe = EvaluationConfig(**RECIPE)
    recipes = (flipped, upright_recipe), (upright_recipe, flipped)
    for name, pair in zip(("recipe", "full_recipe"), recipes):
        runtime = RuntimeConfig(devices=1)
        with pytest.raises(ConfigError, match=f"{name}.augmentation.*without 'flip'"):
            Examiner(upright, NETWORK, *pair, runtime, 0, tmp_path)


# --- the commands --------------------------------------------------------------------


def save_npz(path, order):
    data = make_data(order)
    names = ("train_images", "train_labels", "test_images", "test_labels")
    arrays = {name: getattr(data, name) for name in names}
    np.savez(path, **arrays, class_names=np.array(order))
    return str(path)


def load_npz_data(path):
    return d4a_jax.load_dataset("arrays", path=path)


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
    written = json.loads(output.read_bytes())
    assert written["results"][0]["top1"] > 90
    assert written["dataset"] == "other"
    assert written["dataset_fingerprint"] == load_npz_data(other).fingerprint
    strange = save_npz(tmp_path / "strange.npz", ("rot", "blue", "green"))
    done = command("evaluate", f"--artifact={artifact}", f"--data={strange}")
    assert done.returncode == cli.USER_ERROR
    assert "(blue, green, red)" in done.stderr and "(rot, blue, green)" in done.stderr
    larger = (f"--data={other}", "--size=12")
    done = command("evaluate", f"--artifact={artifact}", *larger)
    assert done.returncode == cli.USER_ERROR
    assert "8 x 8 x 3" in done.stderr and "12 x 12 x 3" in done.stderr


def test_earlier_sets_are_tested_on_their_own_data_only(tmp_path):
    """As before where the fingerprint agrees; other data have to be asked for."""
    digits = d4a_jax.load_dataset("digits", size=8)
    made = random_images(digits, 1)
    recipe = RECIPE | {"max_steps": 1, "repeats": 1}
    metadata = made.metadata | {"protocol": recipe, "config": {"network": NETWORK}}
    del metadata["source"]
    quick = dataclasses.replace(made, metadata=metadata)
    save_distilled(tmp_path / "same", quick)
    changed = metadata | {"dataset_fingerprint": "f" * 64}
    save_distilled(tmp_path / "other", dataclasses.replace(made, metadata=changed))
    done = command("evaluate", f"--artifact={tmp_path / 'same'}")
    assert done.returncode == 0, done.stderr
    assert "differ" not in done.stderr
    done = command("evaluate", f"--artifact={tmp_path / 'other'}")
    assert done.returncode == cli.USER_ERROR
    assert done.stderr.count("\n") == 1 and "--data=digits" in done.stderr
    asked = (f"--artifact={tmp_path / 'other'}", "--data=digits")
    done = command("evaluate", *asked)
    assert done.returncode == 0 and "differ" in done.stderr, done.stderr


def test_reports_and_studies_ask_for_the_data(artifact, tmp_path):
    done = command("report", f"--workdir={artifact}", f"--output={tmp_path / 'page'}")
    assert done.returncode == 0 and "cannot be found by a name" in done.stderr
    page = (f"--workdir={artifact}", f"--output={tmp_path / 'other'}")
    done = command("report", *page, "--data=digits")
    assert done.returncode == cli.USER_ERROR
    assert "not made from this digits" in done.stderr
    assert not (tmp_path / "other").exists()
    done = command("analyze", f"--artifacts={artifact}", f"--output={tmp_path / 'a'}")
    assert done.returncode == cli.USER_ERROR
    assert "cannot be found by a name" in done.stderr

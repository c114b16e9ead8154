"""The commands on data of one's own, and the sentences for usual mistakes."""

import dataclasses
import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d4a_jax import from_arrays
from d4a_jax.artifact import ArtifactError, save_distilled
from d4a_jax.config import ConfigError, EvaluationConfig
from d4a_jax.data import DatasetError, catalogue, load_dataset, reachable
from d4a_jax.evaluation import evaluate
from d4a_jax.selection.baselines import random_images
from experiments import cli, config_flag

ROOT = Path(__file__).resolve().parent.parent
NETWORK = "convnet:width=4:depth=1"
RECIPE = EvaluationConfig(
    network=NETWORK, epochs=1, max_steps=2, repeats=1, augmentation="color"
)


def command(name, *arguments):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.run(
        [sys.executable, ROOT / "experiments" / f"{name}.py", *map(str, arguments)],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=environment,
        text=True,
    )


def _arrays(side=8, classes=2, channels=3, per_class=10):
    labels = np.arange(classes * per_class) % classes
    shape = (len(labels), side, side, channels)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    return images, labels, images, labels


def _dataset(**shape):
    return from_arrays("mine", *_arrays(**shape))


def _save_npz(path, **shape):
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(path, **dict(zip(names, _arrays(**shape))))
    return path


@pytest.fixture
def artifact(tmp_path):
    made = random_images(_dataset(), 2)
    protocol = {"protocol": dataclasses.asdict(RECIPE), "config": {"network": NETWORK}}
    made = dataclasses.replace(made, metadata=made.metadata | protocol)
    save_distilled(tmp_path / "set", made)
    return tmp_path / "set"


def test_two_classes_of_photographs_from_the_folder_to_the_accuracy(tmp_path):
    """`:smoke` takes two classes, and `evaluate.py` finds the folder again."""
    for split, count in (("Train", 12), ("Test", 4)):
        for c, name in enumerate(("cat", "dog")):
            for i in range(count):
                pixels = np.random.default_rng(100 * c + i).integers(
                    0, 256, (9, 8, 3), np.uint8
                )
                path = tmp_path / "photos" / split / name / f"{i}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                exif = Image.Exif()
                exif[0x0112] = 6
                Image.fromarray(pixels).save(path, exif=exif)
    (tmp_path / "photos" / "notes.txt").write_text("mine")
    done = command(
        "run",
        "--config=configs/folder.py:smoke",
        f"--config.data.path={tmp_path / 'photos'}",
        f"--config.data.data_dir={tmp_path / 'data'}",
        "--config.data.size=8",
        "--config.matching.learning_rate=0.01",
        f"--workdir={tmp_path / 'run'}",
    )
    assert done.returncode == 0, done.stderr
    assert "24 training and 8 test images, 8 x 8 x 3, 2 classes" in done.stdout
    assert "Read       32 images turned as their EXIF data say" in done.stdout
    assert "notes.txt" in done.stderr
    output = tmp_path / "out.json"
    flags = ("--repeats=1", "--max_steps=2", f"--output={output}")
    done = command("evaluate", f"--artifact={tmp_path / 'run' / 'distilled'}", *flags)
    assert done.returncode == 0, done.stderr
    assert "differ" not in done.stderr
    assert json.loads(output.read_bytes())["dataset"] == "photos"


def test_images_of_another_size_are_a_sentence_and_can_be_resized(artifact, tmp_path):
    larger = _save_npz(tmp_path / "larger.npz", side=12)
    flags = (f"--artifact={artifact}", f"--data={larger}")
    done = command("evaluate", *flags)
    assert done.returncode == cli.USER_ERROR
    assert "images are 8 x 8 x 3; those of larger are 12 x 12 x 3." in done.stderr
    assert "--resize" in done.stderr and "Traceback" not in done.stderr
    output = tmp_path / "out.json"
    done = command("evaluate", *flags, "--resize", f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert json.loads(output.read_bytes())["results"][0]["steps"] == 1


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"side": 12}, "8 x 8 x 3; .* 12 x 12 x 3. .*--resize, or with size=8"),
        ({"channels": 1}, "8 x 8 x 3; those of mine are 8 x 8 x 1.$"),
        ({"classes": 3}, r"are \(0, 1\); those of mine are \(0, 1, 2\)"),
    ],
)
def test_data_of_another_shape_are_refused(shape, message):
    with pytest.raises(ArtifactError, match=message):
        evaluate(random_images(_dataset(), 1), _dataset(**shape), [NETWORK], RECIPE)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--config.synthetic.images_per_clas=3", "nearest one is 'synthetic.images_"),
        ("--config.matching.outer_iterations=abc", "must be a whole number"),
    ],
)
def test_keys_in_a_flag_file_are_checked(tmp_path, line, message):
    file = tmp_path / "flags.txt"
    file.write_text(f"# mine\n--config=configs/digits.py:smoke\n{line}\n")
    with pytest.raises(ConfigError, match=message):
        config_flag.parse(["run.py", f"--flagfile={file}"])


def test_a_flag_file_holds_what_the_command_line_may(tmp_path):
    file = tmp_path / "flags.txt"
    file.write_text("--config=configs/digits.py:smoke\n--config.seed=7\n--workdir=w\n")
    choice, rest = config_flag.parse(["run.py", f"--flagfile={file}", "--output=x"])
    assert choice.name == "digits-smoke" and choice.config.seed == 7
    assert choice.overrides == {"seed": 7}
    assert rest == ["run.py", "--workdir=w", "--output=x"]


def test_a_misspelt_flag_in_a_flag_file_is_a_sentence(tmp_path):
    (tmp_path / "flags.txt").write_text("--wrkdir=x\n")
    for name in ("run", "evaluate"):
        done = command(name, f"--flagfile={tmp_path / 'flags.txt'}")
        assert done.returncode == cli.USER_ERROR
        assert "'wrkdir'" in done.stderr and "Traceback" not in done.stderr
    done = command("run", f"--flagfile={tmp_path / 'none.txt'}")
    assert done.returncode == cli.USER_ERROR and "none.txt" in done.stderr


@pytest.fixture
def offered(monkeypatch):
    """Gives CIFAR-10 another address."""
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)

    def offer(url):
        source = catalogue.SOURCES["cifar10"]
        archive = dataclasses.replace(source.archives[0], url=url)
        source = dataclasses.replace(source, archives=(archive,))
        monkeypatch.setitem(catalogue.SOURCES, "cifar10", source)

    return offer


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a", "http://no.invalid/a"])
def test_without_a_network_missing_data_are_one_sentence(offered, tmp_path, url):
    offered(url)
    start = time.monotonic()
    with pytest.raises(DatasetError) as error:
        load_dataset("cifar10", data_dir=tmp_path)
    assert time.monotonic() - start < 30
    for part in ("'cifar10' is not there", url, "cifar-10-binary.tar.gz", "manual"):
        assert part in str(error.value)


def test_a_server_that_does_not_answer_is_not_waited_for(monkeypatch):
    monkeypatch.setattr(reachable, "_SECONDS", 0.1)
    monkeypatch.setattr(urllib.request, "urlopen", lambda *_, **__: time.sleep(5))
    start = time.monotonic()
    urls = [f"http://host{i}/a" for i in range(4)]
    url, reason = reachable.unreachable(urls)
    assert time.monotonic() - start < 3
    assert url == urls[0] and "no answer within" in reason


@pytest.mark.parametrize(
    "error",
    [
        urllib.error.HTTPError("http://a/b", 405, "no HEAD here", {}, None),
        ConnectionResetError("closed"),
        urllib.error.URLError(ssl.SSLError("unknown certificate")),
    ],
)
def test_servers_that_answer_anything_are_left_to_the_downloader(monkeypatch, error):
    def urlopen(*_, **__):
        raise error

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    assert reachable.unreachable(["http://a/b"]) is None
    assert reachable.unreachable([]) is None

"""The lines for other tools in `docs/export.md`: run as they stand, and trained on.

Every block of code below the name of a format is executed in a folder with an export of
that name; it must leave `images` and `labels`. Training on them has to reach the
accuracy that our own loader's images give. README's own example must name real parts.
"""

import re
from pathlib import Path

import numpy as np
import pytest

import d4a_jax
from d4a_jax.artifact import DistilledDataset, load_distilled, save_distilled
from d4a_jax.config import EvaluationConfig, RuntimeConfig, validate
from d4a_jax.data import from_arrays, load_dataset
from d4a_jax.distillation.assemble import assemble
from d4a_jax.evaluation import evaluate
from d4a_jax.export import export_distilled
from d4a_jax.regularizers import Constants
from d4a_jax.selection.baselines import random_images

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {
    "imagefolder": (),
    "npz": (),
    "safetensors": ("safetensors",),
    "torch": ("torch",),
    "tfds": ("tensorflow_datasets", "array_record"),
    "huggingface": ("datasets",),
}
# Points of percent; the trainings differ by their order of images alone.
NOISE = 6.0


def snippets():
    """The code for each format, from the page on exports."""
    text = (ROOT / "docs" / "export.md").read_text(encoding="utf-8")
    section = text.split("## Formats")[1].split("\n## ")[0]
    return dict(re.findall(r"`(\w+)`[^\n]*\n\n```python\n(.*?)```", section, re.S))


@pytest.fixture(scope="module")
def dataset():
    """Ten patterns under noise, hard enough that accuracies lie well below 100 %."""
    rng = np.random.default_rng(0)
    centers = np.kron(rng.integers(70, 185, (10, 4, 4, 3)), np.ones((1, 2, 2, 1)))

    def split(per_class):
        labels = np.repeat(np.arange(10), per_class).astype(np.int32)
        noise = rng.normal(0, 50, (len(labels), 8, 8, 3))
        return np.clip(centers[labels] + noise, 0, 255).astype(np.uint8), labels

    return from_arrays("blobs", *split(30), *split(60))


@pytest.fixture(scope="module")
def distilled(dataset, tmp_path_factory):
    """Downscaled real images as a distilled set of two segments, from the disk."""
    path = tmp_path_factory.mktemp("artifact") / "distilled"
    save_distilled(path, random_images(dataset, (3, 2), factor=2), with_gallery=False)
    return load_distilled(path)


KNOWN = {}


def accuracy(dataset, images, labels, factor):
    """Mean test accuracy in percent of networks trained on the images.

    The very same arrays are trained on only once: the result cannot differ.
    """
    key = (images.tobytes(), labels.astype(np.int32).tobytes(), factor)
    if key not in KNOWN:
        KNOWN[key] = train(dataset, images, labels, factor)
    return KNOWN[key]


def train(dataset, images, labels, factor):
    names = list(dataset.class_names)
    metadata = {"class_names": names, "factor": factor}
    metadata |= {"mean": dataset.mean, "std": dataset.std}
    segments = np.zeros(len(labels), np.int32)
    training = DistilledDataset(images, labels.astype(np.int32), segments, metadata)
    recipe = EvaluationConfig(
        repeats=4, max_steps=120, batch_size=32, augmentation="none"
    )
    runtime = RuntimeConfig(devices=1)
    spec = "convnet:width=8:depth=2"
    return evaluate(training, dataset, [spec], recipe, runtime)[0].summary()["top1"]


@pytest.fixture(scope="module")
def expected(dataset, distilled):
    """Accuracy that our own loader gives, for stored and for formed images."""
    formed, labels = distilled.formed()
    formed = np.rint(formed * 255).astype(np.uint8)
    found = {
        False: accuracy(dataset, distilled.images, distilled.labels, 2),
        True: accuracy(dataset, formed, labels, 1),
    }
    assert all(30 < value < 97 for value in found.values()), found
    return found


def test_the_example_of_the_readme_assembles_a_run(monkeypatch):
    """All but the long computation: its data, its distillation and its evaluation."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", text, re.S)
    runs = []

    def distill(dataset, config, workdir, **parts):
        runs.append(validate(assemble(config, **parts)))
        return random_images(dataset, (1,), factor=2)

    monkeypatch.setattr(d4a_jax, "load_dataset", lambda name: load_dataset("digits"))
    monkeypatch.setattr(d4a_jax, "distill", distill)
    monkeypatch.setattr(d4a_jax, "evaluate", lambda distilled, dataset: [])
    found = {}
    exec(code, found)
    (run,) = runs
    assert run.network == "convnet:depth=3:width=64"
    assert run.make_regularizer().weight == 0.5
    assert run.make_rule().name == "(wrong('mean_softmax') & learnable())"
    assert run.segment_sizes == (2,) * 5
    ones = (np.ones(3),)
    constants = Constants(distance=None, previous_share=0.5, previous=ones)
    assert run.make_regularizer().term((2 * np.ones(3),), constants) == 81.0
    assert found["images"].shape == (40, 8, 8, 1)


def test_every_format_has_its_lines():
    found = snippets()
    assert found.keys() == PACKAGES.keys()
    assert all(len(code.strip().splitlines()) <= 5 for code in found.values())


@pytest.mark.parametrize("formed", [False, True], ids=["stored", "formed"])
@pytest.mark.parametrize("kind", PACKAGES)
def test_the_lines_read_what_trains_as_well_as_our_own_loader(
    dataset, distilled, expected, kind, formed, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    for package in PACKAGES[kind]:
        pytest.importorskip(package, reason=f"reading {kind} needs {package}")
    if kind == "huggingface":  # Its cache is chosen when it is imported.
        cache = tmp_path / "hub" / "datasets"
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", cache)
    monkeypatch.chdir(tmp_path)
    name = re.search(r'"(exported[.\w]*)', snippets()[kind])[1]
    export_distilled(distilled, tmp_path / name, kind, formed)
    found = {}
    exec(snippets()[kind], found)
    images = np.stack([np.asarray(image) for image in found["images"]])
    labels = np.asarray(found["labels"])
    if images.shape[1] == 3 != images.shape[-1]:
        images = images.transpose(0, 2, 3, 1)
    assert images.dtype == np.uint8
    reached = accuracy(dataset, images, labels, 1 if formed else 2)
    assert reached == pytest.approx(expected[formed], abs=NOISE)

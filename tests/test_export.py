"""Tests of d4a_jax.export and experiments/export.py."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d4a_jax import artifact, export

_SCRIPT = Path(__file__).resolve().parent.parent / "experiments" / "export.py"
_NAMES = ["a cat", "dog: 'big'", "größe/../x", "dog: 'big'"]


def _make(channels=3, factor=1):
    rng = np.random.default_rng(0)
    labels = np.array([3, 1, 0, 2, 1, 0, 3, 2], np.int32)
    metadata = {
        "dataset": "toy",
        "class_names": _NAMES,
        "mean": (0.5,) * channels,
        "std": np.full(channels, 0.25),
        "factor": factor,
    }
    return artifact.DistilledDataset(
        rng.integers(0, 256, (8, 8, 8, channels)).astype(np.uint8),
        labels,
        np.repeat(np.arange(2, dtype=np.int32), 4),
        metadata,
    )


def _check_metadata(metadata, channels):
    assert metadata["dataset"] == "toy"
    assert metadata["class_names"] == _NAMES
    assert metadata["mean"] == [0.5] * channels
    assert metadata["std"] == [0.25] * channels
    assert metadata["factor"] == 2
    assert metadata["formed"] is False
    assert "2 x 2 tiles" in metadata["decoding"]


@pytest.fixture(params=[1, 3], ids=["gray", "color"])
def distilled(request):
    return _make(request.param, factor=2)


def _channels(distilled):
    return distilled.images.shape[-1]


def _pixels(image):
    array = np.asarray(image)
    return array[:, :, None] if array.ndim == 2 else array


def _check_folder(path, distilled):
    metadata = json.loads((path / "metadata.json").read_text(encoding="utf-8"))
    _check_metadata(metadata, _channels(distilled))
    readme = (path / "README.md").read_text(encoding="utf-8")
    assert "mean: [0.5" in readme
    assert "factor: 2" in readme


def test_imagefolder(tmp_path, distilled):
    export.export_distilled(distilled, tmp_path / "x" / "out", "imagefolder")
    root = tmp_path / "x" / "out"
    folders = sorted(os.listdir(root / "train"))
    assert folders == ["0_a_cat", "1_dog_big", "2_gr_e_.._x", "3_dog_big"]
    found = {}
    for label, folder in enumerate(folders):
        for file in (root / "train" / folder).iterdir():
            index, segment = file.stem.split("_s")
            assert int(segment) == distilled.segments[int(index)]
            found[int(index)] = (label, _pixels(Image.open(file)))
    for index in range(8):
        label, image = found[index]
        assert label == distilled.labels[index]
        np.testing.assert_array_equal(image, distilled.images[index])
    _check_folder(root, distilled)
    assert os.listdir(tmp_path / "x") == ["out"]


def test_npz(tmp_path, distilled):
    export.export_distilled(distilled, tmp_path / "out.npz", "npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["images"], distilled.images)
        np.testing.assert_array_equal(loaded["labels"], distilled.labels)
        np.testing.assert_array_equal(loaded["segments"], distilled.segments)
        assert loaded["class_names"].tolist() == _NAMES
        metadata = json.loads(str(loaded["metadata"]))
    _check_metadata(metadata, _channels(distilled))
    assert metadata["layout"] == "NHWC"


def test_safetensors(tmp_path, distilled):
    safetensors = pytest.importorskip("safetensors")
    export.export_distilled(distilled, tmp_path / "out", "safetensors")
    with safetensors.safe_open(tmp_path / "out", framework="np") as loaded:
        np.testing.assert_array_equal(loaded.get_tensor("images"), distilled.images)
        np.testing.assert_array_equal(loaded.get_tensor("labels"), distilled.labels)
        np.testing.assert_array_equal(loaded.get_tensor("segments"), distilled.segments)
        metadata = json.loads(loaded.metadata()["metadata"])
    _check_metadata(metadata, _channels(distilled))


def test_torch(tmp_path, distilled):
    torch = pytest.importorskip("torch")
    export.export_distilled(distilled, tmp_path / "out.pt", "torch")
    loaded = torch.load(tmp_path / "out.pt", weights_only=True)
    images = loaded["images"].numpy().transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(images, distilled.images)
    assert loaded["images"].dtype == torch.uint8
    assert loaded["labels"].dtype == torch.int64
    np.testing.assert_array_equal(loaded["labels"].numpy(), distilled.labels)
    np.testing.assert_array_equal(loaded["segments"].numpy(), distilled.segments)
    metadata = json.loads(loaded["metadata"])
    _check_metadata(metadata, _channels(distilled))
    assert metadata["layout"] == "NCHW"


def test_tfds(tmp_path, distilled):
    tfds = pytest.importorskip("tensorflow_datasets")
    pytest.importorskip("array_record")
    export.export_distilled(distilled, tmp_path / "out", "tfds")
    builder = tfds.builder_from_directory(tmp_path / "out")
    source = builder.as_data_source(split="train")
    assert len(source) == builder.info.splits["train"].num_examples == 8
    for index, example in enumerate(source):
        np.testing.assert_array_equal(example["image"], distilled.images[index])
        assert example["label"] == distilled.labels[index]
        assert example["segment"] == distilled.segments[index]
    names = builder.info.features["label"].names
    assert names[0] == "a cat"
    assert names[1] == "dog: 'big' (1)"
    _check_folder(tmp_path / "out", distilled)
    assert not (tmp_path / "out" / "build").exists()


def test_huggingface(tmp_path, distilled, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    datasets = pytest.importorskip("datasets")
    export.export_distilled(distilled, tmp_path / "out", "huggingface")
    loaded = datasets.load_dataset(
        str(tmp_path / "out"), cache_dir=str(tmp_path / "cache")
    )
    assert list(loaded) == ["train"]
    assert loaded["train"].features["label"].names[2] == _NAMES[2]
    assert loaded["train"].features["segment"].dtype == "int32"
    assert len(loaded["train"]) == 8
    for index, example in enumerate(loaded["train"]):
        image = _pixels(example["image"])
        np.testing.assert_array_equal(image, distilled.images[index])
        assert example["label"] == distilled.labels[index]
        assert example["segment"] == distilled.segments[index]
    _check_folder(tmp_path / "out", distilled)


def _read_label_logits(path, format):
    if format == "npz":
        with np.load(path, allow_pickle=False) as loaded:
            return loaded["label_logits"]
    if format == "safetensors":
        safetensors = pytest.importorskip("safetensors")
        with safetensors.safe_open(path, framework="np") as loaded:
            return loaded.get_tensor("label_logits")
    if format == "torch":
        torch = pytest.importorskip("torch")
        return torch.load(path, weights_only=True)["label_logits"].numpy()
    readme = (path / "README.md").read_text(encoding="utf-8")
    assert "`label_logits.npy` (float16 [" in readme
    return np.load(path / "label_logits.npy")


@pytest.mark.parametrize("formed", [False, True])
@pytest.mark.parametrize("format", ["npz", "safetensors", "torch", "imagefolder"])
def test_learned_labels_go_along(tmp_path, format, formed):
    if format in ("safetensors", "torch"):
        pytest.importorskip(format)
    by_tile = np.random.default_rng(1).normal(size=(4, 8, 4)).astype(np.float16)
    distilled = dataclasses.replace(
        _make(factor=2), label_logits=by_tile.reshape(32, 4)
    )
    export.export_distilled(distilled, tmp_path / "out", format, formed)
    found = _read_label_logits(tmp_path / "out", format)
    # Rows are images: formed ones tile by tile, stored ones with a label for each tile.
    wanted = distilled.label_logits if formed else np.moveaxis(by_tile, 0, 1)
    assert found.dtype == np.float16
    np.testing.assert_array_equal(found, wanted)


def test_labels_of_whole_images_are_a_matrix_and_are_explained(tmp_path):
    logits = np.arange(32, dtype=np.float16).reshape(8, 4)
    distilled = dataclasses.replace(_make(), label_logits=logits)
    export.export_distilled(distilled, tmp_path / "out.npz", "npz")
    with np.load(tmp_path / "out.npz", allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["label_logits"], logits)
        decoding = json.loads(str(loaded["metadata"]))["decoding"]
    assert decoding.endswith("towards softmax(label_logits), by the cross-entropy.")


def test_formed_images_are_complete(tmp_path):
    pytest.importorskip("d4a_jax.formation")
    distilled = _make(factor=2)
    export.export_distilled(distilled, tmp_path / "out.npz", "npz", formed=True)
    images, labels = distilled.formed()
    with np.load(tmp_path / "out.npz", allow_pickle=False) as loaded:
        assert loaded["images"].shape == (32, 8, 8, 3)
        error = np.abs(loaded["images"] / 255 - images).max()
        assert error <= 0.5 / 255 + 1e-6
        np.testing.assert_array_equal(loaded["labels"], labels)
        np.testing.assert_array_equal(loaded["segments"][:8], distilled.segments)
        np.testing.assert_array_equal(loaded["segments"][24:], distilled.segments)
        metadata = json.loads(str(loaded["metadata"]))
    assert metadata["formed"] is True
    assert metadata["factor"] == 1
    assert metadata["stored_factor"] == 2
    assert "as they are" in metadata["decoding"]


def test_unknown_format(tmp_path):
    with pytest.raises(ValueError, match="'imagefoldr' is unknown.*'imagefolder'"):
        export.export_distilled(_make(), tmp_path / "out", "imagefoldr")


@pytest.mark.parametrize("format", list(export.EXPORTERS))
def test_what_exists_is_not_overwritten(tmp_path, format):
    (tmp_path / "out").write_text("x")
    with pytest.raises(ValueError, match="exists already"):
        export.export_distilled(_make(), tmp_path / "out", format)
    assert (tmp_path / "out").read_text() == "x"


@pytest.mark.parametrize("format", ["imagefolder", "huggingface"])
def test_a_failed_export_leaves_nothing(tmp_path, format):
    with pytest.raises(ValueError, match="1 or 3 channels, not 2"):
        export.export_distilled(_make(channels=2), tmp_path / "out", format)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("format", "module", "package"),
    [
        ("safetensors", "safetensors.numpy", "safetensors"),
        ("torch", "torch", "torch"),
        ("tfds", "tensorflow_datasets", "tensorflow-datasets"),
    ],
)
def test_a_missing_package_is_named(tmp_path, monkeypatch, format, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=f"needs the package {package}: pip install"):
        export.export_distilled(_make(), tmp_path / "out", format)
    assert os.listdir(tmp_path) == []


def _run(tmp_path, *arguments):
    # From another directory and without the test's own path: a bare clone.
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, _SCRIPT, *arguments],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )


def test_command(tmp_path):
    artifact.save_distilled(tmp_path / "a", _make())
    done = _run(
        tmp_path, "--artifact=a", "--format=npz", "--output=out.npz", "--segments=1"
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "out.npz", allow_pickle=False) as loaded:
        assert len(loaded["images"]) == 4


def test_command_says_what_is_wrong(tmp_path):
    artifact.save_distilled(tmp_path / "a", _make())
    (tmp_path / "a" / "labels.npy").write_bytes(b"damaged")
    done = _run(tmp_path, "--artifact=a", "--format=npz", "--output=out.npz")
    assert done.returncode == 1
    assert done.stderr.startswith("error: a/labels.npy is damaged")
    assert len(done.stderr.splitlines()) == 1

"""Tests of d4a_jax.imports and experiments/import.py."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torch_files import save_torch

import d4a_jax
from d4a_jax import artifact, export
from d4a_jax.artifact import ArtifactError
from d4a_jax.imports import import_distilled

_ROOT = Path(__file__).resolve().parent.parent
_NAMES = ("cat", "dog", "eel")
_MEAN, _STD = (0.5, 0.4, 0.3), (0.25, 0.2, 0.5)


def _dataset(flip=True, side=8, channels=3):
    rng = np.random.default_rng(1)
    images = rng.integers(0, 256, (9, side, side, channels)).astype(np.uint8)
    labels = np.repeat(np.arange(3), 3)
    return d4a_jax.from_arrays("toy", images, labels, images, labels, _NAMES, flip)


_BYTES = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3)).astype(np.uint8)
_LABELS = np.repeat(np.arange(3), 2)


def _first(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _normalized(images=_BYTES):
    return ((images / 255 - np.array(_MEAN)) / np.array(_STD)).astype(np.float32)


def _save_npz(path, **arrays):
    np.savez(path, **arrays)
    return path


def _check(distilled, logits=None):
    np.testing.assert_array_equal(distilled.images, _BYTES)
    np.testing.assert_array_equal(distilled.labels, _LABELS)
    assert distilled.labels.dtype == np.int32
    assert distilled.num_segments == 1
    if logits is None:
        assert distilled.label_logits is None


# Published forms.


def test_mtt_and_datm_with_soft_labels_and_a_learned_rate(tmp_path):
    logits = np.eye(3, dtype=np.float32)[_LABELS] * 4 + 1
    logits[0] = [3, 2.5, -1]
    save_torch(_first(_normalized()), tmp_path / "images_best.pt")
    save_torch(logits, tmp_path / "labels_best.pt")
    save_torch(np.float32(0.02).reshape(()), tmp_path / "lr_best.pt")
    for path in (tmp_path, tmp_path / "images_best.pt"):
        distilled = import_distilled(path, _dataset(), mean=_MEAN, std=_STD)
        _check(distilled, logits)
        # A constant for each row leaves the softmax as it is.
        shifted = logits - logits.max(axis=1, keepdims=True)
        np.testing.assert_allclose(distilled.label_logits, shifted, atol=2e-3)
        assert distilled.metadata["learned_learning_rate"] == pytest.approx(0.02)
        protocol = distilled.metadata["protocol"]
        assert protocol["learning_rate"] == pytest.approx(0.02)
        assert "MTT or DATM" in distilled.metadata["imported"]["form"]


def test_a_negative_learned_rate_is_recorded_and_not_used(tmp_path):
    save_torch(_first(_BYTES / np.float32(255)), tmp_path / "images_best.pt")
    save_torch(_LABELS, tmp_path / "labels_best.pt")
    save_torch(np.array([-0.5], np.float32), tmp_path / "lr_best.pt")
    metadata = import_distilled(tmp_path, _dataset()).metadata
    assert metadata["learned_learning_rate"] == -0.5
    assert metadata["protocol"]["learning_rate"] == 0.01


def test_mtt_needs_one_file_of_images_and_its_labels(tmp_path):
    for step in (100, 200):
        save_torch(_first(_BYTES), tmp_path / f"images_{step}.pt")
    with pytest.raises(ArtifactError, match="2 files of images and no images_best.pt"):
        import_distilled(tmp_path, _dataset())
    with pytest.raises(ArtifactError, match="its labels beside it: labels_200.pt"):
        import_distilled(tmp_path / "images_200.pt", _dataset())


def test_images_whose_whitening_mtt_undid_have_the_plain_labels(tmp_path):
    save_torch(_first(_BYTES / np.float32(255)), tmp_path / "images_zca_best.pt")
    save_torch(_LABELS, tmp_path / "labels_best.pt")
    _check(import_distilled(tmp_path / "images_zca_best.pt", _dataset()))


def test_dc_and_dm_lists(tmp_path):
    others = np.zeros_like(_first(_normalized()))
    sets = [[others, _LABELS], [_first(_normalized()), _LABELS]]
    value = {"data": sets, "accs_all_exps": {"ConvNet": [0.5]}}
    path = tmp_path / "res_DM_CIFAR10_ConvNet_2ipc.pt"
    save_torch(value, path)
    for source in (path, tmp_path):
        distilled = import_distilled(source, _dataset(), mean=_MEAN, std=_STD, entry=1)
        _check(distilled)
    assert (
        "Set 2 of 2 in the file is taken."
        in (distilled.metadata["imported"]["understood"])
    )
    with pytest.raises(ArtifactError, match=r"entry is 2, but .* 2 sets \(0 to 1\)"):
        import_distilled(path, _dataset(), mean=_MEAN, std=_STD, entry=2)


def test_idc_with_its_factor(tmp_path):
    named = tmp_path / "conv3in_grad_mse_nd2000_factor2_lr0.005_mix_ipc2"
    for folder in (tmp_path, named):
        folder.mkdir(exist_ok=True)
        pair = [_first(_BYTES / np.float32(255)), _LABELS]
        save_torch(pair, folder / "data.pt")
    distilled = import_distilled(named, _dataset())
    _check(distilled)
    assert distilled.factor == 2
    assert len(distilled.formed()[1]) == 24
    _check(import_distilled(tmp_path / "data.pt", _dataset(), factor=1))
    with pytest.raises(ArtifactError, match="does not say the factor: give it"):
        import_distilled(tmp_path / "data.pt", _dataset())


def _save_folder(root, names, suffix="png"):
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for index in range(2):
            picture = Image.fromarray(_BYTES[2 * label + index])
            picture.save(root / name / f"class_id{index}.{suffix}")


@pytest.mark.parametrize(
    "names",
    [_NAMES, ("new000", "new001", "new002"), ("00000", "00001", "00002")],
)
@pytest.mark.parametrize("below", ["", "train"])
def test_folders_of_sre2l_and_rded(tmp_path, names, below):
    _save_folder(tmp_path / below, names)
    (tmp_path / below / names[0] / "notes.txt").write_text("x")
    _check(import_distilled(tmp_path, _dataset()))


def test_jpegs_are_decoded(tmp_path):
    _save_folder(tmp_path, _NAMES, "JPEG")
    distilled = import_distilled(tmp_path, _dataset())
    wanted = np.asarray(Image.open(tmp_path / "dog" / "class_id1.JPEG"))
    error = np.abs(distilled.images[3].astype(int) - wanted)
    assert error.max() <= 2


def test_folders_of_other_names_need_a_word_on_their_order(tmp_path):
    _save_folder(tmp_path, ("n01", "n02", "n07"))
    with pytest.raises(ArtifactError, match="'n01' .* none of the classes .cat, dog"):
        import_distilled(tmp_path, _dataset())
    _check(import_distilled(tmp_path, _dataset(), sorted_folders=True))
    (tmp_path / "n08").mkdir()
    with pytest.raises(ArtifactError, match="4 class folders, but there are 3"):
        import_distilled(tmp_path, _dataset(), sorted_folders=True)


def test_soft_labels_of_a_folder_are_given_beside_it(tmp_path):
    _save_folder(tmp_path, _NAMES)
    soft = np.full((6, 3), 0.1, np.float32)
    soft[np.arange(6), _LABELS] = 0.8
    distilled = import_distilled(tmp_path, _dataset(), labels=soft)
    _check(distilled, soft)
    found = np.exp(distilled.label_logits.astype(np.float32))
    np.testing.assert_allclose(found, soft, rtol=2e-3)


# Forms of pixels and labels.

_PIXELS = {
    "uint8": (_BYTES, {}),
    "channels first": (_first(_BYTES), {}),
    "int64": (_BYTES.astype(np.int64), {}),
    "floats to 1": (_BYTES / np.float32(255), {}),
    "overshoot": (_BYTES / np.float64(255) * (1 + 1e-6), {}),
    "floats to 255": (_BYTES.astype(np.float64), {}),
    "normalized": (_first(_normalized()), {"mean": _MEAN, "std": _STD}),
    # Noise has the values of whitened images, so that a word is needed.
    "normalized by one": (
        (_BYTES / 255 - 0.5) / 0.5,
        {"mean": 0.5, "std": 0.5, "whitened": False},
    ),
}


@pytest.mark.parametrize("name", list(_PIXELS))
@pytest.mark.parametrize("with_data", [True, False])
def test_pixels_in_any_usual_form(tmp_path, name, with_data):
    images, options = _PIXELS[name]
    path = _save_npz(tmp_path / "a.npz", images=images, labels=_LABELS)
    distilled = import_distilled(path, _dataset() if with_data else _NAMES, **options)
    _check(distilled)
    if with_data:
        assert distilled.metadata["dataset"] == "toy"
        assert distilled.metadata["mean"] == list(_dataset().mean)
        assert distilled.metadata["dataset_fingerprint"] == _dataset().fingerprint
    else:
        expected = (_BYTES / 255).mean(axis=(0, 1, 2))
        np.testing.assert_allclose(distilled.metadata["mean"], expected)
    assert distilled.metadata["segment_sizes"] == [2]
    assert distilled.metadata["images_per_class"] == 2


def test_grey_images_without_channels(tmp_path):
    grey = _BYTES[..., 0]
    path = _save_npz(tmp_path / "a.npz", x=grey, y=_LABELS)
    distilled = import_distilled(path, _dataset(channels=1))
    np.testing.assert_array_equal(distilled.images, grey[..., None])


def test_values_that_are_cut_off_are_counted(tmp_path):
    images = _BYTES / np.float32(255)
    images[0, 0, 0, :2] = [1.5, -0.5]
    path = _save_npz(tmp_path / "a.npz", images=images, labels=_LABELS)
    distilled = import_distilled(path, _NAMES, mean=0, std=1)
    assert distilled.images[0, 0, 0, :2].tolist() == [255, 0]
    share = 100 * 2 / images.size
    assert f"{share:.3g} % of the values lay outside" in (
        " ".join(distilled.metadata["imported"]["understood"])
    )


@pytest.mark.parametrize(
    "images, options, message",
    [
        (_normalized(), {}, "Most likely they are normalized: give the mean and std"),
        (_BYTES, {"mean": 0.5, "std": 0.5}, r"integers \(uint8\), so they are neither"),
        (_normalized(), {"mean": 0.5}, "mean and std must be given together"),
        (_normalized(), {"mean": [0.5, 0.5], "std": 1}, "mean has 2 entries; 1 or 3"),
        (_normalized(), {"mean": 0.5, "std": 0}, r"std is \[0.0\]; it must be above 0"),
        (_BYTES.astype(int) * 2, {}, "integers from 0 to 510; 0 to 255 are"),
        (np.full(_BYTES.shape, np.nan), {}, "NaN or infinite"),
        (_BYTES[:, :4], {}, "4 x 8 x 3; those of the data set are 8 x 8 x 3"),
        (_BYTES[..., :2], {}, "no 1 or 3 channels"),
    ],
)
def test_pixels_without_a_certain_meaning_are_refused(
    tmp_path, images, options, message
):
    path = _save_npz(tmp_path / "a.npz", images=images, labels=_LABELS)
    with pytest.raises(ArtifactError, match=message):
        import_distilled(path, _dataset(), **options)


def test_the_statistics_of_the_field_are_named_for_its_data(tmp_path):
    path = _save_npz(tmp_path / "a.npz", images=_normalized(), labels=_LABELS)
    data = dataclasses.replace(_dataset(), name="cifar10")
    with pytest.raises(ArtifactError, match="cifar10 usually 0.4914,0.4822,0.4465; 0."):
        import_distilled(path, data)


_SOFT = np.full((6, 3), 0.25)
_SOFT[np.arange(6), _LABELS] = 0.5


@pytest.mark.parametrize(
    "labels, soft",
    [
        (_LABELS.astype(np.uint8), None),
        (_LABELS[:, None], None),
        (_LABELS.astype(np.float32), None),
        (_LABELS + 1, None),
        (np.eye(3)[_LABELS], None),
        (_SOFT, _SOFT),
        (np.log(_SOFT) + 7, _SOFT),
    ],
    ids=["integers", "column", "floats", "from 1", "one-hot", "soft", "logits"],
)
@pytest.mark.parametrize("factor", [1, 2])
def test_labels_in_any_usual_form(tmp_path, labels, soft, factor):
    path = _save_npz(tmp_path / "a.npz", images=_BYTES, labels=labels)
    distilled = import_distilled(path, _dataset(), factor=factor)
    _check(distilled, soft)
    if soft is not None:
        values = np.exp(distilled.label_logits.astype(np.float64))
        found = values / values.sum(axis=1, keepdims=True)
        np.testing.assert_allclose(found, np.tile(soft, (factor**2, 1)), atol=2e-3)


@pytest.mark.parametrize(
    "labels, message",
    [
        (_LABELS + 2, "labels run from 2 to 4, but there are 3 classes"),
        (_LABELS[:5], r"labels have the shape \[5\]; \[6\] integers"),
        (np.eye(4)[_LABELS], r"shape \[6, 4\]; .* \[6, 3\]"),
        (_LABELS + 0.5, "labels have fractions"),
        (np.full((6, 3), np.inf), "not all finite"),
    ],
)
def test_labels_that_do_not_fit_are_refused(tmp_path, labels, message):
    path = _save_npz(tmp_path / "a.npz", images=_BYTES, labels=labels)
    with pytest.raises(ArtifactError, match=message):
        import_distilled(path, _dataset())


def test_files_without_images_or_labels_say_so(tmp_path):
    with pytest.raises(ArtifactError, match="has no images: it holds 'a', 'b'"):
        import_distilled(_save_npz(tmp_path / "a.npz", a=1, b=2), _NAMES)
    path = _save_npz(tmp_path / "b.npz", images=_BYTES)
    with pytest.raises(ArtifactError, match="there are no labels; give them"):
        import_distilled(path, _NAMES)
    _check(import_distilled(path, _NAMES, labels=_LABELS))
    with pytest.raises(ArtifactError, match="does not name its classes"):
        import_distilled(path)
    with pytest.raises(ArtifactError, match="ending that is not read; .npy, .npz"):
        (tmp_path / "a.mat").write_bytes(b"x")
        import_distilled(tmp_path / "a.mat", _NAMES)
    with pytest.raises(ArtifactError, match="There is no file or folder"):
        import_distilled(tmp_path / "nowhere", _NAMES)


def test_the_protocol_does_not_flip_what_must_not_be(tmp_path):
    path = _save_npz(tmp_path / "a.npz", images=_BYTES, labels=_LABELS)
    metadata = import_distilled(path, _dataset(flip=False)).metadata
    assert metadata["protocol"]["augmentation"] == "color_crop_scale_rotate"
    assert metadata["flip"] is False


def test_safetensors_without_the_package(tmp_path, monkeypatch):
    numpy_io = pytest.importorskip("safetensors.numpy")
    values = {"images": _first(_normalized()), "labels": _LABELS}
    numpy_io.save_file(values, tmp_path / "a.safetensors")
    monkeypatch.setitem(sys.modules, "safetensors", None)
    _check(import_distilled(tmp_path / "a.safetensors", _NAMES, mean=_MEAN, std=_STD))
    content = (tmp_path / "a.safetensors").read_bytes()
    for damaged in (content[:50], content[:-1], b"\xff" * 20):
        (tmp_path / "b.safetensors").write_bytes(damaged)
        with pytest.raises(ArtifactError, match="b.safetensors is damaged"):
            import_distilled(tmp_path / "b.safetensors", _NAMES)


# ZCA whitening.


def _smooth_images(count):
    """Images with the spectrum 1/f of those of the world, whose neighbours agree."""
    noise = np.random.default_rng(3).normal(size=(count, 8, 8, 3))
    across, down = np.meshgrid(np.fft.fftfreq(8), np.fft.fftfreq(8))
    falling = 1 / np.maximum(np.hypot(across, down), 1 / 8) ** 2
    images = np.fft.ifft2(
        np.fft.fft2(noise, axes=(1, 2)) * falling[..., None], axes=(1, 2)
    ).real
    images = 0.5 + 0.2 * images / images.std()
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def _whiten(images):
    flat = _first(images / 255).reshape(len(images), -1)
    values, vectors = np.linalg.eigh(np.cov((flat - flat.mean(0)).T))
    matrix = (vectors * (np.maximum(values, 0) + 0.01) ** -0.5) @ vectors.T
    white = (flat - flat.mean(0)) @ matrix
    white = white.reshape(-1, 3, 8, 8).astype(np.float32)
    return white, {"matrix": matrix, "mean": flat.mean(0)}


@pytest.mark.parametrize("kind", ["matrix", "inverse", "transform_inv"])
def test_whitened_images_are_recognized_and_inverted(tmp_path, kind):
    images = _smooth_images(600)
    white, whitening = _whiten(images)
    path = _save_npz(tmp_path / "a.npz", images=white[:6], labels=_LABELS)
    with pytest.raises(ArtifactError, match="ZCA-whitened, and no pixels .* matrix"):
        import_distilled(path, _dataset())
    if kind != "matrix":
        inverse = np.linalg.inv(whitening["matrix"])
        whitening = {kind: inverse, "mean_vector": whitening["mean"][None]}
    distilled = import_distilled(path, _dataset(), whitening=whitening)
    np.testing.assert_array_equal(distilled.images, images[:6])


def test_the_guess_of_whitening_can_be_overruled(tmp_path):
    images = _whiten(_smooth_images(600))[0][:6]
    path = _save_npz(tmp_path / "a.npz", images=images, labels=_LABELS)
    found = import_distilled(path, _dataset(), mean=0.5, std=0.5, whitened=False)
    wanted = np.clip(images.transpose(0, 2, 3, 1) * 0.5 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(found.images, wanted, atol=0.51)
    plain = _save_npz(
        tmp_path / "b.npz", images=_BYTES / np.float32(255), labels=_LABELS
    )
    with pytest.raises(ArtifactError, match="ZCA-whitened"):
        import_distilled(plain, _dataset(), whitened=True)
    with pytest.raises(ArtifactError, match=r"shape \[2, 2\] .* need \[192, 192\]"):
        import_distilled(
            path, _dataset(), whitening={"inverse": np.eye(2), "mean": np.zeros(2)}
        )
    with pytest.raises(ArtifactError, match="'mean' and 'inverse' .* it has 'a'"):
        import_distilled(path, _dataset(), whitening={"a": np.eye(2)})


def test_plain_normalized_images_do_not_pass_for_whitened():
    from d4a_jax.imports.whitening import looks_whitened

    images = _smooth_images(20) / np.float32(255)
    assert not looks_whitened(images)
    assert not looks_whitened((images - 0.5) / 0.5)
    assert not looks_whitened((images - np.array(_MEAN)) / np.array(_STD))


# Exports of this library.


def _distilled(factor=1, learned=False):
    metadata = {
        "dataset": "toy", "class_names": list(_NAMES), "mean": [0.5] * 3,
        "std": [0.25] * 3, "factor": factor, "segment_sizes": [1, 1],
        "images_per_class": 2, "seed": 7, "note": "größer",
        "config": {"data": {"name": "toy"}},
    }  # fmt: skip
    logits = np.random.default_rng(2).normal(size=(6 * factor**2, 3))
    return artifact.DistilledDataset(
        _BYTES, np.tile(np.arange(3, dtype=np.int32), 2),
        np.repeat(np.arange(2, dtype=np.int32), 3), metadata,
        label_logits=logits.astype(np.float16) if learned else None,
    )  # fmt: skip


@pytest.mark.parametrize("format", list(export.EXPORTERS))
@pytest.mark.parametrize("learned", [False, True])
def test_our_exports_come_back_as_they_were(tmp_path, format, learned):
    if format == "torch":
        pytest.importorskip("torch")
    if format == "safetensors":
        pytest.importorskip("safetensors")
    distilled = _distilled(2, learned)
    artifact.save_distilled(tmp_path / "a", distilled, with_gallery=False)
    loaded = artifact.load_distilled(tmp_path / "a")
    suffix = {"npz": ".npz", "safetensors": ".safetensors", "torch": ".pt"}
    path = tmp_path / f"out{suffix.get(format, '')}"
    export.export_distilled(loaded, path, format)
    found = import_distilled(path)
    assert artifact.same_distilled(found, distilled)
    without = {k: v for k, v in loaded.metadata.items() if k != "sha256"}
    assert found.metadata == without
    assert artifact.same_distilled(import_distilled(path, _dataset()), distilled)
    other = ("cat", "dog", "fox")
    with pytest.raises(ArtifactError, match="has the classes cat, dog, eel, ..."):
        import_distilled(path, other)


def test_our_torch_export_is_read_without_torch(tmp_path):
    distilled = _distilled(2)
    export.export_distilled(distilled, tmp_path / "a.npz", "npz")
    with np.load(tmp_path / "a.npz") as loaded:
        metadata = json.loads(str(loaded["metadata"])) | {"layout": "NCHW"}
    value = {
        "images": _first(distilled.images),
        "labels": distilled.labels.astype(np.int64),
        "segments": distilled.segments.astype(np.int64),
        "metadata": json.dumps(metadata),
    }
    save_torch(value, tmp_path / "a.pt")
    found = import_distilled(tmp_path / "a.pt")
    assert artifact.same_distilled(found, distilled)
    assert found.metadata == distilled.metadata


@pytest.mark.parametrize("format", ["npz", "imagefolder"])
def test_a_decoded_export_is_a_set_of_factor_one(tmp_path, format):
    distilled = _distilled(2, learned=True)
    path = tmp_path / ("out.npz" if format == "npz" else "out")
    export.export_distilled(distilled, path, format, formed=True)
    found = import_distilled(path)
    images, labels = distilled.formed()
    np.testing.assert_array_equal(found.images, np.rint(images * 255))
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.label_logits, distilled.label_logits)
    assert found.factor == 1
    assert found.metadata["segment_sizes"] == [4, 4]
    assert found.metadata["images_per_class"] == 8
    assert len(found.prefix(1).labels) == 12


def test_an_export_is_never_called_damaged(tmp_path):
    artifact.save_distilled(tmp_path / "a", _distilled(), with_gallery=False)
    loaded = artifact.load_distilled(tmp_path / "a")
    export.export_distilled(loaded, tmp_path / "out", "imagefolder")
    with pytest.raises(ArtifactError, match="out is an export, .*import.py") as error:
        artifact.load_distilled(tmp_path / "out")
    assert "damaged" not in str(error.value)
    with pytest.raises(ArtifactError, match="not a distilled dataset"):
        artifact.save_distilled(tmp_path / "out", loaded)


def test_a_distilled_directory_is_read_as_it_is(tmp_path):
    artifact.save_distilled(tmp_path / "a", _distilled(), with_gallery=False)
    loaded = artifact.load_distilled(tmp_path / "a")
    found = import_distilled(tmp_path / "a")
    assert artifact.same_distilled(found, loaded)
    assert found.metadata == loaded.metadata


# The command.


def _run(tmp_path, script, *arguments):
    return subprocess.run(
        [sys.executable, _ROOT / "experiments" / script, *arguments],
        cwd=tmp_path,
        check=False,
        capture_output=True,
        text=True,
    )


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A list of DC that the command imported: two of the digits' classes."""
    pytest.importorskip("sklearn")
    tmp_path = tmp_path_factory.mktemp("imported")
    data = d4a_jax.load_dataset("digits")
    rows = np.concatenate([np.flatnonzero(data.train_labels == c)[:2] for c in (3, 5)])
    images = (data.train_images[rows] / np.float32(255) - 0.5) / np.float32(0.25)
    sets = [[_first(images), np.repeat(np.arange(2), 2)]]
    save_torch({"data": sets}, tmp_path / "res_DM.pt")
    done = _run(
        tmp_path, "import.py", "--input=res_DM.pt", "--data=digits", "--classes=3,5",
        "--mean=0.5", "--std=0.25", "--output=out", "--network=convnet:width=4:depth=1",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "4 images (8 x 8 x 1, factor 1) of 2 classes with hard labels" in done.stdout
    assert "Read as a list of DC, DSA or DM." in done.stderr
    distilled = artifact.load_distilled(tmp_path / "out")
    np.testing.assert_array_equal(distilled.images, data.train_images[rows])
    config = distilled.metadata["config"]
    assert config["data"] == {"name": "digits", "size": None, "classes": [3, 5]}
    return tmp_path


def test_evaluate_reads_what_was_imported(imported):
    done = _run(
        imported, "evaluate.py", "--artifact=out", "--repeats=1", "--max_steps=2",
        "--output=tested.json",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads((imported / "tested.json").read_bytes())
    assert report["images"] == 4
    assert report["results"][0]["network"] == "convnet:depth=1:width=4"
    assert 0 <= report["results"][0]["top1"] <= 100
    assert "differ from those" not in done.stderr


@pytest.mark.slow
def test_report_and_analyze_read_what_was_imported(imported):
    tmp_path = imported
    done = _run(tmp_path, "report.py", "--workdir=out", "--output=page")
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "page" / "report.html").read_text(encoding="utf-8")
    assert "<h1>Imported (res_DM.pt): 2 images per class" in page
    done = _run(
        tmp_path, "analyze.py", "--artifacts=out", "--output=study", "--max_steps=2",
        "--repeats=1", "--difficulty_epochs=1", "--difficulty_networks=1",
        "--data_dir=data",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    study = json.loads((tmp_path / "study" / "analysis.json").read_bytes())
    assert [row["name"] for row in study["rows"]] == ["out, 2 per class"]
    assert study["network"] == "convnet:depth=1:width=4"


def test_an_imported_set_is_not_said_to_be_ours(tmp_path):
    path = _save_npz(tmp_path / "a.npz", images=_BYTES, labels=_LABELS)
    distilled = import_distilled(path, _dataset())
    export.export_distilled(distilled, tmp_path / "out", "huggingface")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "distilled from toy by others." in card
    again = import_distilled(tmp_path / "out")
    assert artifact.same_distilled(again, distilled)
    assert again.metadata["imported"]["name"] == "a.npz"


def test_command_says_what_is_wrong(tmp_path):
    _save_npz(tmp_path / "a.npz", images=_normalized(), labels=_LABELS)
    arguments = ["--input=a.npz", "--class_names=cat,dog,eel", "--output=out"]
    done = _run(tmp_path, "import.py", *arguments)
    assert done.returncode == 2
    assert "a.npz: The images have floats" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()
    done = _run(tmp_path, "import.py", *arguments, "--mean=half", "--std=1")
    assert done.returncode == 2
    assert "--mean is 'half'; numbers with commas are needed." in done.stderr

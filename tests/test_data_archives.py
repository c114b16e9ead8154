"""Tests of the builders on small archives in the genuine formats."""

import dataclasses
import functools
import gzip
import http.server
import io
import os
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile

import numpy as np
import pytest
import scipy.io
from PIL import Image
from tensorflow_datasets import core as tfds_core

from d4a_jax import data
from d4a_jax.data import catalogue
from d4a_jax.storage import fileio


@pytest.fixture
def dirs(tmp_path):
    """The data directory and the manual directory."""
    (tmp_path / "manual").mkdir()
    return tmp_path / "data", tmp_path / "manual"


@pytest.fixture
def load(dirs, monkeypatch):
    """Loads a data set whose archives in the manual directory pass as the published."""

    def load_small(name, changes=None, **arguments):
        data_dir, manual = dirs
        source = catalogue.SOURCES[name]
        archives = tuple(
            dataclasses.replace(a, sha256=fileio.sha256_file(manual / a.filename))
            if (manual / a.filename).is_file()
            else a
            for a in source.archives
        )
        changes = {"archives": archives, "counts": None} | (changes or {})
        monkeypatch.setitem(
            catalogue.SOURCES, name, dataclasses.replace(source, **changes)
        )
        arguments = {"data_dir": data_dir, "manual_dir": manual} | arguments
        return data.load_dataset(name, download=False, **arguments)

    return load_small


def _noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _jpeg(height, width, seed=0, mode="RGB"):
    side = _noise(4, 4, 3, seed=seed)
    image = Image.fromarray(side).resize((width, height)).convert(mode)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def _pixels(jpeg):
    return np.asarray(Image.open(io.BytesIO(jpeg)).convert("RGB"))


def _write_tar(path, files, mode="w:gz"):
    with tarfile.open(path, mode) as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _cifar_records(images, labels):
    records = []
    for image, label in zip(images, labels, strict=True):
        records.append(bytes(np.atleast_1d(label).tolist()))
        records.append(image.transpose(2, 0, 1).tobytes())
    return b"".join(records)


def _write_cifar10(manual, **changes):
    images = _noise(24, 32, 32, 3)
    labels = np.arange(24) % 10
    names = "airplane\nautomobile\nbird\ncat\ndeer\ndog\nfrog\nhorse\nship\ntruck\n\n"
    files = {"cifar-10-batches-bin/batches.meta.txt": names.encode()}
    for i in range(5):
        rows = slice(4 * i, 4 * i + 4)
        files[f"cifar-10-batches-bin/data_batch_{i + 1}.bin"] = _cifar_records(
            images[rows], labels[rows]
        )
    files["cifar-10-batches-bin/test_batch.bin"] = _cifar_records(
        images[20:], labels[20:]
    )
    _write_tar(manual / "cifar-10-binary.tar.gz", files | changes)
    return images, labels


def test_cifar10(load, dirs):
    images, labels = _write_cifar10(dirs[1])
    dataset = load("cifar10")
    np.testing.assert_array_equal(dataset.train_images, images[:20])
    np.testing.assert_array_equal(dataset.train_labels, labels[:20])
    np.testing.assert_array_equal(dataset.test_images, images[20:])
    np.testing.assert_array_equal(dataset.test_labels, labels[20:])
    assert dataset.class_names[:3] == ("airplane", "automobile", "bird")
    assert isinstance(dataset.train_images, np.memmap)
    np.testing.assert_allclose(dataset.mean, (images[:20] / 255).mean((0, 1, 2)))
    np.testing.assert_allclose(dataset.std, (images[:20] / 255).std((0, 1, 2)))
    assert dataset.flip
    small = load("cifar10", size=16, classes=(3, 1))
    assert small.image_shape == (16, 16, 3)
    assert small.class_names == ("cat", "automobile")
    assert small.fingerprint != dataset.fingerprint
    same = load("cifar10", size=32)
    assert same.fingerprint == dataset.fingerprint


def test_cifar100_uses_the_fine_labels(load, dirs):
    images = _noise(102, 32, 32, 3)
    fine = np.arange(102) % 100
    labels = np.stack([fine % 20, fine], axis=1)
    names = "\n".join(f"class {i}" for i in range(100)) + "\n"
    files = {
        "train.bin": _cifar_records(images[:100], labels[:100]),
        "test.bin": _cifar_records(images[100:], labels[100:]),
        "fine_label_names.txt": names.encode(),
    }
    files = {f"cifar-100-binary/{name}": content for name, content in files.items()}
    _write_tar(dirs[1] / "cifar-100-binary.tar.gz", files)
    dataset = load("cifar100")
    np.testing.assert_array_equal(dataset.train_images, images[:100])
    np.testing.assert_array_equal(dataset.test_labels, [0, 1])
    assert dataset.class_names[99] == "class 99"


def _write_idx(path, array):
    header = bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(gzip.compress(header + array.tobytes()))


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_idx_files(load, dirs, name):
    images = _noise(23, 28, 28)
    labels = (np.arange(23) % 10).astype(np.uint8)
    for part, rows in (("train", slice(0, 20)), ("t10k", slice(20, 23))):
        _write_idx(dirs[1] / f"{part}-images-idx3-ubyte.gz", images[rows])
        _write_idx(dirs[1] / f"{part}-labels-idx1-ubyte.gz", labels[rows])
    dataset = load(name)
    np.testing.assert_array_equal(dataset.train_images[..., 0], images[:20])
    np.testing.assert_array_equal(dataset.test_labels, labels[20:])
    assert dataset.image_shape == (28, 28, 1)
    assert dataset.class_names[9] == ("9" if name == "mnist" else "Ankle boot")
    assert dataset.flip == (name == "fashion_mnist")


def test_idx_files_that_do_not_fit(load, dirs):
    for part in ("train", "t10k"):
        _write_idx(dirs[1] / f"{part}-images-idx3-ubyte.gz", _noise(5, 28, 28))
        _write_idx(dirs[1] / f"{part}-labels-idx1-ubyte.gz", _noise(4))
    with pytest.raises(data.DatasetError, match="has 5 images, but .* has 4 labels"):
        load("mnist")
    path = dirs[1] / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(data.DatasetError, match=f"{path} is damaged"):
        load("mnist")
    path.write_bytes(gzip.compress(gzip.decompress(whole)[:-1]))
    with pytest.raises(data.DatasetError, match="do not fit its shape"):
        load("mnist")


def test_svhn_counts_ten_as_zero(load, dirs):
    images = _noise(32, 32, 3, 13)
    labels = np.array([*range(1, 11), 10, 2, 1], np.uint8)[:, None]
    for part in ("train", "test"):
        path = dirs[1] / f"{part}_32x32.mat"
        scipy.io.savemat(path, {"X": images, "y": labels}, do_compression=True)
    dataset = load("svhn_cropped")
    np.testing.assert_array_equal(dataset.train_images, images.transpose(3, 0, 1, 2))
    np.testing.assert_array_equal(dataset.train_labels, labels[:, 0] % 10)
    assert not dataset.flip
    assert dataset.class_names == tuple("0123456789")


def test_svhn_damaged(load, dirs):
    for part in ("train", "test"):
        (dirs[1] / f"{part}_32x32.mat").write_bytes(b"no matrix" * 100)
    with pytest.raises(data.DatasetError, match="train_32x32.mat is damaged"):
        load("svhn_cropped")


def _tiny_files():
    files = {
        "wnids.txt": b"n02\nn01\n",
        "words.txt": b"n00\tentity\nn01\tgoldfish, Carassius\nn02\tcrane\n",
        "val/val_annotations.txt": b"val_10.JPEG\tn01\t0\t9\nval_9.JPEG\tn02\t0\t9\n",
        "val/images/val_9.JPEG": _jpeg(64, 64, 1),
        "val/images/val_10.JPEG": _jpeg(64, 64, 2, "L"),
    }
    for wnid in ("n01", "n02"):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = b"boxes"
        for i in (0, 2, 10):
            mode = "L" if i == 2 else "RGB"
            name = f"train/{wnid}/images/{wnid}_{i}.JPEG"
            files[name] = _jpeg(64, 64, i + int(wnid[1:]), mode)
    return files


def _write_folder(root, files):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def _write_zip(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("form", ["zip", "folder"])
def test_tiny_imagenet(load, dirs, form):
    files = _tiny_files()
    if form == "zip":
        named = {f"tiny-imagenet-200/{name}": file for name, file in files.items()}
        _write_zip(dirs[1] / "tiny-imagenet-200.zip", named)
    else:
        _write_folder(dirs[1] / "tiny-imagenet-200", files | {"train/.DS_Store": b""})
    dataset = load("tiny_imagenet")
    assert dataset.class_names == ("goldfish, Carassius", "crane")
    np.testing.assert_array_equal(dataset.train_labels, [0, 0, 0, 1, 1, 1])
    expected = [
        _pixels(files[f"train/{wnid}/images/{wnid}_{i}.JPEG"])
        for wnid in ("n01", "n02")
        for i in (0, 2, 10)
    ]
    np.testing.assert_array_equal(dataset.train_images, expected)
    assert (dataset.train_images[1] == dataset.train_images[1][..., :1]).all()
    np.testing.assert_array_equal(dataset.test_labels, [1, 0])
    expected = _pixels(files["val/images/val_9.JPEG"])
    np.testing.assert_array_equal(dataset.test_images[0], expected)


def _bad_tiny(case):
    files = _tiny_files()
    if case == "wrong size":
        files["train/n02/images/n02_2.JPEG"] = _jpeg(64, 63)
        return files, r"n02_2.JPEG is 64 x 63 pixels, .* is 64 x 64"
    if case == "truncated":
        files["train/n02/images/n02_2.JPEG"] = _jpeg(64, 64)[:-200]
        return files, r"n02_2.JPEG is a damaged image"
    if case == "empty class":
        for i in (0, 2, 10):
            del files[f"train/n02/images/n02_{i}.JPEG"]
        return files, "Class 'n02' has no images"
    if case == "strange class":
        files["train/n03/images/n03_0.JPEG"] = _jpeg(64, 64)
        return files, "train/n03 belongs to no known class"
    if case == "unknown wnid":
        files["val/val_annotations.txt"] = b"val_9.JPEG\tn09\t0\n"
        return files, "Line 1 of .*val_annotations.txt names no known class"
    if case == "missing image":
        del files["val/images/val_10.JPEG"]
        return files, "val_10.JPEG, named in line 1 of .* is missing"
    del files["words.txt"]
    return files, "words.txt is missing"


@pytest.mark.parametrize(
    "case",
    [
        "wrong size",
        "truncated",
        "empty class",
        "strange class",
        "unknown wnid",
        "missing image",
        "missing text",
    ],
)
def test_tiny_imagenet_with_a_fault(load, dirs, case):
    files, message = _bad_tiny(case)
    _write_folder(dirs[1] / "tiny-imagenet-200", files)
    with pytest.raises(data.DatasetError, match=message):
        load("tiny_imagenet")
    assert not list(dirs[0].glob("cache/*/1*"))
    assert not list(dirs[0].glob("cache/*/.*.tmp"))


def test_cifar10_jpeg(load, dirs):
    files = {}
    for split, count in (("train", 11), ("test", 2)):
        for name in ("cat", "dog"):
            for i in range(count):
                files[f"{split}/{name}/{i}.jpg"] = _jpeg(32, 32, seed=i)
    _write_folder(dirs[1] / "cifar10", files)
    dataset = load("cifar10_jpeg")
    assert dataset.class_names == ("cat", "dog")
    np.testing.assert_array_equal(dataset.train_labels, [0] * 11 + [1] * 11)
    expected = [_pixels(files[f"train/cat/{i}.jpg"]) for i in range(11)]
    np.testing.assert_array_equal(dataset.train_images[:11], expected)
    with pytest.raises(data.DatasetError, match="test split .* has 4 .* where 5 "):
        load("cifar10_jpeg", {"counts": (22, 5)}, size=8)


@pytest.mark.parametrize("form", ["tar", "folder"])
def test_imagenette_is_resized(load, dirs, form):
    files = {}
    for split in ("train", "val"):
        for label, name in enumerate(("n01", "n02")):
            for i in range(2):
                jpeg = _jpeg(48 + label, 64, seed=i)
                files[f"imagenette2/{split}/{name}/{name}_{i}.JPEG"] = jpeg
    if form == "tar":
        _write_tar(dirs[1] / "imagenette2.tgz", files)
    else:
        _write_folder(dirs[1], files)
    assert load("imagenette").image_shape == (224, 224, 3)
    leftover = dirs[0] / "tfds" / ".unpacked-d4a_imagenette-killed"
    leftover.mkdir()
    (dirs[0] / "tfds" / "d4a_imagenette" / "1.0.0").rename(leftover / "x")
    dataset = load("imagenette", size=24)
    assert dataset.image_shape == (24, 24, 3)
    jpeg = files["imagenette2/train/n01/n01_1.JPEG"]
    # The shorter side becomes 24, and then the center is cut out.
    whole = Image.open(io.BytesIO(jpeg)).resize((32, 24), Image.Resampling.BILINEAR)
    expected = np.asarray(whole)[:, 4:28]
    assert np.abs(dataset.train_images[1].astype(int) - expected).max() <= 1
    assert not list((dirs[0] / "tfds").glob(".unpacked*"))


def test_imagenet_subset(load, dirs):
    # Labels of the first validation images, from the official ground truth.
    wnids = ("n02105855", "n01751748")
    _write_tar(
        dirs[1] / "ILSVRC2012_img_val.tar",
        {f"ILSVRC2012_val_{i:08}.JPEG": _jpeg(20, 20, i) for i in (3, 2, 1)},
        "w",
    )
    inner = {}
    for wnid in (*wnids, "n09193705"):
        _write_tar(
            dirs[1] / f"{wnid}.tar",
            {f"{wnid}_{i}.JPEG": _jpeg(20, 20, i) for i in (10, 9)},
            "w",
        )
        inner[f"{wnid}.tar"] = (dirs[1] / f"{wnid}.tar").read_bytes()
    _write_tar(dirs[1] / "ILSVRC2012_img_train.tar", inner, "w")
    dataset = load("imagenet10", {"wnids": wnids}, size=20)
    assert dataset.class_names == wnids
    np.testing.assert_array_equal(dataset.train_labels, [0, 0, 1, 1])
    np.testing.assert_array_equal(dataset.train_images[0], _pixels(_jpeg(20, 20, 9)))
    np.testing.assert_array_equal(dataset.test_labels, [1, 0])
    np.testing.assert_array_equal(dataset.test_images[1], _pixels(_jpeg(20, 20, 3)))
    with pytest.raises(data.DatasetError, match="lacks the class 'n01'"):
        load("imagenet100", {"wnids": ("n02105855", "n01")}, size=20)


def test_imagenet_subsets_are_known_classes():
    path = tfds_core.tfds_path("datasets/imagenet2012/labels.txt")
    known = set(path.read_text().split())
    hundred = catalogue.SOURCES["imagenet100"].wnids
    assert len(set(hundred)) == 100
    assert set(hundred) <= known
    assert catalogue.SOURCES["imagenet10"].wnids == hundred[:10]


def test_copies_prepared_by_tfds_itself_are_used(load, dirs):
    images, labels = _write_cifar10(dirs[1])
    load("cifar10")
    # Only the name tells tfds's own copies from ours, and their files have no names.
    (dirs[0] / "tfds" / "d4a_cifar10").rename(dirs[0] / "tfds" / "cifar10")
    (dirs[1] / "cifar-10-binary.tar.gz").unlink()
    dataset = load("cifar10", {"wnids": ("cat", "bird")}, size=16)
    assert dataset.class_names == ("cat", "bird")
    rows = np.isin(labels[:20], [2, 3])
    np.testing.assert_array_equal(dataset.train_labels, 3 - labels[:20][rows])
    assert len(images) == 24


def test_what_is_missing_and_where_to_put_it(dirs, tmp_path):
    arguments = {"data_dir": dirs[0], "manual_dir": dirs[1]}
    with pytest.raises(data.DatasetError) as error:
        data.load_dataset("cifar10", download=False, **arguments)
    for part in ("cifar-10-binary.tar.gz", str(dirs[1]), "https://www.cs.toronto.edu"):
        assert part in str(error.value)
    with pytest.raises(
        data.DatasetError, match="ILSVRC2012_img_val.tar into .*image-n"
    ):
        data.load_dataset("imagenet10", **arguments)
    with pytest.raises(data.DatasetError, match="the unpacked folder cifar10 or"):
        data.load_dataset("cifar10_jpeg", **arguments)


def test_another_archive_is_refused(dirs):
    _write_cifar10(dirs[1])
    with pytest.raises(data.DatasetError, match=r"binary.tar.gz is damaged .* SHA-256"):
        data.load_dataset(
            "cifar10", data_dir=dirs[0], manual_dir=dirs[1], download=False
        )
    assert not list((dirs[0] / "tfds").glob("d4a_cifar10/*"))


def test_damaged_cifar(load, dirs):
    path = dirs[1] / "cifar-10-binary.tar.gz"
    _write_cifar10(dirs[1])
    path.write_bytes(path.read_bytes()[:30_000])
    with pytest.raises(data.DatasetError, match=f"{path} is damaged"):
        load("cifar10")
    path.write_bytes(b"")
    with pytest.raises(data.DatasetError, match=f"{path} is damaged"):
        load("cifar10")
    batch = "cifar-10-batches-bin/data_batch_2.bin"
    _write_cifar10(dirs[1], **{batch: b"\0" * 3072})
    with pytest.raises(data.DatasetError, match="data_batch_2.bin has 3072 bytes"):
        load("cifar10")
    _write_cifar10(dirs[1], **{batch: b"\x0b" + b"\0" * 3072})
    with pytest.raises(data.DatasetError, match="Image 0 of .* has the label 11"):
        load("cifar10")
    _write_tar(path, {"other.txt": b"x"})
    with pytest.raises(data.DatasetError, match="lacks its member cifar-10"):
        load("cifar10")


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:/evil"])
def test_members_outside_of_the_folder_are_refused(load, dirs, name):
    _write_cifar10(dirs[1], **{name: b"x"})
    with pytest.raises(data.DatasetError, match="is refused: its member .*evil"):
        load("cifar10")
    _write_zip(dirs[1] / "tiny-imagenet-200.zip", {name: b"x"})
    with pytest.raises(data.DatasetError, match="is refused: its member .*evil"):
        load("tiny_imagenet")
    _write_tar(dirs[1] / "imagenette2.tgz", {name: b"x"})
    with pytest.raises(data.DatasetError, match="is refused: its member .*evil"):
        load("imagenette")


def test_links_out_of_the_archive_are_refused(load, dirs):
    with tarfile.open(dirs[1] / "imagenette2.tgz", "w:gz") as tar:
        member = tarfile.TarInfo("imagenette2/train/n01/a.JPEG")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    with pytest.raises(data.DatasetError, match="imagenette2.tgz is refused"):
        load("imagenette")


def test_downloads(dirs, tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    images, _ = _write_cifar10(tmp_path / "home")
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=tmp_path / "home"
    )
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for variable in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    filename = "cifar-10-binary.tar.gz"
    url = f"http://127.0.0.1:{server.server_address[1]}/"
    source = catalogue.SOURCES["cifar10"]

    def offer(url):
        digest = fileio.sha256_file(tmp_path / "home" / filename)
        archives = (catalogue.Archive(filename, url, digest),)
        changed = dataclasses.replace(source, archives=archives, counts=None)
        monkeypatch.setitem(catalogue.SOURCES, "cifar10", changed)

    offer(url + "absent")
    with pytest.raises(data.DatasetError, match="cannot be downloaded from http"):
        data.load_dataset("cifar10", data_dir=dirs[0])
    offer(url + filename)
    dataset = data.load_dataset("cifar10", data_dir=dirs[0])
    np.testing.assert_array_equal(dataset.train_images, images[:20])
    server.shutdown()
    server.server_close()


_SCRIPT = """
import dataclasses, sys
from d4a_jax import data
from d4a_jax.storage import fileio
from d4a_jax.data import catalogue
data_dir, manual = sys.argv[1:]
source = catalogue.SOURCES["cifar10"]
archive = source.archives[0]
digest = fileio.sha256_file(f"{manual}/{archive.filename}")
archives = (dataclasses.replace(archive, sha256=digest),)
catalogue.SOURCES["cifar10"] = dataclasses.replace(
    source, archives=archives, counts=None)
dataset = data.load_dataset(
    "cifar10", data_dir=data_dir, manual_dir=manual, download=False)
print(dataset.fingerprint, *(
    name for name in ("tensorflow", "tensorflow_datasets") if name in sys.modules))
"""


def test_tensorflow_never_and_tfds_only_once(dirs):
    _write_cifar10(dirs[1])
    command = [sys.executable, "-c", _SCRIPT, *map(str, dirs)]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    outputs = [
        subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True
        ).stdout.split()
        for _ in range(2)
    ]
    # tfds writes its progress to the same stream.
    assert outputs[0][-1] == "tensorflow_datasets"
    assert outputs[1] == [outputs[0][-2]]

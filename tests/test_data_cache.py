"""Tests of the cache of decoded images, and of the real archives."""

import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d4a_jax import data
from d4a_jax.data import cache


def _noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _write(directory, count=6, **changes):
    images = _noise(6, 4, 5, 3)
    labels = np.arange(6) % 2
    split = cache.Split(count, (4, 5, 3), zip(images, labels, strict=True))
    test = cache.Split(6, (4, 5, 3), zip(images[::-1], labels, strict=True))
    splits = {"train": split, "test": test} | changes
    cache.write_cache(directory, "mine", ["a", "b"], splits, size=None)
    return images, labels


def test_what_is_written_is_read(tmp_path):
    directory = tmp_path / "deep" / "mine"
    images, labels = _write(directory)
    dataset = cache.open_cache(directory, flip=False)
    np.testing.assert_array_equal(dataset.train_images, images)
    np.testing.assert_array_equal(dataset.test_images, images[::-1])
    np.testing.assert_array_equal(dataset.train_labels, labels)
    assert isinstance(dataset.train_images, np.memmap)
    assert not dataset.train_images.flags.writeable
    assert not dataset.flip
    np.testing.assert_allclose(dataset.mean, (images / 255).mean((0, 1, 2)))
    cache.verify_cache(Path(dataset.train_images.filename).parent)
    _write(tmp_path / "again")
    again = cache.open_cache(tmp_path / "again", flip=True)
    assert again.fingerprint == dataset.fingerprint


@pytest.mark.parametrize(
    ("count", "message"), [(5, "but more could"), (7, "only 6 could be read")]
)
def test_a_wrong_number_of_images_leaves_nothing(tmp_path, count, message):
    with pytest.raises(data.DatasetError, match=message):
        _write(tmp_path / "mine", count=count)
    assert not list(tmp_path.iterdir())


def test_an_interrupted_writing_leaves_nothing_to_believe(tmp_path):
    def interrupted():
        yield _noise(4, 5, 3), 0
        raise KeyboardInterrupt

    split = cache.Split(6, (4, 5, 3), interrupted())
    with pytest.raises(KeyboardInterrupt):
        _write(tmp_path / "mine", test=split)
    assert not list(tmp_path.iterdir())
    # A process that was killed leaves its temporary directory.
    (tmp_path / ".mine.1-ab.tmp").mkdir()
    (tmp_path / ".other.1-ab.tmp").mkdir()
    cache.remove_leftovers(tmp_path / "mine")
    assert [path.name for path in tmp_path.iterdir()] == [".other.1-ab.tmp"]


def test_labels_are_checked(tmp_path):
    images = _noise(6, 4, 5, 3)
    for labels, message in (
        ([0, 2] * 3, "label 2"),
        ([0] * 6, "Class 'b' .* no train"),
    ):
        split = cache.Split(6, (4, 5, 3), zip(images, labels, strict=True))
        with pytest.raises(data.DatasetError, match=message):
            _write(tmp_path / "mine", train=split)


@pytest.mark.parametrize("name", ["train_images.npy", "test_labels.npy", "meta.json"])
def test_damaged_files_are_named(tmp_path, name):
    directory = tmp_path / "mine"
    _write(directory)
    path = directory / name
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(data.DatasetError, match=f"{path} .*; delete the folder"):
        cache.open_cache(directory, flip=True)
    path.unlink()
    with pytest.raises(data.DatasetError, match=f"{path} "):
        cache.open_cache(directory, flip=True)
    path.write_bytes(b"#" * len(whole))
    with pytest.raises(data.DatasetError, match=f"{path} cannot be read"):
        cache.open_cache(directory, flip=True)


def test_a_changed_pixel_is_found_by_verifying(tmp_path):
    directory = tmp_path / "mine"
    _write(directory)
    path = directory / "test_images.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    cache.open_cache(directory, flip=True)
    with pytest.raises(data.DatasetError, match=f"{path} has changed"):
        cache.verify_cache(directory)
    (directory / "meta.json").write_text(json.dumps({"name": "mine"}))
    with pytest.raises(data.DatasetError, match="lacks some of its entries"):
        cache.verify_cache(directory)


def test_damage_anywhere_in_a_cache_is_named_before_it_is_used(tmp_path):
    """Every file of the cache of an image folder, at random offsets."""
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            picture = Image.fromarray(_noise(6, 6, 3, seed=rng.integers(1000)))
            picture.save(tmp_path / "images" / name / f"{i}.png")
    arguments = {"path": tmp_path / "images", "data_dir": tmp_path, "verify": True}
    dataset = data.load_dataset("image_folder", **arguments)
    directory = Path(dataset.train_images.filename).parent
    for path in sorted(directory.iterdir()):
        whole = path.read_bytes()
        for cut in (False, True) * 6:
            place = rng.integers(len(whole))
            changed = bytearray(whole[:place] if cut else whole)
            if not cut:
                changed[place] ^= 1 << rng.integers(8)
            path.write_bytes(changed)
            with pytest.raises(data.DatasetError, match=f"{directory}.*delete the fol"):
                data.load_dataset("image_folder", **arguments)
        path.write_bytes(whole)
    found = data.load_dataset("image_folder", **arguments)
    np.testing.assert_array_equal(found.train_images, dataset.train_images)


def test_one_prepares_while_others_wait(tmp_path):
    order = []
    inside = threading.Event()

    def wait_for_it():
        inside.wait()
        with cache.exclusive(tmp_path / "mine"):
            order.append("second")

    thread = threading.Thread(target=wait_for_it)
    thread.start()
    with cache.exclusive(tmp_path / "mine"):
        inside.set()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


_REAL = {
    "cifar10_jpeg": (
        "cifar10",
        (50_000, 10_000),
        (32, 32, 3),
        (0.4913, 0.4821, 0.4465),
        (0.2452, 0.2428, 0.2606),
    ),
    "tiny_imagenet": (
        "tiny-imagenet-200",
        (100_000, 10_000),
        (64, 64, 3),
        (0.480, 0.448, 0.3975),
        (0.276, 0.269, 0.282),
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", _REAL)
def test_real_data(name, tmp_path):
    folder, counts, shape, mean, std = _REAL[name]
    manual = os.environ.get("D4A_MANUAL_DIR")
    if not manual or not (Path(manual) / folder).is_dir():
        pytest.skip(f"needs the folder {folder} in the directory D4A_MANUAL_DIR")
    data_dir = os.environ.get("D4A_DATA_DIR", tmp_path)
    dataset = data.load_dataset(name, data_dir=data_dir, manual_dir=manual)
    assert (len(dataset.train_labels), len(dataset.test_labels)) == counts
    assert dataset.image_shape == shape
    per_class = np.bincount(dataset.train_labels)
    assert set(per_class) == {counts[0] // dataset.num_classes}
    np.testing.assert_allclose(dataset.mean, mean, atol=6e-4)
    np.testing.assert_allclose(dataset.std, std, atol=6e-4)
    cache.verify_cache(Path(dataset.train_images.filename).parent)

"""Tests of image folders, .npz files and scikit-learn's digits."""

import io
import os
import zlib

import numpy as np
import pytest
from PIL import Image

from d4a_jax import data


def _noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


def _make_folder(root, splits=("train", "val"), classes=("ant", "bee"), count=3):
    expected = {}
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            for i in range(count):
                pixels = _noise(6, 6, 3, seed=1000 * s + 100 * c + i)
                _save(root / split / name / f"{i}.png", pixels)
                expected.setdefault(split, []).append(pixels)
    return expected


@pytest.fixture
def load(tmp_path):
    """Loads the image folder `tmp_path/images`."""

    def load_folder(**arguments):
        return data.load_dataset(
            "image_folder",
            path=tmp_path / "images",
            data_dir=tmp_path / "data",
            **arguments,
        )

    return load_folder


@pytest.mark.parametrize("test_split", ["test", "val", "validation"])
def test_folder_with_splits(load, tmp_path, test_split):
    root = tmp_path / "images"
    expected = _make_folder(root, ("train", test_split))
    for junk in (".DS_Store", "train/Thumbs.db", "train/ant/.DS_Store"):
        (root / junk).write_bytes(b"")
    dataset = load()
    np.testing.assert_array_equal(dataset.train_images, expected["train"])
    np.testing.assert_array_equal(dataset.test_images, expected[test_split])
    np.testing.assert_array_equal(dataset.train_labels, [0, 0, 0, 1, 1, 1])
    assert dataset.class_names == ("ant", "bee")
    assert dataset.name == "images"
    again = load()
    assert again.fingerprint == dataset.fingerprint
    _save(root / "train/ant/9.png", _noise(6, 6, 3, seed=999))
    assert len(load().train_labels) == 7


def test_folder_without_splits_holds_out_a_tenth(load, tmp_path):
    root = tmp_path / "images"
    _make_folder(root.parent, ("images",), count=20)
    dataset = load()
    assert np.bincount(dataset.train_labels).tolist() == [18, 18]
    assert np.bincount(dataset.test_labels).tolist() == [2, 2]
    images = np.concatenate([dataset.train_images, dataset.test_images])
    assert len(np.unique(images.reshape(len(images), -1), axis=0)) == 40
    for path in root.glob("*/*"):
        os.utime(path, (1, 1))
    np.testing.assert_array_equal(load().test_images, dataset.test_images)


def test_folder_of_greyscale_images_has_one_channel(load, tmp_path):
    root = tmp_path / "images"
    for i in range(8):
        _save(root / f"{'ab'[i % 2]}" / f"{i}.png", _noise(5, 7, seed=i))
    assert load().image_shape == (5, 7, 1)
    _save(root / "a" / "color.png", _noise(5, 7, 3))
    assert load().image_shape == (5, 7, 3)
    assert load(size=4).image_shape == (4, 4, 3)


def test_mixed_sizes_need_a_size(load, tmp_path):
    root = tmp_path / "images"
    _make_folder(root)
    _save(root / "val/bee/2.png", _noise(6, 9, 3))
    with pytest.raises(data.DatasetError) as error:
        load()
    for part in ("train/ant/0.png", "6 x 6", "val/bee/2.png", "6 x 9", "give size"):
        assert part in str(error.value)
    assert load(size=4).image_shape == (4, 4, 3)


def _cut_jpeg():
    buffer = io.BytesIO()
    Image.fromarray(_noise(6, 6, 3)).save(buffer, "JPEG")
    return buffer.getvalue()[:-30]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("train/ant/notes.txt", b"text", "train/ant/notes.txt is not an image"),
        ("train/ant/cut.jpg", _cut_jpeg(), "train/ant/cut.jpg is a damaged image"),
        ("train/ant/deep/a.png", b"x", "ant/deep does not belong here: images"),
        ("train/cow/.keep", b"", "Class 'cow' has no images in .*train/cow"),
        ("val/cow/a.png", b"x", "Class 'cow' has images in .*val, but none"),
        ("dog/a.png", b"x", "has the folder 'dog' beside train/ and val/"),
    ],
)
def test_files_that_do_not_belong_are_named(load, tmp_path, name, content, message):
    root = tmp_path / "images"
    _make_folder(root)
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_bytes(content)
    with pytest.raises(data.DatasetError, match=message):
        load()


def test_names_with_spaces_and_of_all_alphabets(load, tmp_path):
    root = tmp_path / "images"
    names = ("Größe 1", "a b  c", "猫", "%s {x}")
    for name in names:
        for file in ("bild ä.png", "写真 1.png", "weird%20\udcff.png"):
            _save(root / name / file, _noise(6, 6, 3))
    dataset = load()
    assert dataset.class_names == tuple(sorted(names))
    assert len(dataset.train_labels) == 8 and len(dataset.test_labels) == 4
    _save(root / "a\udcff" / "0.png", _noise(6, 6, 3))
    with pytest.raises(data.DatasetError, match="no text; rename it"):
        load()


def _bomb():
    """A PNG file of a few bytes that claims 100,000 x 100,000 pixels."""
    buffer = io.BytesIO()
    Image.fromarray(_noise(2, 2, 3)).save(buffer, "PNG")
    header = b"IHDR" + (100_000).to_bytes(4) * 2 + buffer.getvalue()[24:29]
    return b"".join(
        [
            buffer.getvalue()[:12],
            header,
            zlib.crc32(header).to_bytes(4),
            buffer.getvalue()[33:],
        ]
    )


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"text", "a.txt is not an image"),
        ("a.jpg", _cut_jpeg(), "a.jpg is a damaged image"),
        ("a.png", _bomb(), "a.png has too many pixels"),
        ("a.npy", b"\x93NUMPY", "a.npy is not an image"),
        ("a.gif", b"GIF89a" + bytes(20), "a.gif"),
    ],
)
@pytest.mark.parametrize("size", [None, 4])
def test_a_bad_file_leaves_no_cache(load, tmp_path, name, content, message, size):
    _make_folder(tmp_path / "images")
    (tmp_path / "images/val/bee" / name).write_bytes(content)
    with pytest.raises(data.DatasetError, match=message):
        load(size=size)
    found = (tmp_path / "data/cache/image_folder").iterdir()
    assert [path.name for path in found] == [".lock"]


def test_folders_that_cannot_be_split(load, tmp_path):
    root = tmp_path / "images"
    with pytest.raises(data.DatasetError, match="There is no folder"):
        load()
    root.mkdir()
    with pytest.raises(data.DatasetError, match="no class folders"):
        load()
    _make_folder(root, ("train",))
    with pytest.raises(data.DatasetError, match="none of test/, val/"):
        load()
    _save(root / "val/ant/0.png", _noise(6, 6, 3))
    with pytest.raises(data.DatasetError, match="Class 'bee' has no images in .*val"):
        load()
    _make_folder(tmp_path / "few", ("x",), count=1)
    with pytest.raises(data.DatasetError, match="only the image .*0.png"):
        data.load_dataset(
            "image_folder", path=tmp_path / "few/x", data_dir=tmp_path / "data"
        )
    _make_folder(tmp_path / "one", ("x",), classes=("ant",))
    with pytest.raises(data.DatasetError, match="at least 2"):
        data.load_dataset(
            "image_folder", path=tmp_path / "one/x", data_dir=tmp_path / "data"
        )


def test_links_out_of_the_folder_are_refused(load, tmp_path):
    root = tmp_path / "images"
    _make_folder(root)
    (root / "train/ant/same.png").symlink_to(root / "train/ant/0.png")
    assert len(load().train_labels) == 7
    _save(tmp_path / "outside/a.png", _noise(6, 6, 3))
    link = root / "train/ant/link.png"
    link.symlink_to(tmp_path / "outside/a.png")
    with pytest.raises(data.DatasetError, match="link.png is refused: it is a link"):
        load()
    link.unlink()
    (root / "train/cow").symlink_to(tmp_path / "outside")
    with pytest.raises(data.DatasetError, match="train/cow is refused: it is a link"):
        load()


def _npz_arrays():
    labels = np.arange(8) % 2
    images = _noise(8, 6, 6, 3)
    return {
        "train_images": images,
        "train_labels": labels,
        "test_images": images[::-1],
        "test_labels": labels[::-1],
    }


def test_npz_file(tmp_path):
    arrays = _npz_arrays()
    np.savez(tmp_path / "mine.npz", **arrays, class_names=np.array(["a", "b"]))
    dataset = data.load_dataset("arrays", path=tmp_path / "mine.npz")
    np.testing.assert_array_equal(dataset.train_images, arrays["train_images"])
    np.testing.assert_array_equal(dataset.test_labels, arrays["test_labels"])
    assert dataset.class_names == ("a", "b")
    assert dataset.name == "mine"
    small = data.load_dataset("arrays", path=tmp_path / "mine.npz", size=3)
    assert small.image_shape == (3, 3, 3)


def test_npz_file_without_splits_holds_out_a_tenth(tmp_path):
    labels = np.arange(40) % 2
    images = _noise(40, 6, 5, 1)
    np.savez(tmp_path / "mine.npz", images=images, labels=labels)
    dataset = data.load_dataset("arrays", path=tmp_path / "mine.npz")
    assert np.bincount(dataset.train_labels).tolist() == [18, 18]
    assert np.bincount(dataset.test_labels).tolist() == [2, 2]
    assert dataset.image_shape == (6, 5, 1)
    together = np.concatenate([dataset.train_images, dataset.test_images])
    assert sorted(map(bytes, together)) == sorted(map(bytes, images))
    expected = np.array([list(map(bytes, images)).index(bytes(i)) for i in together])
    found = np.concatenate([dataset.train_labels, dataset.test_labels])
    np.testing.assert_array_equal(labels[expected], found)
    again = data.load_dataset("arrays", path=tmp_path / "mine.npz")
    assert again.fingerprint == dataset.fingerprint


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": _noise(4, 6, 6, 1), "labels": [0, 1, 1]}, "one label per"),
        ({"images": _noise(4, 6, 6, 1), "labels": [0, 1, 1, 1]}, "Label 0 has only"),
        ({"images": _noise(4, 6, 6, 1)}, "'train_images'.*'images' and 'labels'"),
        ({"images": _noise(4, 6, 6, 1), "labels": [0, 0, -1, -1]}, "label -1"),
        (
            {"images": np.full((4, 6, 6, 1), np.nan), "labels": [0, 0, 1, 1]},
            "NaN or infinite values",
        ),
    ],
)
def test_npz_files_without_splits_that_cannot_be_used(tmp_path, arrays, message):
    np.savez(tmp_path / "mine.npz", **arrays)
    with pytest.raises(data.DatasetError, match=message):
        data.load_dataset("arrays", path=tmp_path / "mine.npz")


def test_npz_files_that_cannot_be_used(tmp_path):
    path = tmp_path / "mine.npz"

    def refused(message):
        with pytest.raises(data.DatasetError, match=message):
            data.load_dataset("arrays", path=path)

    refused("There is no file")
    path.write_bytes(b"PK\3\4 cut")
    refused("mine.npz cannot be read")
    arrays = _npz_arrays()
    np.savez(path, **arrays, class_names=np.array(["a", None], object))
    refused("mine.npz cannot be read .*allow_pickle")
    np.savez(path, **arrays, class_names=np.arange(2))
    refused("must be a list of strings")
    del arrays["test_labels"]
    np.savez(path, **arrays)
    refused("lacks the array 'test_labels'")
    with open(path, "wb") as file:
        np.save(file, np.zeros(3))
    refused("single array")


def test_damage_anywhere_in_an_npz_file_is_named_or_without_consequence(tmp_path):
    path, rng = tmp_path / "mine.npz", np.random.default_rng(0)
    arrays = _npz_arrays()
    np.savez(path, **arrays)
    whole, noticed = path.read_bytes(), 0
    for cut in (False, True, False) * 20:
        place = rng.integers(len(whole))
        changed = bytearray(whole[:place] if cut else whole)
        if not cut:
            changed[place] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        try:
            dataset = data.load_dataset("arrays", path=path)
        except data.DatasetError as error:
            noticed += str(path) in str(error)
        else:
            # Some bytes of a zip archive, such as times, mean nothing to the arrays.
            np.testing.assert_array_equal(dataset.train_images, arrays["train_images"])
            np.testing.assert_array_equal(dataset.test_labels, arrays["test_labels"])
    assert noticed > 40


def test_digits():
    pytest.importorskip("sklearn")
    dataset = data.load_dataset("digits")
    assert dataset.image_shape == (8, 8, 1)
    assert len(dataset.train_labels) + len(dataset.test_labels) == 1797
    counts = np.bincount(dataset.test_labels, minlength=10)
    assert counts.min() >= 34
    assert counts.max() <= 37
    assert dataset.train_images.max() == 255
    assert not dataset.flip
    assert data.load_dataset("digits").fingerprint == dataset.fingerprint
    small = data.load_dataset("digits", classes=3, size=16)
    assert small.image_shape == (16, 16, 1)
    assert small.num_classes == 3

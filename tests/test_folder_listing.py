"""Tests of folders as people have them: names, nesting, stray files, phones' photos."""

import io
import sys
import types

import numpy as np
import pytest
from PIL import ExifTags, Image

from d4a_jax import data
from d4a_jax.config import from_dict
from d4a_jax.data import decode
from experiments.run import plan


def _picture(seed, shape=(6, 6, 3)):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def _save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **options)


def _make(root, folders, count=2):
    """Saves `count` images to every folder; returns them by the folder's name."""
    made = {}
    for f, folder in enumerate(folders):
        made[folder] = [_picture(100 * f + i) for i in range(count)]
        for i, pixels in enumerate(made[folder]):
            _save(root / folder / f"{i}.png", pixels)
    return made


@pytest.fixture
def load(tmp_path):
    def load_folder(**arguments):
        return data.load_dataset(
            "image_folder",
            path=tmp_path / "x",
            data_dir=tmp_path / "data",
            **arguments,
        )

    return load_folder


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train", "test"),
        ("Train", "Test"),
        ("TRAIN", "VAL"),
        ("training", "testing"),
        ("Training", "Validation"),
        ("train", "valid"),
        ("outer/train", "outer/val"),
        ("archive 1/Train", "archive 1/Test"),
    ],
)
def test_split_folders_of_usual_names(load, tmp_path, train, test):
    folders = [f"{split}/{name}" for split in (train, test) for name in ("a", "b")]
    made = _make(tmp_path / "x", folders)
    dataset = load()
    assert dataset.class_names == ("a", "b") and dataset.name == "x"
    for split, images in ((train, dataset.train_images), (test, dataset.test_images)):
        expected = made[f"{split}/a"] + made[f"{split}/b"]
        np.testing.assert_array_equal(images, expected)
    nested = train.partition("/")[0] if "/" in train else None
    notes = (f"the images of its folder {nested}",) if nested else ()
    assert dataset.understood == notes


@pytest.mark.parametrize("folders", [("a", "b"), ("set/a", "set/b"), ("a/images", "b")])
def test_classes_without_splits(load, tmp_path, folders):
    _make(tmp_path / "x", folders, count=10)
    dataset = load()
    assert dataset.class_names == ("a", "b")
    assert len(dataset.train_labels) == 18 and len(dataset.test_labels) == 2


def test_a_class_may_be_named_as_a_split(load, tmp_path):
    _make(tmp_path / "x", ("Train", "bus", "car"))
    assert load().class_names == ("Train", "bus", "car")


def test_a_second_test_folder_is_not_used_and_said(load, tmp_path):
    names = [f"{split}/{c}" for split in ("train", "Test", "val") for c in "ab"]
    made = _make(tmp_path / "x", names)
    dataset = load()
    expected = made["Test/a"] + made["Test/b"]
    np.testing.assert_array_equal(dataset.test_images, expected)
    assert dataset.understood == ("tested on Test/; val/ not used",)


@pytest.mark.parametrize(
    ("folders", "message"),
    [
        (("train/a", "train/b"), "has train/ but none of test/, val/"),
        (("Training/a", "Training/b"), "has Training/ but none of test/, val/"),
        (("trn/a", "trn/b", "tst/a", "tst/b"), "trn/a does not .* training/. beside"),
        (("train/a", "Train/a", "test/a"), "folders Train and train; one of them"),
        ((), "no class folders .* expected are train/"),
    ],
)
def test_other_layouts_are_answered_with_the_names_expected(
    load, tmp_path, folders, message
):
    (tmp_path / "x").mkdir()
    _make(tmp_path / "x", folders)
    with pytest.raises(data.DatasetError, match=message):
        load()


def test_stray_files_are_skipped_and_named_once(load, tmp_path, caplog):
    root = tmp_path / "x"
    _make(root, ("train/a", "train/b", "test/a", "test/b"))
    fingerprint = load().fingerprint
    assert not caplog.text
    for name in ("notes.txt", "train/labels.csv", "test/Thumbs.db", "train/pic.png"):
        (root / name).write_bytes(b"text")
    assert load().fingerprint == fingerprint
    assert len(caplog.records) == 1
    text = caplog.text
    assert "notes.txt, train/labels.csv, train/pic.png" in text
    assert "Thumbs" not in text
    # Among the images a file that is none may be a damaged one.
    (root / "train/a/notes.txt").write_bytes(b"text")
    with pytest.raises(data.DatasetError, match="notes.txt is not an image"):
        load()


def test_many_stray_files_are_counted(load, tmp_path, caplog):
    _make(tmp_path / "x", ("a", "b"))
    for i in range(9):
        (tmp_path / "x" / f"{i}.txt").write_bytes(b"text")
    load()
    assert "0.txt, 1.txt, 2.txt, 3.txt, 4.txt and 4 more" in caplog.text


def test_chosen_classes_are_named_and_numbers_sort_as_text(load, tmp_path):
    _make(tmp_path / "x", [str(number) for number in range(12)])
    dataset = load(classes=(2, 3))
    assert dataset.class_names == ("10", "11")
    sorted_note, chosen = dataset.understood
    assert sorted_note == "class names sorted as text: 0, 1, 10, 11, 2 and 7 more"
    assert chosen == "the classes 10, 11"
    text = plan(from_dict({"network": "convnet:width=4"}), dataset, tmp_path)
    assert f"Read       {sorted_note}; {chosen}" in text


TURNS = {
    1: lambda x: x,
    2: np.fliplr,
    3: lambda x: np.rot90(x, 2),
    4: np.flipud,
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: np.rot90(x, -1),
    7: lambda x: np.rot90(x, 2).swapaxes(0, 1),
    8: lambda x: np.rot90(x, 1),
}


def _exif(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", TURNS)
def test_pictures_stand_as_exif_says(load, tmp_path, orientation, suffix):
    """As a viewer shows them, and as datasets of Hugging Face reads them."""
    smooth = np.add.outer(np.arange(32) * 4, np.arange(48) * 2).astype(np.uint8)
    pixels = np.stack([smooth, smooth // 2, 255 - smooth], axis=2)
    for name in ("a", "b"):
        for i in range(2):
            file = tmp_path / "x" / name / f"{i}.{suffix}"
            _save(file, pixels, exif=_exif(orientation))
    dataset = load()
    expected = TURNS[orientation](pixels)
    assert dataset.image_shape == expected.shape
    difference = dataset.train_images.astype(int) - expected
    assert np.abs(difference).max() <= (0 if suffix in ("png", "tif") else 16)
    # Pillow turns TIFF files itself, and always did.
    is_turned = orientation != 1 and suffix != "tif"
    note = ("4 images turned as their EXIF data say",) if is_turned else ()
    assert dataset.understood == note
    half = load(size=16)
    assert half.image_shape == (16, 16, 3) and half.understood == note


def test_the_fingerprint_tells_turned_images_and_only_those(load, tmp_path):
    for i in range(2):
        _save(tmp_path / "x" / "a" / f"{i}.png", _picture(i))
        _save(tmp_path / "x" / "b" / f"{i}.png", _picture(9 + i))
    # Of the same folder before images were turned, so that its runs continue.
    expected = "e77e51235a4cf36a550c6c7cf92b4fe2b112baaee16845306e7d0b4a6f90cac3"
    assert load().fingerprint == expected
    turned = np.rot90(_picture(0), 1)
    _save(tmp_path / "x" / "a" / "0.png", turned, exif=_exif(6))
    dataset = load()
    found = {bytes(dataset.train_images[0]), bytes(dataset.test_images[0])}
    assert found == {bytes(_picture(0)), bytes(_picture(1))}
    assert dataset.fingerprint != expected


def test_published_sets_are_read_without_a_turn():
    buffer, pixels = io.BytesIO(), _picture(0, (4, 6, 3))
    Image.fromarray(pixels).save(buffer, "PNG", exif=_exif(6))
    plain = decode.decode_image(buffer.getvalue(), "a.png", 3)
    np.testing.assert_array_equal(plain, pixels)
    turned = decode.decode_image(buffer.getvalue(), "a.png", 3, upright=True)
    np.testing.assert_array_equal(turned, np.rot90(pixels, -1))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_data_are_no_reason_to_refuse_an_image(load, tmp_path):
    for name in ("a", "b"):
        for i in range(2):
            file = tmp_path / "x" / name / f"{i}.jpg"
            _save(file, _picture(i), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")
    assert load().understood == ()


HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40)


def test_heic_needs_a_package_that_is_named(load, tmp_path, monkeypatch):
    decode._reads_heic.cache_clear()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    _make(tmp_path / "x", ("a", "b"))
    (tmp_path / "x" / "a" / "9.heic").write_bytes(HEIC)
    try:
        with pytest.raises(data.DatasetError, match="9.heic is a HEIC .* pillow-heif"):
            load()
    finally:
        decode._reads_heic.cache_clear()


def test_heic_is_read_where_the_package_is_there(monkeypatch):
    decode._reads_heic.cache_clear()
    package, registered = types.ModuleType("pillow_heif"), []
    package.register_heif_opener = lambda: registered.append(True)
    package.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "pillow_heif", package)
    try:
        # The stub reads nothing: Pillow's own answer shows that it was asked.
        with pytest.raises(data.DatasetError, match="not an image that can be read"):
            decode.open_image(HEIC, "a.heic")
    finally:
        decode._reads_heic.cache_clear()
    assert registered == [True]

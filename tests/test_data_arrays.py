"""Tests of arrays in the forms that people have them, through the library and files."""


import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from d4a_jax import data
from d4a_jax.config import from_dict
from experiments.run import plan

COUNT, CLASSES = 12, 3
PIXELS = np.random.default_rng(0).integers(0, 256, (COUNT, 6, 5, 3), np.uint8)
PIXELS[0, 0, 0], PIXELS[-1, -1, -1] = 0, 255
LABELS = np.arange(COUNT) % CLASSES
MEAN, STD = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.25])
NAMES = np.array(["cat", "ant", "bee"])
UNIT = PIXELS / np.float32(255)
GREY = PIXELS[..., :1]


def _read(images=PIXELS, labels=LABELS, **arguments):
    return data.from_arrays("mine", images, labels, images, labels, **arguments)


# Images as given, pixels as they must become, arguments, and what is noted.
IMAGES = {
    "uint8": (PIXELS, PIXELS, {}, None),
    "one channel": (GREY, GREY, {}, None),
    "[n, h, w]": (GREY[..., 0], GREY, {}, "one channel"),
    "[n, h, w] floats": (UNIT[..., 0], GREY, {}, "one channel"),
    "channels first": (PIXELS.transpose(0, 3, 1, 2), PIXELS, {}, "channels first"),
    "one channel first": (GREY.transpose(0, 3, 1, 2), GREY, {}, "channels first"),
    "float32": (UNIT, PIXELS, {}, None),
    "float64": (PIXELS / 255, PIXELS, {}, None),
    "float16": (UNIT.astype(np.float16), PIXELS, {}, None),
    "floats to 255": (PIXELS.astype(np.float32), PIXELS, {}, "pixels 0 to 255"),
    "fractions to 255": (
        np.maximum(PIXELS - 0.25, 0),
        PIXELS,
        {},
        "floats 0 to 254.75 as pixels 0 to 255",
    ),
    "overshoot": (UNIT + np.float32(1e-6), PIXELS, {}, None),
    "undershoot": (UNIT - np.float32(1e-6), PIXELS, {}, None),
    "int64": (PIXELS.astype(np.int64), PIXELS, {}, None),
    "bool": (GREY > 99, 255 * (GREY > 99), {}, "values 0 to 1"),
    "normalized": ((UNIT - MEAN) / STD, PIXELS, {"mean": MEAN, "std": STD}, "mean"),
    "normalized float32": (
        ((UNIT - MEAN) / STD).astype(np.float32),
        PIXELS,
        {"mean": tuple(MEAN), "std": tuple(STD)},
        "normalized by mean [0.5, 0.4, 0.3]",
    ),
    "normalized in 0..255": (
        (PIXELS - 255 * MEAN) / (255 * STD),
        PIXELS,
        {"mean": 255 * MEAN, "std": 255 * STD},
        "mean",
    ),
    "-1 to 1": (2 * UNIT - 1, PIXELS, {"mean": 0.5, "std": 0.5}, "mean"),
    "normalized, channels first": (
        ((UNIT - MEAN) / STD).transpose(0, 3, 1, 2),
        PIXELS,
        {"mean": MEAN, "std": STD},
        "channels first",
    ),
}


@pytest.mark.parametrize("form", IMAGES)
def test_images_of_every_form_become_the_same_pixels(form):
    images, expected, arguments, note = IMAGES[form]
    dataset = _read(images, **arguments)
    np.testing.assert_array_equal(dataset.train_images, expected)
    np.testing.assert_array_equal(dataset.test_images, expected)
    assert dataset.train_images.dtype == np.uint8
    text = "; ".join(dataset.understood)
    assert (note in text) if note else not text


# Labels as given, class names as given, class names as they must become, and the note.
LABEL_FORMS = {
    "integers": (LABELS, None, ("0", "1", "2"), None),
    "uint8": (LABELS.astype(np.uint8), None, ("0", "1", "2"), None),
    "(n, 1)": (LABELS[:, None], None, ("0", "1", "2"), None),
    "one-hot": (np.eye(CLASSES, dtype=int)[LABELS], None, ("0", "1", "2"), "one-hot"),
    "one-hot floats": (np.eye(CLASSES)[LABELS], "abc", ("a", "b", "c"), "one-hot"),
    "one-hot bool": (np.eye(3, dtype=bool)[LABELS], None, ("0", "1", "2"), "one-hot"),
    "from 1": (LABELS + 1, None, ("1", "2", "3"), "count from 1 to 3"),
    "from 1, uint8": ((LABELS + 1).astype(np.uint8), None, ("1", "2", "3"), "from 1"),
    "from 1, named": (LABELS + 1, "abc", ("a", "b", "c"), "count from 1 to 3"),
    "(n, 1) from 1": (LABELS[:, None] + 1, None, ("1", "2", "3"), "from 1 to 3"),
    "whole floats": (LABELS.astype(np.float32), None, ("0", "1", "2"), None),
    "strings": (NAMES[LABELS], None, ("ant", "bee", "cat"), "names: ant, bee, cat"),
    "bytes": (NAMES.astype("S")[LABELS], None, ("ant", "bee", "cat"), "class names"),
    "objects": (NAMES.astype(object)[LABELS], None, ("ant", "bee", "cat"), "names"),
    "strings (n, 1)": (NAMES[LABELS][:, None], None, ("ant", "bee", "cat"), "names"),
    "strings, named": (
        NAMES[LABELS],
        ["cat", "bee", "ant"],
        ("cat", "bee", "ant"),
        "names: cat, bee, ant",
    ),
    "numbers as strings": (
        np.array(["10", "9", "8"])[LABELS],
        None,
        ("8", "9", "10"),
        "names: 8, 9, 10",
    ),
}


def _meanings(form, labels, names):
    """The class name that each label stands for."""
    given = np.asarray(labels).reshape(COUNT, -1)
    given = given.argmax(1) if given.shape[1] > 1 else given[:, 0]
    if given.dtype.kind in "USO":
        return [x.decode() if isinstance(x, bytes) else x for x in given.tolist()]
    if names:
        return [names[int(x) - ("from 1" in form)] for x in given]
    return [str(int(x)) for x in given]


@pytest.mark.parametrize("form", LABEL_FORMS)
def test_labels_of_every_form_keep_their_meaning(form):
    labels, names, expected, note = LABEL_FORMS[form]
    dataset = _read(labels=labels, class_names=names)
    assert dataset.class_names == expected
    for found in (dataset.train_labels, dataset.test_labels):
        assert found.dtype == np.int32
        meant = [dataset.class_names[label] for label in found]
        assert meant == _meanings(form, labels, names)
    text = "; ".join(dataset.understood)
    assert (note in text) if note else not text


REFUSED_IMAGES = {
    "flat": (PIXELS.reshape(COUNT, -1)[:, :75], r"probably flat: reshape"),
    "flat 28 x 28": (np.zeros((COUNT, 784)), r"reshape them to \(-1, 28, 28, 1\)"),
    "flat CIFAR": (np.zeros((COUNT, 3072)), r"reshape them to \(-1, 32, 32, 3\)"),
    "number last": (PIXELS.transpose(1, 2, 3, 0), "number is probably last: np.move"),
    "RGBA": (np.zeros((COUNT, 6, 5, 4), np.uint8), "probably RGBA"),
    "volumes": (np.zeros((COUNT, 6, 6, 6), np.uint8), "probably volumes"),
    "video": (np.zeros((COUNT, 2, 6, 6, 3), np.uint8), "probably volumes or videos"),
    "-1 to 1": (2 * UNIT - 1, r"scaled to \[-1, 1\]: give mean=0.5 and std=0.5"),
    "normalized": ((UNIT - MEAN) / STD, "probably normalized: give mean and std"),
    "own scale": (UNIT * 16, "probably brightness up to 16: divide"),
    "many bits": (UNIT * 4095, "more than 8 bits: give them as integers"),
    "large overshoot": (UNIT + np.float32(0.01), r"in \[0, 1\]"),
    "infinite": (np.where(UNIT > 0.5, np.inf, UNIT), "NaN or infinite .* image 0"),
    "strings": (PIXELS.astype(str), "has dtype <U3"),
}


@pytest.mark.parametrize("form", REFUSED_IMAGES)
def test_images_of_uncertain_meaning_are_refused_with_the_likely_one(form):
    images, message = REFUSED_IMAGES[form]
    with pytest.raises(data.DatasetError, match=message):
        _read(images)


SOFT = np.full((COUNT, CLASSES), 1 / 3)
REFUSED_LABELS = {
    "soft": (SOFT, r"probably probabilities .* labels.argmax\(1\)"),
    "several": (np.ones((COUNT, CLASSES), int), "several labels each"),
    "none": (np.zeros((COUNT, CLASSES), int), "marks 0 classes for image 0"),
    "-1 and 1": (LABELS % 2 * 2 - 1, r"two classes: take \(labels > 0\)"),
    "gaps": (LABELS * 2, "'1' .* has no train images; labels count from 0"),
    "from 2": (LABELS + 2, "'0' .* has no train images; labels count from 0"),
    "large numbers": (LABELS * 10**6, "too few for one of each class"),
    "huge floats": (LABELS * 1e300, "too few|labels count from 0"),
    "fractions": (LABELS + 0.5, "float64; integers are needed"),
    "not finite": (np.where(LABELS == 1, np.nan, LABELS), "integers are needed"),
    "complex": (LABELS.astype(complex), "complex128; integers are needed"),
    "too many": (np.zeros(COUNT + 1, int), "one label per image"),
    "a map": (np.zeros((COUNT, 6, 5), int), "one label per image"),
    "a number": (np.array(3), "one label per image"),
    "mixed": (np.array(["a", 1] * 6, object), "1 beside strings"),
    "rows of strings": (np.array([["a", "b"]] * COUNT), "one label per image"),
}


@pytest.mark.parametrize("form", REFUSED_LABELS)
def test_labels_of_uncertain_meaning_are_refused_with_the_likely_one(form):
    labels, message = REFUSED_LABELS[form]
    with pytest.raises(data.DatasetError, match=message):
        _read(labels=labels)


def test_labels_from_one_are_read_so_in_both_splits_or_not_at_all():
    few = LABELS.copy()
    few[:] = 2
    dataset = data.from_arrays("mine", PIXELS, LABELS + 1, PIXELS, few)
    assert (dataset.test_labels == 1).all() and dataset.class_names[1] == "2"
    with pytest.raises(data.DatasetError, match="'0' .* has no train images"):
        data.from_arrays("mine", PIXELS, LABELS + 1, PIXELS, LABELS)
    # With a name for 0 the labels count from there.
    with pytest.raises(data.DatasetError, match="'zero' .* has no train images"):
        _read(labels=LABELS + 1, class_names=["zero", "a", "b", "c"])


def test_unknown_strings_in_the_test_split_are_named():
    wrong = NAMES[LABELS].copy()
    wrong[3] = "dog"
    with pytest.raises(data.DatasetError, match="test_labels has the label 'dog'; the"):
        data.from_arrays("mine", PIXELS, NAMES[LABELS], PIXELS, wrong)


@pytest.mark.parametrize(
    ("images", "arguments", "message"),
    [
        (PIXELS, {"mean": 0.5, "std": 0.5}, "only floats can be normalized"),
        (UNIT, {"mean": 0.5}, "mean and std belong together"),
        (UNIT, {"mean": [0.5] * 2, "std": 1.0}, "each of the 3 channels"),
        (UNIT, {"mean": 0.5, "std": 0.0}, "std must be positive"),
        (UNIT, {"mean": 0.5, "std": 2.0}, "probably normalized by others"),
    ],
)
def test_wrong_normalizations_are_refused(images, arguments, message):
    with pytest.raises(data.DatasetError, match=message):
        _read(images, **arguments)


def _save(path, **arrays):
    np.savez(path / "mine.npz", **arrays)
    return data.load_dataset("arrays", path=path / "mine.npz")


def _split(images, labels, names=("train_images", "train_labels")):
    test = [name.replace("train", "test") for name in names]
    return dict(zip((*names, *test), (images, labels, images, labels)))


def test_a_file_as_of_medmnist_works_as_it_is(tmp_path):
    """Keys, shapes and dtypes of pneumoniamnist.npz."""
    arrays = _split(GREY[..., 0], LABELS[:, None].astype(np.uint8))
    arrays |= {"val_images": GREY[..., 0], "val_labels": LABELS[:, None]}
    dataset = _save(tmp_path, **arrays)
    np.testing.assert_array_equal(dataset.train_images, GREY)
    np.testing.assert_array_equal(dataset.test_labels, LABELS)
    unused, layout = dataset.understood
    assert unused == "arrays not used: val_images, val_labels"
    text = plan(from_dict({"network": "convnet:width=4"}), dataset, tmp_path)
    assert f"Read       {unused}; {layout}" in text
    # Several diseases in one image, as in chestmnist.npz.
    several = np.ones((COUNT, 14), np.uint8)
    with pytest.raises(data.DatasetError, match="several labels each"):
        _save(tmp_path, **_split(GREY[..., 0], several))


def test_a_file_as_of_keras_works_as_it_is(tmp_path):
    arrays = _split(GREY[..., 0], LABELS.astype(np.uint8), ("x_train", "y_train"))
    dataset = _save(tmp_path, **arrays)
    np.testing.assert_array_equal(dataset.train_images, GREY)
    np.testing.assert_array_equal(dataset.train_labels, LABELS)


def test_a_file_may_hold_its_normalization(tmp_path):
    arrays = _split((UNIT - MEAN) / STD, LABELS) | {"mean": MEAN, "std": STD}
    dataset = _save(tmp_path, **arrays)
    np.testing.assert_array_equal(dataset.train_images, PIXELS)
    # Beside pixels they tell nothing.
    dataset = _save(tmp_path, **_split(PIXELS, LABELS), mean=MEAN, std=STD)
    np.testing.assert_array_equal(dataset.train_images, PIXELS)


@pytest.mark.parametrize("form", ["(n, 1)", "one-hot", "from 1", "strings"])
def test_files_without_splits_take_labels_of_every_form(tmp_path, form):
    labels, _, names, note = LABEL_FORMS[form]
    dataset = _save(tmp_path, images=PIXELS, labels=labels)
    assert dataset.class_names == names
    assert note is None or note in "; ".join(dataset.understood)
    images = np.concatenate([dataset.train_images, dataset.test_images])
    found = np.concatenate([dataset.train_labels, dataset.test_labels])
    places = [list(map(bytes, PIXELS)).index(bytes(image)) for image in images]
    meant = _meanings(form, labels, None)
    assert [names[label] for label in found] == [meant[place] for place in places]


def test_resized_arrays_keep_what_was_understood(tmp_path):
    np.savez(tmp_path / "mine.npz", **_split(GREY[..., 0].astype(int) * 16, LABELS))
    dataset = data.load_dataset("arrays", path=tmp_path / "mine.npz", size=4)
    assert dataset.image_shape == (4, 4, 1)
    assert dataset.pixel_range == (0, 4080) and len(dataset.understood) == 2


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(st.data())
def test_any_forms_together_keep_pixels_and_labels(draw):
    """Any layout with any values, labels, number of classes, channels and sides."""
    choose = lambda *choices: draw.draw(st.sampled_from(choices))
    channels, classes = choose(1, 3), draw.draw(st.integers(2, 5))
    height, width = draw.draw(st.integers(4, 7)), draw.draw(st.integers(4, 7))
    seed = draw.draw(st.integers(0, 2**16))
    rng, count = np.random.default_rng(seed), 2 * classes + 1
    pixels = rng.integers(0, 256, (count, height, width, channels), np.uint8)
    pixels[0, 0, 0], pixels[-1, -1, -1] = 0, 255
    labels = rng.permutation(np.arange(count) % classes)
    mean, std = rng.uniform(0.1, 0.9, channels), rng.uniform(0.1, 1, channels)
    values = {
        "pixels": lambda x: x,
        "integers": lambda x: x.astype(choose(np.int16, np.int64, np.uint32)),
        "12 bits": lambda x: x.astype(np.uint16) * 16,
        "unit": lambda x: (x / 255).astype(choose(np.float32, np.float64)),
        "floats": lambda x: x.astype(np.float32),
        "normalized": lambda x: ((x / 255 - mean) / std).astype(np.float32),
    }
    value = choose(*values)
    images = values[value](pixels)
    layout = choose("last", "first", *(["none"] if channels == 1 else []))
    images = {
        "last": lambda x: x,
        "first": lambda x: np.moveaxis(x, -1, 1),
        "none": lambda x: x[..., 0],
    }[layout](images)
    names = np.array([f"class {label}" for label in range(classes)])
    given_labels = {
        "integers": labels,
        "column": labels[:, None],
        "one-hot": np.eye(classes)[labels],
        "from 1": labels + 1,
        "strings": names[labels],
    }[choose("integers", "column", "one-hot", "from 1", "strings")]
    arguments = {"mean": mean, "std": std} if value == "normalized" else {}
    dataset = data.from_arrays(
        "any", images, given_labels, images, given_labels, list(names), **arguments
    )
    np.testing.assert_array_equal(dataset.train_images, pixels)
    np.testing.assert_array_equal(dataset.train_labels, labels)
    assert dataset.class_names == tuple(names)
    plain = data.from_arrays("any", pixels, labels, pixels, labels, list(names))
    assert dataset.fingerprint == plain.fingerprint



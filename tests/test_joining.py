"""Tests of d4a_jax.artifact.joining and taking."""

import dataclasses

import numpy as np
import pytest

import d4a_jax
from d4a_jax import artifact
from d4a_jax.artifact import ArtifactError
from d4a_jax.artifact.joining import append, join
from d4a_jax.artifact.taking import take


def _make(names, sizes=(2, 1), factor=1, seed=0, learned=False, **metadata):
    """Images whose pixels tell (seed, class, place)."""
    labels = np.concatenate([np.repeat(np.arange(len(names)), n) for n in sizes])
    segments = np.repeat(np.arange(len(sizes)), np.multiply(sizes, len(names)))
    images = np.zeros((len(labels), 4, 4, 3), np.uint8)
    images[..., 0], images[..., 1] = seed, labels[:, None, None]
    images[..., 2] = np.arange(len(labels))[:, None, None]
    logits = None
    if learned:
        shape = (len(labels) * factor**2, len(names))
        logits = np.random.default_rng(seed).normal(size=shape).astype(np.float16)
    values = {
        "dataset": "toy", "class_names": list(names), "mean": [0.5] * 3,
        "std": [0.25] * 3, "factor": factor, "segment_sizes": list(sizes),
        "images_per_class": sum(sizes), "history": [{"segment": 1}], "seed": seed,
    }  # fmt: skip
    return artifact.DistilledDataset(
        images, labels.astype(np.int32), segments.astype(np.int32),
        values | metadata, label_logits=logits,
    )  # fmt: skip


def _softmax(logits):
    values = np.exp(logits.astype(np.float64))
    return values / values.sum(axis=-1, keepdims=True)


def _by_tile(distilled):
    """Labels of the tiles `[tiles, n, classes]` as probabilities."""
    shape = (distilled.factor**2, len(distilled.labels), distilled.num_classes)
    return _softmax(distilled.label_logits).reshape(shape)


# join


def _config(classes, **more):
    return {"data": {"name": "toy", "size": 4, "classes": classes}} | more


def test_disjoint_classes_are_joined(tmp_path):
    first = _make(("a", "b"), seed=1, config=_config([0, 1], network="convnet", seed=3))
    second = _make(("c",), seed=2, mean=[0.2] * 3, std=[0.1] * 3,
                   config=_config([5], network="convnet", seed=4))  # fmt: skip
    joint = d4a_jax.join_distilled([first, second])
    assert joint.metadata["class_names"] == ["a", "b", "c"]
    assert joint.labels.tolist() == [0, 0, 1, 1, 0, 1, 2, 2, 2]
    assert joint.segments.tolist() == [0, 0, 0, 0, 1, 1, 0, 0, 1]
    np.testing.assert_array_equal(joint.images[:6], first.images)
    np.testing.assert_array_equal(joint.images[6:], second.images)
    prefix = joint.prefix(1)
    assert np.bincount(prefix.labels).tolist() == [2, 2, 2]
    assert prefix.metadata["images_per_class"] == 2
    assert joint.metadata["segment_sizes"] == [2, 1]
    # Two classes of mean 0.5 and std 0.25, one of 0.2 and 0.1.
    np.testing.assert_allclose(joint.metadata["mean"], [0.4] * 3)
    variance = (2 * (0.25**2 + 0.5**2) + 0.1**2 + 0.2**2) / 3 - 0.4**2
    np.testing.assert_allclose(joint.metadata["std"], [np.sqrt(variance)] * 3)
    assert joint.metadata["config"] == _config([0, 1, 5], network="convnet")
    assert "history" not in joint.metadata
    assert [p["seed"] for p in joint.metadata["joined"]] == [1, 2]
    assert [p["images"] for p in joint.metadata["joined"]] == [6, 3]
    artifact.save_distilled(tmp_path / "a", joint)
    assert artifact.same_distilled(artifact.load_distilled(tmp_path / "a"), joint)


def test_pooled_statistics_are_those_of_the_joint_data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 4, 4, 3)).astype(np.uint8)
    images[20:] //= 3
    labels = np.repeat(np.arange(4), 10)
    data = d4a_jax.from_arrays("toy", images, labels, images, labels)
    from d4a_jax.data.dataset import select_classes

    halves = [select_classes(data, classes) for classes in ((0, 1), (2, 3))]
    sets = [
        _make(h.class_names, mean=list(h.mean), std=list(h.std)) for h in halves
    ]  # fmt: skip
    joint = join(sets)
    np.testing.assert_allclose(joint.metadata["mean"], data.mean)
    np.testing.assert_allclose(joint.metadata["std"], data.std)


def test_sets_of_other_lengths_are_joined_without_sizes_of_segments():
    joint = join([_make(("a",), (1,)), _make(("b",), (2, 1))])
    assert joint.num_segments == 2
    assert "segment_sizes" not in joint.metadata
    assert "images_per_class" not in joint.metadata


@pytest.mark.parametrize("factor", [1, 2])
def test_joined_learned_labels_exclude_the_other_classes(factor):
    learned = _make(("a", "b"), factor=factor, learned=True)
    joint = join([learned, _make(("c",), factor=factor)])
    tiles = _by_tile(joint)
    np.testing.assert_allclose(tiles[:, :6, :2], _by_tile(learned), atol=1e-6)
    assert (tiles[:, :6, 2] == 0).all()
    np.testing.assert_array_equal(tiles[:, 6:], np.tile([0, 0, 1], (factor**2, 3, 1)))
    assert join([_make(("a",)), _make(("b",))]).label_logits is None


def _with_soft(distilled, epochs=2, temperature=4.0):
    count = len(distilled.labels) * distilled.factor**2
    rng = np.random.default_rng(len(distilled.labels))
    shape = (epochs, count, distilled.num_classes)
    return dataclasses.replace(
        distilled,
        metadata=distilled.metadata | {"temperature": temperature},
        soft_logits=rng.normal(size=shape).astype(np.float16),
        soft_crops=rng.integers(0, 4, (epochs, count, 4)).astype(np.int16),
    )


@pytest.mark.parametrize(
    "sets, message",
    [
        ([_make(("a",))], "1 set is given; at least 2"),
        ([_make(("a",)), _make(("b", "a"))], "class 'a' is in more than one"),
        ([_make(("a",)), _make(("b",), factor=2)], "the factor 1, but set 2 2"),
        ([_make(("a",)), _with_soft(_make(("b",)))], "soft labels of a teacher"),
    ],
)
def test_what_cannot_be_joined_is_refused(sets, message):
    with pytest.raises(ArtifactError, match=message):
        join(sets)


# append


def test_the_same_classes_are_appended_as_later_segments():
    first = _make(("a", "b"), (2, 1), seed=1, dataset_fingerprint="f")
    second = _make(("b", "a"), (3,), seed=2, dataset_fingerprint="f")
    joint = d4a_jax.append_distilled([first, second])
    assert joint.metadata["class_names"] == ["a", "b"]
    assert joint.segments.tolist() == [0] * 4 + [1] * 2 + [2] * 6
    # The second set calls b 0 and a 1.
    assert joint.labels[6:].tolist() == [1, 1, 1, 0, 0, 0]
    np.testing.assert_array_equal(joint.images[6:], second.images)
    assert joint.metadata["segment_sizes"] == [2, 1, 3]
    assert joint.metadata["images_per_class"] == 6
    assert joint.metadata["dataset_fingerprint"] == "f"
    np.testing.assert_array_equal(joint.prefix(2).images, first.images)
    np.testing.assert_array_equal(joint.prefix(2).labels, first.labels)


@pytest.mark.parametrize("factor", [1, 2])
def test_appended_learned_labels_follow_the_names(factor):
    first = _make(("a", "b"), factor=factor)
    second = _make(("b", "a"), factor=factor, learned=True)
    tiles = _by_tile(append([first, second]))
    np.testing.assert_array_equal(
        tiles[:, :6], np.tile(np.eye(2)[first.labels], (factor**2, 1, 1))
    )
    np.testing.assert_allclose(tiles[:, 6:], _by_tile(second)[..., ::-1], atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2])
def test_a_teachers_labels_are_appended_by_tile(factor):
    first = _with_soft(_make(("a", "b"), (1,), factor))
    second = _with_soft(_make(("b", "a"), (2,), factor))
    joint = append([first, second])
    shape = (2, factor**2, 6)
    crops = joint.soft_crops.reshape(*shape, 4)
    np.testing.assert_array_equal(
        crops[:, :, :2], first.soft_crops.reshape(2, factor**2, 2, 4)
    )
    logits = joint.soft_logits.reshape(*shape, 2)
    np.testing.assert_array_equal(
        logits[:, :, 2:], second.soft_logits.reshape(2, factor**2, 4, 2)[..., ::-1]
    )
    assert joint.metadata["temperature"] == 4.0
    for other in (_make(("a", "b")), _with_soft(_make(("a", "b")), 3)):
        with pytest.raises(ArtifactError, match="as many epochs"):
            append([_with_soft(_make(("a", "b"))), other])


def test_what_cannot_be_appended_is_refused():
    with pytest.raises(ArtifactError, match="class 'c' is not in all of the sets"):
        append([_make(("a", "b")), _make(("a", "b", "c"))])
    prints = [_make(("a",), dataset_fingerprint=text) for text in "fg"]
    with pytest.raises(ArtifactError, match="distilled from different data"):
        append(prints)


# take


@pytest.mark.parametrize("classes", [[2, 0], ["c", "a"]])
def test_classes_are_taken_in_the_order_given(classes):
    whole = _make(
        ("a", "b", "c"), learned=True, factor=2, config=_config([4, 7, 9]),
        dataset_fingerprint="f", source={"name": "toy", "classes": None},
    )  # fmt: skip
    found = d4a_jax.take_distilled(whole, classes=classes)
    assert found.metadata["class_names"] == ["c", "a"]
    rows = np.flatnonzero(whole.labels != 1)
    np.testing.assert_array_equal(found.images, whole.images[rows])
    assert found.labels.tolist() == [1, 1, 0, 0, 1, 0]
    assert found.segments.tolist() == [0, 0, 0, 0, 1, 1]
    own = _by_tile(whole)[:, rows][..., [2, 0]]
    np.testing.assert_allclose(
        _by_tile(found), own / own.sum(axis=-1, keepdims=True), rtol=1e-4
    )
    metadata = found.metadata
    assert metadata["config"]["data"]["classes"] == [9, 4]
    assert metadata["source"]["classes"] == [2, 0]
    assert metadata["segment_sizes"] == [2, 1]
    assert metadata["taken_from"]["dataset_fingerprint"] == "f"
    assert not {"dataset_fingerprint", "history"} & metadata.keys()
    assert whole.metadata["config"]["data"]["classes"] == [4, 7, 9]


@pytest.mark.parametrize(
    "count, sizes", [(1, [1]), (2, [2]), (3, [2, 1]), (4, [2, 2]), (9, [2, 3])]
)
def test_the_first_images_of_each_class_are_taken(count, sizes):
    whole = _with_soft(_make(("a", "b"), (2, 3), factor=2, dataset_fingerprint="f"))
    found = take(whole, images_per_class=count)
    assert found.metadata["segment_sizes"] == sizes
    assert found.metadata["images_per_class"] == sum(sizes)
    assert found.metadata["dataset_fingerprint"] == "f"
    assert np.bincount(found.labels).tolist() == [sum(sizes)] * 2
    assert found.num_segments == len(sizes)
    rows = found.images[:, 0, 0, 2]
    np.testing.assert_array_equal(found.images, whole.images[rows])
    tiles = whole.soft_crops.reshape(2, 4, 10, 4)[:, :, rows].reshape(2, -1, 4)
    np.testing.assert_array_equal(found.soft_crops, tiles)
    if count == 2:
        assert artifact.same_distilled(
            found, dataclasses.replace(whole.prefix(1), metadata=found.metadata)
        )


def test_joining_undoes_taking():
    whole = _make(("a", "b", "c"), config=_config(None))
    parts = [take(whole, [label]) for label in range(3)]
    joint = join(parts)
    for label in range(3):
        np.testing.assert_array_equal(
            joint.images[joint.labels == label], whole.images[whole.labels == label]
        )
    assert joint.metadata["config"]["data"]["classes"] == [0, 1, 2]
    assert joint.metadata["segment_sizes"] == whole.metadata["segment_sizes"]


@pytest.mark.parametrize(
    "options, message",
    [
        ({"classes": [3]}, "classes has 3; names of the set, or 0 to 2"),
        ({"classes": ["d"]}, "classes has 'd'"),
        ({"classes": [1, "b"]}, "different ones are needed"),
        ({"classes": []}, "different ones are needed"),
        ({"images_per_class": 0}, "images_per_class is 0; it must be at least 1"),
    ],
)
def test_what_cannot_be_taken_is_refused(options, message):
    with pytest.raises(ArtifactError, match=message):
        take(_make(("a", "b", "c")), **options)

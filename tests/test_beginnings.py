"""Which real images a segment begins with, on cases worked out by hand."""

import logging

import jax
import numpy as np
import pytest

from d4a_jax import from_arrays
from d4a_jax.config import SyntheticConfig, from_dict
from d4a_jax.devices.parallel import make_layout, spread
from d4a_jax.distillation import distill, segments
from d4a_jax.distillation.segments import initial_pixels, pixel_learning_rate
from d4a_jax.methods import Task
from d4a_jax.real_data import RealData, spread_pool
from d4a_jax.selection.baselines import random_images
from d4a_jax.selection.beginnings import (
    correct_first,
    describe_short_classes,
    difficulty_window,
    frozen_images,
)

KEPT = np.array([[True, True, False, True, True], [True, False, True, False, False]])


def test_correct_images_are_the_candidates():
    right = np.array([[0.2, 1.0, 1.0, 0.6, 0.7], [0.3, 1.0, 0.9, 1.0, 1.0]])
    positions, counts = correct_first(KEPT, right, 1)
    assert positions[0, :3].tolist() == [1, 4, 3] and positions[1, 0] == 2
    assert counts.tolist() == [3, 1]
    assert positions.dtype == counts.dtype == np.int32


def test_too_few_correct_images_are_filled_up_by_the_best_of_the_others():
    right = np.array([[0.2, 0.4, 1.0, 0.1, 0.7], [0.3, 1.0, 0.0, 1.0, 1.0]])
    positions, counts = correct_first(KEPT, right, 3)
    assert positions[0, :3].tolist() == [4, 1, 0] and counts.tolist() == [3, 2]
    # What the filter discarded stays out, however right the experts are.
    assert set(positions[1, :2].tolist()) == {0, 2}


@pytest.mark.parametrize(
    "skipped, needed, first, second",
    [
        (0, 2, [4, 1], [2, 0]),
        (1, 2, [1, 3], [2, 0]),
        (2, 2, [3, 0], [2, 0]),
        (9, 2, [3, 0], [2, 0]),
        (1, 1, [1], [0]),
        (1, 4, [4, 1, 3, 0], [2, 0]),
    ],
)
def test_window_skips_the_hardest_as_far_as_there_are_others(
    skipped, needed, first, second
):
    difficulty = np.array([[1.0, 3.0, 9.0, 2.0, 4.0], [1.0, 9.0, 2.0, 9.0, 9.0]])
    positions, counts = difficulty_window(KEPT, difficulty, skipped, needed)
    assert positions[0, : counts[0]].tolist() == first
    assert positions[1, : counts[1]].tolist() == second


@pytest.mark.parametrize(
    "share, size, frozen", [(0.0, 5, 0), (0.4, 5, 2), (0.4, 1, 0), (1.0, 5, 4)]
)
def test_never_all_images_are_frozen(share, size, frozen):
    assert frozen_images(SyntheticConfig(frozen_share=share), size) == frozen


@pytest.mark.parametrize("init", ["window", "correct"])
def test_first_pixels_are_those_of_the_candidates(init):
    """Every image has its own gray; a window is taken in order, others are drawn."""
    layout = make_layout(1)
    grays = np.arange(10, dtype=np.uint8).reshape(2, 5, 1, 1, 1) * 20
    images = np.broadcast_to(grays, (2, 5, 4, 4, 1))
    data = RealData(*spread(layout, (images, np.arange(2), np.array([5, 5]))))
    order = np.array([[3, 1, 0, 2, 4], [4, 0, 1, 2, 3]], np.int32)
    beginning = spread_pool(order, np.array([2, 2], np.int32), layout)
    task = Task(data, None, None, None, beginning, None)
    config = from_dict({"synthetic": {"factor": 1, "init": init}})
    pixels = initial_pixels(jax.random.key(0), task, 2, config, layout)
    found = np.rint(np.asarray(pixels)[:, :, 0, 0, 0] * 255).astype(int) // 20
    if init == "correct":
        assert [sorted(row) for row in found.tolist()] == [[1, 3], [5, 9]]
    else:
        assert found.tolist() == [[3, 1], [9, 5]]


def test_learning_rate_without_scaling_is_the_base():
    config = from_dict(
        {"matching": {"learning_rate": 7.0, "learning_rate_scaling": "none"}}
    )
    assert pixel_learning_rate(config, 3, 64) == 7.0


@pytest.mark.parametrize("init", ["real", "window"])
@pytest.mark.parametrize("factor", [1, 2])
def test_copies_differ_and_all_others_stay_as_they_are(monkeypatch, init, factor):
    """Class 0 has half of the images that are needed, class 1 has enough."""
    layout, count = make_layout(1), 2 * factor**2
    images = np.random.default_rng(0).integers(60, 200, (2, 8, 4, 4, 1), np.uint8)
    available = np.array([count // 2, 8], np.int32)
    data = RealData(*spread(layout, (images, np.arange(2), available)))
    order = np.tile(np.arange(8, dtype=np.int32), (2, 1))
    beginning = spread_pool(order, available, layout)
    task = Task(data, None, None, None, beginning, None)
    config = from_dict({"synthetic": {"factor": factor, "init": init}})
    make = lambda: initial_pixels(jax.random.key(0), task, 2, config, layout)
    pixels = np.asarray(make())
    monkeypatch.setattr(segments, "vary_copies", lambda key, images, available: images)
    plain = np.asarray(make())
    np.testing.assert_array_equal(pixels[1], plain[1])
    if factor == 1:
        np.testing.assert_array_equal(plain[0, 0], plain[0, 1])
    moved = np.abs(pixels[0] - plain[0])
    assert (moved > 0).mean() == pytest.approx(0.5)
    assert moved.max() < 0.1
    stored = np.asarray(segments.finish(pixels[0]))
    assert not np.array_equal(stored[0], stored[1])


def _short_dataset():
    """Class "rare" has 2 images, class "common" has 10."""
    images = np.random.default_rng(0).integers(60, 200, (12, 8, 8, 1), np.uint8)
    labels = np.array([0, 0] + [1] * 10)
    names = ["rare", "common"]
    return from_arrays("short", images, labels, images, labels, class_names=names)


def _short_config(count, **synthetic):
    return from_dict(
        {
            "network": "convnet:width=4:depth=1",
            "synthetic": {"images_per_class": count, "segments": 1, "factor": 1}
            | synthetic,
            "matching": {
                "learning_rate": 1e-4,
                "outer_iterations": 1,
                "inner_iterations": 2,
                "batch_real": 4,
                "augmentation": "color",
            },
            "network_training": {"augmentation": "color", "images_per_step": 4},
            "evaluation": {"enabled": False},
            "filter": {"enabled": False},
        }
    )


def test_a_class_of_two_images_gives_eight_different_ones(caplog):
    with caplog.at_level(logging.WARNING, "d4a_jax"):
        distilled = distill(_short_dataset(), _short_config(8))
    assert "8 real images are taken, but class 'rare' has 2;" in caplog.text
    assert "noise" in caplog.text and "common" not in caplog.text
    for label in (0, 1):
        own = distilled.images[distilled.labels == label]
        assert len(np.unique(own.reshape(8, -1), axis=0)) == 8


@pytest.mark.parametrize(("count", "init"), [(2, "real"), (8, "noise")])
def test_nothing_is_said_where_classes_have_enough_images(caplog, count, init):
    with caplog.at_level(logging.WARNING, "d4a_jax"):
        distill(_short_dataset(), _short_config(count, init=init))
    assert not caplog.text


def test_selected_images_that_come_again_are_a_warning(caplog):
    random_images(_short_dataset(), 2)
    assert not caplog.text
    random_images(_short_dataset(), [2, 1])
    assert "3 real images are taken, but class 'rare' has 2; images are" in caplog.text


def test_many_short_classes_are_counted():
    names = [f"c{i}" for i in range(8)]
    text = describe_short_classes(np.arange(1, 9), names, 8)
    assert "'c0' has 1, 'c1' has 2" in text and "'c5'" not in text
    assert "and 2 more classes" in text
    assert describe_short_classes(np.full(8, 8), names, 8) is None

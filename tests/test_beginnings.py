"""Which real images a segment begins with, on cases worked out by hand."""

import jax
import numpy as np
import pytest

from d4a_jax.config import SyntheticConfig, from_dict
from d4a_jax.devices.parallel import make_layout, spread
from d4a_jax.distillation.segments import initial_pixels, pixel_learning_rate
from d4a_jax.methods import Task
from d4a_jax.real_data import RealData, spread_pool
from d4a_jax.selection.beginnings import correct_first, difficulty_window, frozen_images

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

"""Grouping of the real set by class, and drawing from the part that is matched."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import chex
import jax
import numpy as np
import pytest

from d4a_jax import real_data
from d4a_jax.devices.parallel import make_layout

LABELS = np.array([2, 0, 1, 0, 2, 0, 2, 2], np.int32)
# Every pixel of an image is its row number.
IMAGES = np.tile(np.arange(8, dtype=np.uint8)[:, None, None, None], (1, 2, 2, 1))


def _layout(devices):
    if jax.device_count() < devices:
        pytest.skip(f"needs {devices} (fake) devices")
    return make_layout(devices)


@pytest.fixture(scope="module")
def index():
    return real_data.index_classes(LABELS, 3)


def test_index_groups_rows_in_their_order(index):
    np.testing.assert_array_equal(index.counts, [3, 1, 4])
    np.testing.assert_array_equal(
        index.rows, [[1, 3, 5, 1], [2, 2, 2, 2], [0, 4, 6, 7]]
    )
    np.testing.assert_array_equal(index.valid.sum(1), index.counts)
    assert index.rows.dtype == np.int64 and index.counts.dtype == np.int32


@pytest.mark.parametrize("trailing", [(), (2,)])
@pytest.mark.parametrize("dtype", [np.float32, bool])
def test_round_trip_of_values(index, trailing, dtype):
    values = np.random.default_rng(0).normal(size=(8, *trailing)).astype(dtype)
    grouped = index.to_classes(values)
    chex.assert_shape(grouped, (3, 4, *trailing))
    back = index.to_rows(grouped)
    np.testing.assert_array_equal(back, values)
    assert back.dtype == dtype


def test_padding_never_reaches_the_data_sets_order(index):
    grouped = index.to_classes(np.arange(8))
    grouped[~index.valid] = 99
    np.testing.assert_array_equal(index.to_rows(grouped), np.arange(8))


def test_round_trip_of_many_uneven_classes():
    labels = np.random.default_rng(1).integers(0, 7, 200)
    index = real_data.index_classes(labels, 7)
    np.testing.assert_array_equal(index.to_rows(index.to_classes(labels)), labels)
    grouped = index.to_classes(labels)
    assert (grouped == np.arange(7)[:, None]).all()


def test_a_class_without_images_is_refused():
    with pytest.raises(ValueError, match="class 1 has no training image"):
        real_data.index_classes(np.array([0, 2, 0]), 3)


@pytest.mark.parametrize("devices", [1, 2, 8])
def test_real_data_and_pool_are_padded_to_the_devices(index, devices):
    layout = _layout(devices)
    data = real_data.load_real_data(IMAGES, index, layout)
    kept = index.valid & np.array([[1, 0, 1, 1], [1, 1, 1, 1], [0, 0, 1, 0]], bool)
    pool = real_data.make_pool(kept, layout)
    total = layout.padded(3)
    chex.assert_shape(data.images, (total, 4, 2, 2, 1))
    chex.assert_shape([data.labels, data.counts, pool.counts], (total,))
    np.testing.assert_array_equal(data.counts[:3], [3, 1, 4])
    np.testing.assert_array_equal(pool.counts[:3], [2, 1, 1])
    np.testing.assert_array_equal(data.labels[:3], [0, 1, 2])
    assert not np.asarray(data.counts[3:]).any()
    assert not np.asarray(pool.counts[3:]).any()
    np.testing.assert_array_equal(data.images[:3, :, 0, 0, 0], index.rows)
    for label in range(3):
        count = int(pool.counts[label])
        first = pool.positions[label, :count]
        np.testing.assert_array_equal(first, np.flatnonzero(kept[label]))


@pytest.fixture(scope="module", params=[1, 8])
def drawing(request, index):
    """Data, a pool without class 1 and without row 4, and a compiled draw of three."""
    layout = _layout(request.param)
    data = real_data.load_real_data(IMAGES, index, layout)
    kept = index.to_classes(np.array([1, 1, 0, 0, 0, 1, 1, 1], bool)) & index.valid
    pool = real_data.make_pool(kept, layout)
    draw = jax.jit(jax.vmap(lambda key: real_data.draw_images(key, data, pool, 3)))
    return data, pool, draw


def test_images_are_drawn_uniformly_from_the_pool_alone(drawing):
    _, _, draw = drawing
    images, labels = draw(jax.random.split(jax.random.key(0), 4000))
    chex.assert_shape(images, (4000, 3, 2, 2, 1))
    rows = np.asarray(images)[..., 0, 0, 0]
    np.testing.assert_array_equal(labels, LABELS[rows])
    assert all(len(set(triple)) == 3 for triple in rows.tolist())
    times = np.bincount(rows.ravel(), minlength=8)
    assert set(np.flatnonzero(times)) == {0, 1, 5, 6, 7}
    # Each is in a triple with probability 3/5.
    deviation = np.sqrt(4000 * 0.6 * 0.4)
    assert np.abs(times[[0, 1, 5, 6, 7]] - 2400).max() < 5 * deviation


def test_more_than_the_pool_holds_are_drawn_evenly(drawing):
    data, pool, _ = drawing
    images, labels = real_data.draw_images(jax.random.key(1), data, pool, 13)
    rows = np.asarray(images)[:, 0, 0, 0]
    times = np.bincount(rows, minlength=8)[[0, 1, 5, 6, 7]]
    assert times.sum() == 13 and times.max() - times.min() <= 1
    np.testing.assert_array_equal(labels, LABELS[rows])

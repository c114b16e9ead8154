"""Images that are left on the host: the same draws, read ahead of time."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_processes import VALUES

from d4a_jax import config as configs
from d4a_jax import real_data
from d4a_jax.data import from_arrays
from d4a_jax.devices import memory, parallel, streaming
from d4a_jax.distillation import distill
from d4a_jax.distillation.run import setting_of
from d4a_jax.methods import Batch, Task
from d4a_jax.networks import create_network
from d4a_jax.training import Normalization

IMAGES = np.random.default_rng(0).integers(0, 256, (40, 3, 2, 1), dtype=np.uint8)
CLASSES = 4


def layout_of(devices, chunk=1):
    if jax.device_count() < devices:
        pytest.skip(f"needs {devices} (fake) devices")
    return parallel.Layout(parallel.make_layout(devices).mesh, chunk)


@pytest.mark.parametrize("shape", [(), (5,), (2, 3), (2, 2, 4)])
def test_reader_gathers_rows_of_any_shape(shape):
    rows = np.random.default_rng(1).integers(0, 40, shape)
    found = streaming.HostReader(IMAGES).gather(rows)
    np.testing.assert_array_equal(found, IMAGES[rows])


def test_negative_rows_are_zero():
    found = streaming.HostReader(IMAGES).gather(np.array([3, -1, 5]))
    np.testing.assert_array_equal(found[[0, 2]], IMAGES[[3, 5]])
    assert not found[1].any()


def test_what_was_told_is_read_once_and_forgotten_after_two_calls():
    reader = streaming.HostReader(IMAGES)
    read = []
    gather = reader._gather
    reader._gather = lambda rows: read.append(rows.tolist()) or gather(rows)
    first, second = np.array([1, 2], np.int32), np.array([3, 4], np.int32)
    reader.prefetch([first])
    reader.prefetch([second])
    np.testing.assert_array_equal(reader.gather(second), IMAGES[second])
    np.testing.assert_array_equal(reader.gather(first), IMAGES[first])
    assert sorted(read) == [[1, 2], [3, 4]]
    # What nobody asked for is dropped, and read when it is asked for.
    reader.prefetch([first])
    reader.prefetch([])
    reader.prefetch([])
    np.testing.assert_array_equal(reader.gather(first), IMAGES[first])
    assert read.count([1, 2]) == 3


@pytest.mark.parametrize(
    ("devices", "budget", "streams"),
    # 40 images of 6 bytes: 240 on one device, 5 of them or 30 bytes on each of eight.
    [(1, 241e-9, False), (1, 239e-9, True), (8, 31e-9, False), (8, 29e-9, True)],
)
def test_images_stay_on_the_host_where_they_exceed_the_budget(devices, budget, streams):
    layout = layout_of(devices)
    placed = streaming.place(IMAGES, np.arange(40), layout, budget)
    assert isinstance(placed, streaming.HostImages) == streams
    assert placed.shape == (40, 3, 2, 1)
    np.testing.assert_array_equal(placed[...], IMAGES)


def test_a_quarter_of_the_memory_is_the_default_budget():
    layout = layout_of(1)
    stats = jax.devices()[0].memory_stats() or {}
    pages = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    whole = stats.get("bytes_limit", pages)
    assert not memory.exceeds_memory(layout.mesh, int(whole / 4), None)
    assert memory.exceeds_memory(layout.mesh, int(whole / 4) + 1, None)


@pytest.mark.parametrize(("devices", "chunk"), [(1, 1), (8, 1), (2, 0), (2, 2)])
def test_draws_are_those_of_images_on_the_devices(devices, chunk):
    layout = layout_of(devices, chunk)
    labels = np.arange(40) % 3
    index = real_data.index_classes(labels, 3)
    pool = real_data.make_pool(index.valid, layout)

    def draw(key, data):
        def of_class(key, items, i):
            data, pool = items
            drawn = jax.random.randint(jax.random.fold_in(key, i), (5,), 0, 13)
            return data.images[i, pool.positions[i, drawn]]

        own = parallel.map_items(layout, of_class, key, (data, pool))
        return own, real_data.draw_images(key, data, pool, 9)

    near, far = (
        jax.jit(draw)(
            jax.random.key(3), real_data.load_real_data(IMAGES, index, layout, budget)
        )
        for budget in (None, 0.0)
    )
    for left, right in zip(jax.tree.leaves(near), jax.tree.leaves(far), strict=True):
        np.testing.assert_array_equal(left, right)


def test_a_whole_run_is_the_same_and_is_read_ahead(monkeypatch):
    """Both segments with every kind of draw, on two devices."""
    layout_of(2)
    labels = np.repeat(np.arange(CLASSES, dtype=np.int32), 6)
    images = np.random.default_rng(2).integers(0, 256, (24, 4, 4, 3), dtype=np.uint8)
    dataset = from_arrays("noise", images, labels, images[::2], labels[::2])
    found = {True: 0, False: 0}
    look = streaming.HostReader._found

    def counted(self, rows):
        future = look(self, rows)
        found[future is not None] += 1
        return future

    monkeypatch.setattr(streaming.HostReader, "_found", counted)
    near, far = (
        distill(
            dataset,
            configs.from_dict(VALUES | {"runtime": {"devices": 2} | memory}),
        )
        for memory in ({}, {"image_memory_gb": 0.0})
    )
    np.testing.assert_array_equal(near.images, far.images)
    assert near.metadata["history"] == far.metadata["history"]
    # Four steps of each segment. Every class draws a batch, with the anchor of the
    # second segment two, and each device reads its share of the networks' batch.
    assert found[True] == 4 * (CLASSES + 2) + 4 * (2 * CLASSES + 2)


@pytest.mark.parametrize(
    ("method", "regularizer", "count"),
    [
        # Two batches of each of three classes, and a share of the networks' batch.
        ("distribution_matching", "union", 3 * 2 + 1),
        ("cafe", "none", 3 + 1),
        # Real images are for the teacher only, which is trained before the first step.
        ("inversion", "none", 0),
    ],
)
def test_a_step_reads_the_rows_that_are_read_ahead(
    monkeypatch, method, regularizer, count
):
    """A step with a network that is trained on: the rows that it reads."""
    matching = {"outer_iterations": 1, "inner_iterations": 2}
    training = VALUES["network_training"]
    if method == "inversion":
        training = training | {"pretrain_epochs": 1}
    values = VALUES | {
        "network": "convnet:width=2:depth=1:norm=batch",
        "matching": matching | {"augmentation": "none", "batch_real": 3},
        "method": {"name": method},
        "network_training": training,
        "regularizer": {"name": regularizer},
        "runtime": {"image_memory_gb": 0.0},
    }
    config, layout = configs.from_dict(values), layout_of(1)
    images = np.random.default_rng(2).integers(0, 256, (18, 4, 4, 3), dtype=np.uint8)
    index = real_data.index_classes(np.arange(18) % 3, 3)
    network = create_network(config.network, 3, (4, 4, 3))
    normalize = Normalization((0.5,) * 3, (0.2,) * 3)
    method = config.method.build(setting_of(config, network, normalize, layout, True))
    pool = real_data.make_pool(index.valid, layout)
    pixels = jax.random.uniform(jax.random.key(1), (3, 1, 4, 4, 3))
    previous = jnp.zeros((3, 1, 4, 4, 3), jnp.uint8)
    read = []
    gather = streaming.HostReader._gather
    monkeypatch.setattr(
        streaming.HostReader,
        "_gather",
        lambda self, rows: read.append(rows.tolist()) or gather(self, rows),
    )

    @jax.jit
    def step(key, number, state, task):
        real = real_data.read_rows(layout, task.data, method.draw(key, number, task))
        batch = Batch(task, real)
        return method.update(key, number, state, {"images": pixels}, batch)

    key, results = jax.random.key(3), []
    for budget in (None, 0.0):
        data = real_data.load_real_data(images, index, layout, budget)
        task = Task(data, pool, previous, jnp.int32(1))
        state = jax.block_until_ready(method.init(key, task))
        read.clear()
        results.append(jax.block_until_ready(step(key, jnp.int32(1), state, task)))
    for near, far in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_array_equal(near, far)
    told = real_data.host_rows(task.data, method.draw(key, jnp.int32(1), task))
    lines = [
        line.tolist()
        for leaf in jax.tree.leaves(told)
        for line in np.asarray(leaf).reshape(-1, leaf.shape[-1])
    ]
    assert len(read) == len(lines) == count
    assert {*map(tuple, read)} == {*map(tuple, lines)}


def test_images_for_every_device_are_indexed_alike():
    layout = layout_of(2)
    host = streaming.place_everywhere(IMAGES, layout, 0.0)
    assert streaming.place_everywhere(IMAGES, layout, 1.0) is not host
    host = parallel.replicate(layout, host)
    rows = jnp.array([4, 4, 39])
    found = jax.jit(lambda images, rows: images[rows])(host, rows)
    np.testing.assert_array_equal(found, IMAGES[[4, 4, 39]])

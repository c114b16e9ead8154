"""Devices, sharding and batching: layout never changes a result."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax.devices import parallel

needs_devices = pytest.mark.skipif(
    jax.device_count() < 8, reason="needs 8 (fake) devices"
)

LAYOUTS = [(1, 0), (1, 1), (1, 2), (1, 100), (8, 0), (8, 1), (2, 2)]


def _layout(devices, chunk):
    if jax.device_count() < devices:
        pytest.skip(f"needs {devices} (fake) devices")
    # The chunk directly: `make_layout` takes zero as the backend's choice.
    return parallel.Layout(parallel.make_layout(devices).mesh, chunk)


@pytest.mark.parametrize(
    "count, batch", [(7, 3), (6, 3), (7, 7), (2, 5), (1, 1), (9, 8), (5, 1), (8, 5)]
)
def test_map_batches_joins_what_a_direct_call_gives(count, batch):
    arrays = {
        "x": np.arange(count * 2.0).reshape(count, 2),
        "y": np.arange(count, dtype=np.int32),
    }
    seen = []

    def function(part):
        seen.append(part["x"].shape[0])
        return part["x"].sum(1) + 10 * part["y"], part["x"] * 2

    sums, doubles = jax.jit(lambda a: parallel.map_batches(function, a, batch))(arrays)
    np.testing.assert_array_equal(sums, arrays["x"].sum(1) + 10 * arrays["y"])
    np.testing.assert_array_equal(doubles, arrays["x"] * 2)
    assert set(seen) == {min(batch, count)}


@pytest.mark.parametrize("devices, count", [(1, 3), (8, 3), (8, 8), (8, 9), (2, 1)])
def test_spread_pads_by_repeating_the_last_item(devices, count):
    layout = _layout(devices, 1)
    host = np.arange(count * 2, dtype=np.uint8).reshape(count, 2)
    for array in (host, jnp.asarray(host)):
        (placed,) = parallel.spread(layout, (array,))
        size = -(-count // devices) * devices
        assert layout.padded(count) == size
        chex.assert_shape(placed, (size, 2))
        assert placed.dtype == jnp.uint8
        np.testing.assert_array_equal(placed[:count], host)
        np.testing.assert_array_equal(placed[count:], host[-1:].repeat(size - count, 0))
        assert {s.data.shape[0] for s in placed.addressable_shards} == {size // devices}


@needs_devices
def test_spread_takes_typed_keys():
    layout = _layout(8, 1)
    keys = jax.random.split(jax.random.key(0), 3)
    placed = parallel.spread(layout, keys)
    np.testing.assert_array_equal(
        jax.random.key_data(placed[:3]), jax.random.key_data(keys)
    )


@pytest.mark.parametrize("devices, chunk", LAYOUTS)
def test_map_items_equals_a_loop(devices, chunk):
    layout = _layout(devices, chunk)
    items = {"a": np.arange(8.0), "b": np.arange(16.0).reshape(8, 2)}
    shared = {"scale": np.float32(3.0), "key": jax.random.key(1)}

    def function(shared, items, index):
        key = jax.random.fold_in(shared["key"], items["a"][index].astype(jnp.int32))
        noise = jax.random.normal(key)
        return items["a"][index] * shared["scale"], items["b"][index] + noise

    run = jax.jit(lambda s, i: parallel.map_items(layout, function, s, i))
    scaled, noisy = run(shared, parallel.spread(layout, items))
    np.testing.assert_array_equal(scaled, 3 * items["a"])
    noise = [jax.random.normal(jax.random.fold_in(shared["key"], i)) for i in range(8)]
    np.testing.assert_allclose(noisy, items["b"] + np.stack(noise)[:, None], rtol=1e-6)


@pytest.mark.parametrize("devices, chunk", LAYOUTS)
def test_each_item_has_its_own_derivative_of_what_is_shared(devices, chunk):
    """Gradients with respect to shared values are not summed over the devices."""
    layout = _layout(devices, chunk)
    items = np.arange(1.0, 9.0)

    def function(shared, items, index):
        gradient = jax.grad(lambda s: items[index] * s**2)
        _, tangent = jax.jvp(gradient, (shared,), (jnp.ones_like(shared),))
        return gradient(shared), tangent

    run = jax.jit(lambda s, i: parallel.map_items(layout, function, s, i))
    first, second = run(jnp.float32(2.0), parallel.spread(layout, items))
    np.testing.assert_allclose(first, 4 * items)
    np.testing.assert_allclose(second, 2 * items)


@needs_devices
def test_on_each_device_sees_its_share_only():
    layout = _layout(8, 1)
    items = parallel.spread(layout, np.arange(16.0))

    def local(shared, items):
        chex.assert_shape(items, (2,))
        return items - items.mean() + shared

    out = jax.jit(lambda s, i: parallel.on_each_device(layout, local, s, i))(1.0, items)
    np.testing.assert_allclose(out, np.tile([0.5, 1.5], 8))


@needs_devices
@pytest.mark.parametrize("count", [16, 3])
def test_split_batch_changes_no_value(count):
    layout = _layout(8, 1)
    batch = (np.arange(count * 2.0).reshape(count, 2), np.arange(count))
    out = jax.jit(lambda b: parallel.split_batch(layout, b))(batch)
    chex.assert_trees_all_equal(out, jax.tree.map(jnp.asarray, batch))


def test_replicate_puts_a_copy_on_every_device():
    layout = parallel.make_layout()
    placed = parallel.replicate(layout, {"x": np.ones(3)})["x"]
    assert placed.is_fully_replicated
    assert len(placed.addressable_shards) == layout.num_devices


def test_too_many_devices_are_refused():
    wanted = jax.device_count() + 1
    with pytest.raises(ValueError, match=f"runtime.devices is {wanted}"):
        parallel.make_layout(wanted)


def test_chunk_is_the_backends_choice_where_it_is_zero():
    chosen = 1 if jax.default_backend() == "cpu" else 0
    assert parallel.make_layout(1).chunk == chosen
    assert parallel.make_layout(1, 3).chunk == 3

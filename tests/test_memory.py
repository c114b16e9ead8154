"""What fits on a device: estimates by hand and against compiled programs."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from d4a_jax import matching
from d4a_jax.devices import memory
from d4a_jax.devices.parallel import Layout, make_layout, map_items
from d4a_jax.networks import create_network

KB = jnp.ones(256)  # float32


def _peak(function, *arguments):
    return memory.peak_bytes(jax.make_jaxpr(function)(*arguments))


def _chain(x):
    return jnp.sin(jnp.cos(jnp.tan(x)))


def _kept(x):
    tangent = jnp.tan(x)
    return jnp.sin(jnp.cos(tangent)) + tangent


def _loop(x):
    return lax.scan(lambda total, _: (_kept(total), None), x, length=5)[0]


def _branches(x):
    return lax.cond(x[0] > 0, _chain, _kept, x)


@pytest.mark.parametrize(
    ("function", "kilobytes"),
    [
        (lambda x: x, 0),  # Arguments are left out.
        (_chain, 2),  # What an operation reads and what it writes.
        (_kept, 3),  # And what is needed later.
        (_loop, 4),  # The body and the loop's result.
        (jax.jit(_kept), 4),  # The same of a call.
    ],
)
def test_peak_by_hand(function, kilobytes):
    assert _peak(function, KB) == 1024 * kilobytes


def test_peak_of_branches_is_that_of_the_largest():
    assert 4 * 1024 <= _peak(_branches, KB) < 4 * 1024 + 64


def _matching_of_classes(width):
    """Pixel gradients of several classes at once, as a function of their labels."""
    network = create_network(
        f"convnet:width={width}:depth=2", 4, (16, 16, 3), "float32"
    )
    variables = network.init(jax.random.key(0))
    layers = matching.select_layers(variables["params"])
    images = jax.random.normal(jax.random.key(1), (8, 16, 16, 3))

    def one(label):
        def loss(params, x):
            changed = variables | {"params": params}
            return matching.class_loss(network, changed, x, label)

        params = variables["params"]
        phi = lambda g: matching.distance("mse", g, layers.split(params))
        return matching.pixel_gradient(phi, loss, params, images + label, layers)

    return jax.vmap(one)


@pytest.mark.parametrize("width", [8, 32])
def test_peak_is_near_the_memory_of_the_compiled_program(width):
    function, labels = _matching_of_classes(width), jnp.arange(4)
    compiled = jax.jit(function).lower(labels).compile()
    actual = compiled.memory_analysis().temp_size_in_bytes
    assert actual / 2 < _peak(function, labels) < actual * 2


def test_as_many_items_as_fit():
    of_items = jax.vmap(lambda i: _kept(KB * i))  # 3 KB for each item, at the most.
    fitting = lambda count, kb: memory.items_that_fit(of_items, count, 1024 * kb)
    peak = _peak(of_items, jnp.arange(2)) / 2048
    assert 3 <= peak < 5
    assert fitting(100, 10 * peak) == 10
    assert fitting(7, 10 * peak) == 7
    assert fitting(100, 0.5) == 1
    assert fitting(1, 0.5) == 1
    assert fitting(100, float("inf")) == 100


@pytest.mark.parametrize(
    ("together", "turns"), [(1, 7), (2, 4), (3, 3), (5, 2), (6, 2), (7, 1), (20, 1)]
)
@pytest.mark.parametrize("devices", [1, 2])
def test_map_items_works_on_as_many_as_fit(together, turns, devices):
    if jax.device_count() < devices:
        pytest.skip("needs 2 (fake) devices")
    items = jnp.arange(7.0 * devices)
    function = lambda shared, items, i: _kept(KB * (shared + items[i]))
    one = jax.vmap(lambda i: function(jnp.float32(1.0), items, i))
    each = _peak(one, jnp.arange(2)) / 2
    layout = Layout(make_layout(devices).mesh, 0, each * (together + 0.5))
    run = lambda shared, items: map_items(layout, function, shared, items)
    found = jax.jit(run)(jnp.float32(1.0), items)
    np.testing.assert_allclose(found, _kept(KB * (1.0 + items[:, None])), rtol=1e-6)
    program = jax.make_jaxpr(run)(jnp.float32(1.0), items).jaxpr
    if devices > 1:
        (shared_out,) = (e for e in program.eqns if e.primitive.name == "shard_map")
        program = shared_out.params["jaxpr"]
    loops = [e.params["length"] for e in program.eqns if e.primitive.name == "scan"]
    assert loops == ([turns] if turns > 1 else [])


def test_a_layout_knows_the_memory_of_its_devices():
    layout = make_layout(1)
    assert layout.memory == memory.device_memory(layout.mesh) / 3
    assert 1e8 < layout.memory < 1e14

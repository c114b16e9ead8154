"""Checkpoints are read with other devices than they were written with."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import numpy as np
import pytest

from d4a_jax.devices import parallel
from d4a_jax.storage import checkpoint
from d4a_jax.storage.checkpoint import CheckpointStore

CLASSES = 10
PIXELS = np.random.default_rng(0).random((CLASSES, 3, 2), np.float32)


def state_on(devices):
    """Classes that are spread, weights that are not, and a host array."""
    if jax.device_count() < devices:
        pytest.skip(f"needs {devices} (fake) devices")
    layout = parallel.make_layout(devices)
    weights = {"kernel": np.arange(16.0), "count": np.int32(3)}
    weights = parallel.replicate(layout, weights)
    kept = np.arange(CLASSES) % 2 == 0
    return {"pixels": parallel.spread(layout, PIXELS), "net": weights, "kept": kept}


def abstract(state):
    def leaf(x):
        if isinstance(x, np.ndarray):
            return x
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)

    return jax.tree.map(leaf, state)


def test_digests_do_not_depend_on_the_devices():
    alone, spread = (checkpoint._describe(state_on(n)) for n in (1, 2))
    assert alone == spread
    changed = state_on(2)
    changed["kept"][0] ^= True
    names = {
        name
        for name, leaf in checkpoint._describe(changed).items()
        if leaf != spread[name]
    }
    assert names == {"['kept']"}


@pytest.mark.parametrize(("before", "after"), [(1, 8), (8, 1), (8, 8), (2, 8)])
def test_classes_are_padded_anew(tmp_path, before, after):
    written, wanted = state_on(before), state_on(after)
    store = CheckpointStore(tmp_path, 2)
    try:
        store.save(5, written, {"step": 5})
        step, state, record = store.restore(lambda record: abstract(wanted))
    finally:
        store.close()
    assert (step, record) == (5, {"step": 5})
    assert state["pixels"].shape == wanted["pixels"].shape
    assert state["pixels"].sharding == wanted["pixels"].sharding
    np.testing.assert_array_equal(state["pixels"][:CLASSES], PIXELS)
    np.testing.assert_array_equal(state["net"]["kernel"], np.arange(16.0))
    np.testing.assert_array_equal(state["kept"], written["kept"])

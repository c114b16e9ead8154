"""Runs that an earlier version began continue with the same result."""

import jax
import numpy as np
import pytest

from d4a_jax.config import from_dict
from d4a_jax.data import from_arrays
from d4a_jax.distillation import Interrupted, distill, former, loop, run_state

VALUES = {
    "network": "convnet:width=4:depth=1",
    "synthetic": {"images_per_class": 2, "segments": 2, "factor": 1},
    "matching": {
        "batch_real": 6,
        "learning_rate": 1e3,
        "learning_rate_scaling": "none",
        "outer_iterations": 3,
        "inner_iterations": 1,
    },
    "network_training": {"images_per_step": 0},
    "filter": {"enabled": False},
    "evaluation": {"enabled": False},
    "runtime": {"devices": 1, "checkpoint_seconds": 0.0},
}
ADAM = {"optimizer": "adam", "pixels": "normalized", "learning_rate": 0.1}
TRAJECTORY = {
    "matching": VALUES["matching"] | {"steps": "joint", "augmentation": "none"},
    "experts": {"count": 1, "epochs": 3, "batch_size": 9},
    "method": {
        "name": "trajectory_matching",
        "max_start_epoch": 1,
        "student_steps": 2,
        "label_learning_rate": 1.0,
    },
}
CASES = {
    "sgd": {"regularizer": {"name": "previous"}},
    "adam": {"matching": VALUES["matching"] | ADAM},
    "trajectory": TRAJECTORY,
}


@pytest.fixture(scope="module")
def dataset():
    rng = np.random.default_rng(0)
    labels = np.tile(np.arange(3), 6)
    images = rng.integers(0, 256, (18, 8, 8, 3), dtype=np.uint8)
    return from_arrays("noise", images, labels, images[:6], labels[:6])


def save_as_before(run, state, store):
    """A checkpoint in the form of an earlier version."""
    arrays = run_state._arrays(state)
    if state.segment is not None:
        optimizer = run.pixel_optimizer(run.config.segment_sizes[state.stage])
        segment = former.to_former(state.segment, optimizer)
        again = former.from_former(segment, state.segment)
        assert jax.tree.structure(again) == jax.tree.structure(state.segment)
        jax.tree.map(np.testing.assert_array_equal, again, state.segment)
        arrays["segment"] = segment
    record = {
        "stage": state.stage,
        "step": state.step,
        "attempt": state.attempt,
        "history": list(state.history),
        "metrics_lines": run.journal.lines,
    }
    run.journal.sync()
    steps = run.config.steps_per_segment + 1
    store.save(state.stage * steps + state.step, arrays, record)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("stop_after", [2, 5])
def test_a_run_of_an_earlier_version_continues(
    dataset, tmp_path, monkeypatch, name, stop_after
):
    folder = {"data": {"data_dir": str(tmp_path / "data")}}
    config = from_dict(VALUES | CASES[name] | folder)
    undisturbed = distill(dataset, config)
    calls = iter(range(1, 100))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(loop, "save", save_as_before)
        distill(dataset, config, tmp_path / "run", lambda: next(calls) == stop_after)
    resumed = distill(dataset, config, tmp_path / "run")
    np.testing.assert_array_equal(resumed.images, undisturbed.images)
    if undisturbed.label_logits is not None:
        np.testing.assert_array_equal(resumed.label_logits, undisturbed.label_logits)
    assert not (tmp_path / "run" / "checkpoints" / "damaged").exists()

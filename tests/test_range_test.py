"""The learning rate range test, against a problem that is solved by hand."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax.config import from_dict
from d4a_jax.data import from_arrays
from d4a_jax.distillation import DivergenceError, Interrupted, distill
from d4a_jax.distillation import range_test as range_tests
from d4a_jax.distillation.range_test import RATES, RangeTest
from d4a_jax.distillation.run import prepare
from d4a_jax.distillation.run_state import first_task
from d4a_jax.distillation.segments import initial_pixels
from d4a_jax.methods import Method, MethodOptions
from d4a_jax.metrics.journal import Journal

STEPS = 12
SLOPE = 100.0

@dataclasses.dataclass(frozen=True)
class Quadratic(MethodOptions):
    """Pulls every pixel to one half: loss (x - 1/2)**2, gradient SLOPE (x - 1/2)."""

    def build(self, setting):
        def update(key, step, state, params, batch):
            away = params["images"] - 0.5
            loss = jnp.mean(away**2)
            return {"images": SLOPE * away}, state, {"matching_loss": loss}

        return Method(lambda key, task: (), lambda key, step, task: None, update)


_VALUES = from_dict(
    {
        "network": "convnet:width=4",
        "synthetic": {"images_per_class": 2, "segments": 2, "factor": 1},
        "matching": {
            "learning_rate": None,
            "momentum": 0.0,
            "outer_iterations": STEPS,
            "inner_iterations": 1,
        },
        "filter": {"enabled": False},
        "evaluation": {"enabled": False},
        "runtime": {"devices": 1, "checkpoint_seconds": 0.0},
    }
)
CONFIG = dataclasses.replace(_VALUES, method=Quadratic())


@pytest.fixture(scope="module")
def dataset():
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
    labels = np.arange(12) % 3
    return from_arrays("noise", images, labels, images, labels)


@pytest.fixture
def run(dataset):
    return prepare(CONFIG, dataset, Journal(None), None)


def test_losses_are_those_of_gradient_descent_in_numpy(run):
    result = range_tests.range_test(run)
    key = range_tests.rng.stream(run.key, "range_test")
    key = range_tests.rng.stream(key, "pixels")
    start = initial_pixels(key, first_task(run), 1, CONFIG, run.layout)
    expected = []
    for rate in RATES:
        pixels = np.asarray(start, np.float64)
        for _ in range(STEPS):
            pixels = np.clip(pixels, 0, 1)
            # IDC's scale: (1 image / 10) * (8 / 32)**2.
            pixels = pixels - rate * 0.1 * 0.0625 * SLOPE * (pixels - 0.5)
        expected.append(np.mean((np.clip(pixels, 0, 1) - 0.5) ** 2))
    assert result.rates == RATES and result.losses.shape == (len(RATES), STEPS)
    every = np.repeat(np.array(expected)[:, None], STEPS, 1)
    np.testing.assert_allclose(result.losses, every, rtol=1e-3, atol=1e-9)
    # 0.00625 * SLOPE is 0.625: of the grid, 1 comes closest to a single step of 1.
    assert result.chosen == 1.0


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        # 0.3 is lowest. 0.1 lies above it by 0.1 ± 0.5 / sqrt(4): within one error.
        ([[5, 5, 5, 5], [2.6, 1.6, 2.6, 1.6], [2, 2, 2, 2], [3, 3, 3, 3]], 0.1),
        # The same mean without scatter is worse.
        ([[5, 5, 5, 5], [2.1, 2.1, 2.1, 2.1], [2, 2, 2, 2], [3, 3, 3, 3]], 0.3),
        # What diverged does not count, nor does no step at all.
        ([[1, 1, 1, 1], [2, 2, np.nan, 2], [3, 3, 3, 3], [4, 4, 4, 4]], 0.3),
    ],
)
def test_the_choice_by_hand(losses, chosen):
    found = RangeTest((0.0, 0.1, 0.3, 1.0), np.array(losses, float))
    assert found.chosen == chosen


def test_divergence_at_every_rate_is_said():
    with pytest.raises(DivergenceError, match="diverged at every rate from 0.1 on"):
        _ = RangeTest((0.0, 0.1, 1.0), np.array([[1.0], [np.nan], [np.inf]])).chosen


def test_a_run_without_a_rate_is_the_run_at_the_rate_found(run, dataset, tmp_path):
    found = distill(dataset, CONFIG, tmp_path)
    matching = dataclasses.replace(CONFIG.matching, learning_rate=1.0)
    given = distill(dataset, dataclasses.replace(CONFIG, matching=matching))
    np.testing.assert_array_equal(found.images, given.images)
    assert found.metadata["config"] == given.metadata["config"]
    assert found.metadata["config"]["matching"]["learning_rate"] == 1.0
    assert (tmp_path / "learning_rate.png").read_bytes()[:4] == b"\x89PNG"
    lines = (tmp_path / "learning_rate.csv").read_text().splitlines()
    assert lines[0] == "learning rate,loss" and len(lines) == 1 + len(RATES)


def test_the_test_is_kept_and_repeated_only_where_it_is_damaged(
    run, tmp_path, monkeypatch
):
    run = dataclasses.replace(run, workdir=tmp_path)
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        losses = np.array([[1.0, 2.0], [np.nan, 1.0], [0.5, 0.5]])
        return RangeTest((0.0, 0.1, 0.3), losses)

    monkeypatch.setattr(range_tests, "range_test", counted)
    path = tmp_path / "learning_rate.json"
    for damage, expected in (
        (lambda: None, 1),
        (lambda: None, 1),
        (lambda: path.write_text(path.read_text().replace("0.5", "0.6")), 2),
        (lambda: path.write_text("{}"), 3),
        (lambda: path.write_text(path.read_text()[:50]), 4),
        (path.unlink, 5),
    ):
        damage()
        settled = range_tests.with_learning_rate(run)
        assert settled.config.matching.learning_rate == 0.3
        assert len(calls) == expected
    assert json.loads(path.read_text())["losses"][1] == [None, 1.0]


def test_it_can_be_stopped(run):
    stopped = dataclasses.replace(run, should_stop=lambda: True)
    with pytest.raises(Interrupted):
        range_tests.with_learning_rate(stopped)

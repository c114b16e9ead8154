"""A learning rate range test for the pixels, for images that nobody has tuned for.

After Smith (2017), "Cyclical Learning Rates for Training Neural Networks", section 3.3,
with one short trial per rate instead of a ramp: the matching loss depends more on the
current network than on the images, so rates are compared at the very same networks and
batches. Every trial takes the same first steps of the first segment, then its images
are frozen and the loss is averaged over further steps, whose networks and batches no
image has been matched to. Among the rates whose mean loss is within one standard error
(of the paired differences) of the lowest, the smallest one is taken.
"""

import dataclasses
import hashlib
import json
import math
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.config import Config
from d4a_jax.devices.parallel import compiled, to_host
from d4a_jax.devices.processes import any_of
from d4a_jax.distillation.divergence import DivergenceError
from d4a_jax.distillation.run import Run
from d4a_jax.distillation.run_state import first_task
from d4a_jax.distillation.segments import (
    begin,
    pixel_learning_rate,
    pixel_optimizer,
    segment_functions,
)
from d4a_jax.storage import fileio

# Half a decade apart; zero shows what the images are worth before the first step.
RATES = (0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1.0, 3.0, 10.0)
_STEPS = 100
_FILE = "learning_rate"


class RangeTest(NamedTuple):
    """What the trials found.

    Attributes:
      rates: `matching.learning_rate` of each trial.
      losses: float `[trials, steps]`, matching loss of the frozen images; not finite
        where the trial diverged.
    """

    rates: tuple[float, ...]
    losses: np.ndarray

    @property
    def chosen(self) -> float:
        """The smallest rate within one standard error of the best.

        Raises:
          DivergenceError: no trial with a rate above zero stayed finite.
        """
        mean = np.where(np.isfinite(self.losses).all(1), self.losses.mean(1), np.inf)
        tried = np.array(self.rates) > 0
        if not np.isfinite(mean[tried]).any():
            raise DivergenceError(
                "The learning rate range test diverged at every rate from "
                f"{min(r for r in self.rates if r):g} on; look at the images and at "
                "network_training.learning_rate."
            )
        best = int(np.where(tried, mean, np.inf).argmin())
        for rate, losses, loss in zip(self.rates, self.losses, mean):
            if rate and np.isfinite(loss):
                excess = losses - self.losses[best]
                if excess.mean() <= excess.std(ddof=1) / np.sqrt(len(excess)):
                    return rate
        return self.rates[best]


def with_learning_rate(run: Run) -> Run:
    """Puts the result of a range test where the configuration leaves the rate open.

    With a working directory the test is kept there, as `learning_rate.json` and as a
    chart (`.png`, `.csv`), and is not repeated.
    """
    if run.config.matching.learning_rate is not None:
        return run
    result = _load(run)
    # One process without the file makes it necessary to repeat the test in all.
    if any_of(result is None)[0]:
        result = range_test(run)
    run.journal.say("range test: matching.learning_rate is %g", result.chosen)
    _save(run, result)
    return dataclasses.replace(run, config=_at_rate(run.config, result.chosen))


def range_test(run: Run, rates: tuple[float, ...] = RATES) -> RangeTest:
    """Tries learning rates on the first segment; the run itself is not changed.

    Args:
      run: with any learning rate.
      rates: values of `matching.learning_rate`.
    """
    trained, frozen = trial_steps(run.config)
    task = first_task(run)
    method = run.method(has_previous=False)
    key = rng.stream(run.key, "range_test")
    feed = method.feed or (lambda *_: None)
    fed = feed(key, 0, trained + frozen, task)
    init, _ = _functions(run, method, 1.0)
    state = begin(compiled(init), method, key, task)

    @compiled
    def trial(key, rate, state, task, fed):
        _, advance = _functions(run, method, rate)
        _, metrics = advance(key, 0, trained + frozen, state, task, fed)
        return metrics["matching_loss"]

    losses = []
    with run.journal.progress("learning rate range test", len(rates)) as bar:
        hook = run.watch(lambda done, _, figures: bar.update(done, **figures))
        for done, rate in enumerate(rates, start=1):
            found = trial(key, jnp.float32(rate), state, task, fed)
            found = to_host(found).astype(float)
            losses.append(found[trained:])
            hook(done, len(rates), {"rate": rate, "loss": found[trained:].mean()})
    return RangeTest(tuple(rates), np.stack(losses).reshape(len(rates), frozen))


def _functions(run, method, rate):
    """Those of a trial's segment, whose last steps leave the pixels alone."""
    trained, _ = trial_steps(run.config)
    size, side = run.config.segment_sizes[0], run.dataset.image_shape[0]
    scaled = rate * pixel_learning_rate(_at_rate(run.config, 1.0), size, side)
    optimizer = pixel_optimizer(
        run.config,
        lambda count: jnp.where(count < trained, scaled, 0.0),
        run.dataset.num_classes,
        run.dataset.std,
    )
    return segment_functions(run.config, method, optimizer, run.layout, size)


def trial_steps(config: Config) -> tuple[int, int]:
    """Steps of a trial that move the images, and steps that only look at them."""
    trained = min(_STEPS, config.steps_per_segment)
    return trained, max(2, min(_STEPS // 2, trained))


def _at_rate(config: Config, rate: float) -> Config:
    matching = dataclasses.replace(config.matching, learning_rate=rate)
    return dataclasses.replace(config, matching=matching)


def _load(run: Run) -> RangeTest | None:
    if run.workdir is None:
        return None
    path = run.workdir / f"{_FILE}.json"
    try:
        content = json.loads(path.read_bytes())
        result = RangeTest(tuple(content["rates"]), np.array(content["losses"], float))
        intact = path.read_bytes() == fileio.dump_json(_document(result))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        intact = False
    if not intact:
        run.journal.say("%s is damaged; the range test is repeated.", path)
        return None
    return result


def _document(result: RangeTest) -> dict:
    """Content of the file; losses that are not finite become null."""
    finite = np.isfinite(result.losses)
    content = {
        "rates": result.rates,
        "losses": np.where(finite, result.losses, None).tolist(),
        "chosen": result.chosen,
    }
    text = fileio.dump_json(content)
    return content | {"sha256": hashlib.sha256(text).hexdigest()}


def _save(run: Run, result: RangeTest) -> None:
    if run.output is None:
        return
    # Imported here: Matplotlib takes long and is needed for nothing else.
    from d4a_jax.analysis import figures

    series = [figures.Series(*line) for line in _curves(result)]
    figure = figures.lines(
        series,
        "matching.learning_rate",
        "matching loss, relative to no step",
        ticks={math.log10(r): f"{r:g}" for r in result.rates[1::2] if r},
    )
    rows = list(zip(result.rates, result.losses.mean(1).tolist()))
    figures.save(run.output / _FILE, figure, (("learning rate", "loss"), rows))
    fileio.write_json_atomic(run.output / f"{_FILE}.json", _document(result))


def _curves(result: RangeTest):
    """The line of all rates, relative to the images before any step, and the choice."""
    losses = dict(zip(result.rates, result.losses.mean(1)))
    start = losses.get(0.0, 1.0)
    shown = {r: loss / start for r, loss in losses.items() if r and np.isfinite(loss)}
    positions = [math.log10(rate) for rate in shown]
    yield "frozen after the trial", positions, list(shown.values())
    chosen = result.chosen
    yield f"chosen: {chosen:g}", [math.log10(chosen)], [shown[chosen]]

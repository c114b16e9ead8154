"""When a segment diverges: what is said about it, and where it starts over.

A segment whose loss, gradient or pixels stop being finite goes back to a checkpoint and
on with other random numbers. Checkpoints are also written when some time has passed, so
for this only those at fixed steps count (milestones): then a run that was interrupted
goes back to the same step as one that was not, and ends with the same result.
"""

from collections.abc import Mapping

import jax
import numpy as np

from d4a_jax.devices.parallel import to_host
from d4a_jax.distillation.run import Run
from d4a_jax.distillation.segments import DIVERGED, pixel_learning_rate

# How often a segment may start over.
MAX_ATTEMPTS = 3
_MILESTONES = 10


class DivergenceError(RuntimeError):
    """A segment did not stay finite, again and again."""


def steps_per_call(run: Run) -> int:
    """Steps between two looks by the host: a divisor of a segment's steps."""
    wanted = run.config.runtime.steps_per_call
    if not wanted:
        # Images that are read ahead are those of a call.
        short = run.streams or jax.default_backend() == "cpu"
        wanted = 1 if short else 100
    total = run.config.steps_per_segment
    return next(n for n in range(min(wanted, total), 0, -1) if total % n == 0)


def rollback_interval(run: Run) -> int:
    """Steps between milestones: about a tenth of a segment, in whole calls."""
    call = steps_per_call(run)
    return call * -(-run.config.steps_per_segment // (call * _MILESTONES))


def find(
    run: Run, stage: int, step: int, metrics: Mapping[str, jax.Array]
) -> str | None:
    """Says where a call of the compiled program diverged, and what may help.

    Args:
      run: the run.
      stage: number of the segment.
      step: steps of the segment before the call.
      metrics: of the call, see `segments.segment_functions`.

    Returns:
      Two sentences, or None where everything is finite.
    """
    metrics = to_host(dict(metrics))
    classes = metrics[DIVERGED][:, : run.dataset.num_classes]
    figures = [v for name, v in metrics.items() if name != DIVERGED]
    diverged = classes.any(1) | ~np.isfinite(figures).all(0)
    if not diverged.any():
        return None
    first = int(diverged.argmax())
    size = run.config.segment_sizes[stage]
    rate = pixel_learning_rate(run.config, size, run.dataset.image_shape[0])
    base = run.config.matching.learning_rate
    return (
        f"Segment {stage + 1} diverged in step {step + first + 1}: "
        f"{_name(run, classes[first])} not finite at the pixel learning rate {rate:g} "
        f"(matching.learning_rate {base:g}). A smaller matching.learning_rate or "
        "network_training.learning_rate is likely to help."
    )


def _name(run: Run, diverged: np.ndarray) -> str:
    """The classes that diverged, as the subject of a sentence."""
    names = [repr(run.dataset.class_names[c]) for c in np.flatnonzero(diverged)]
    if not names:
        return "its loss is"
    if len(names) == 1:
        return f"class {names[0]} is"
    if len(names) == len(diverged):
        return f"all {len(names)} classes are"
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"classes {', '.join(names[:3])}{more} are"

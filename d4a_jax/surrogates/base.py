"""What every surrogate objective receives and returns."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from d4a_jax.config import Config
from d4a_jax.devices.parallel import Layout
from d4a_jax.networks import Network
from d4a_jax.real_data import Pool, RealData
from d4a_jax.training import Normalization
from d4a_jax.trajectories import Experts


class Task(NamedTuple):
    """What a segment is matched to; constant while the segment is made.

    Attributes:
      data: the real training set.
      pool: the real images kept by the filter.
      previous: uint8 `[C, p, h, w, c]`, earlier segments, finished and frozen; only
        the first `num_previous` of the p places are filled, so that the shape, and
        with it the compiled program, is the same for all segments.
      num_previous: int32 scalar.
      beginning: the real images that the segment may begin with; None for the pool.
      epoch_shift: int32 scalar, by how many epochs experts learn the kept images later
        than all of them; zero where no surrogate asks for it.
      fed: what the surrogate's `feed` has for the step at hand.
      previous_logits: float16 `[C, p, factor**2, classes]`, label logits that earlier
        segments learned, frozen as `previous` is; None where labels are hard.
    """

    data: RealData
    pool: Pool
    previous: jax.Array
    num_previous: jax.Array
    beginning: Pool | None = None
    epoch_shift: jax.Array | int = 0
    fed: Any = None
    previous_logits: jax.Array | None = None


class StepResult(NamedTuple):
    """One step's pixel gradient `[C, n, h, w, c]` and scalar figures to record."""

    gradient: jax.Array
    metrics: dict[str, jax.Array]


class LabelLearning(NamedTuple):
    """How a surrogate learns soft labels together with the pixels.

    Every image that is formed from a stored one has label logits of its own.

    Attributes:
      shape: of the logits of a stored image, `(factor**2, classes)`.
      first: (pixels, task) -> float32 `[C, n, *shape]`, the logits to begin with; not
        in a compiled program, before the first step of a segment.
      put: (state, logits) -> the surrogate's state, in which these begin to be learned.
      get: the logits in a state.
    """

    shape: tuple[int, int]
    first: Callable[[jax.Array, Task], jax.Array]
    put: Callable[[Any, jax.Array], Any]
    get: Callable[[Any], jax.Array]


class Surrogate(NamedTuple):
    """An objective whose gradient moves the pixels of a segment.

    Attributes:
      init: (key, task) -> state, before the first step of a segment.
      update: (key, step, state, pixels, task) -> (StepResult, state); `pixels` are
        float32 `[C, n, h, w, c]` in [0, 1], `step` counts from 0 within the segment
        and keys are derived from it.
      feed: (key, first step, steps, task) -> tree of arrays `[steps, ...]`, or None
        where nothing is needed. Runs on the host before every call of the compiled
        program, with `update`'s key; of the tree, each step finds its own part in
        `task.fed`. It is for what is too large to be on the devices as a whole.
      reads: (key, step, task) -> tree of rows on the host `[..., k]` that `update`
        reads together in a step, where the images are left there (see `streaming`);
        they are then read ahead. None reads nothing ahead.
      labels: how it learns soft labels; None where labels are hard.
    """

    init: Callable[[jax.Array, Task], Any]
    update: Callable[
        [jax.Array, jax.Array, Any, jax.Array, Task], tuple[StepResult, Any]
    ]
    feed: Callable[[jax.Array, int, int, Task], Any] | None = None
    reads: Callable[[jax.Array, jax.Array, Task], Any] | None = None
    labels: LabelLearning | None = None


class SurrogateContext(NamedTuple):
    """The static surroundings from which a surrogate is built.

    `has_previous` is False for the first segment, which has nothing to regularize on.
    `experts` opens the expert trajectories; those that are missing are trained first.
    """

    config: Config
    network: Network
    normalize: Normalization
    layout: Layout
    has_previous: bool
    experts: Callable[[], Experts] | None = None

"""The parts of a method of dataset distillation, in optax's manner.

A method turns one step on a segment into the gradient of everything that is learned. It
is a tuple of pure functions that know neither a configuration nor devices:

    state = method.init(key, task)
    rows = method.draw(key, step, task)          # which real images the step reads
    batch = Batch(task, read_rows(task.data, rows))
    gradient, state, figures = method.update(key, step, state, params, batch)

`draw` says once which images a step reads; they are then gathered on the devices, or on
the host ahead of time. `params` is a dictionary of all that is learned: "images", and
more where the method says so in `learned`. One optax transformation moves it.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import jax
import optax

from d4a_jax.cost import class_matching_passes
from d4a_jax.methods.network_training import NetworkTrainingConfig
from d4a_jax.networks import Network
from d4a_jax.real_data import Pool, RealData
from d4a_jax.regularizers import Regularizer, none
from d4a_jax.training import Normalization

if TYPE_CHECKING:
    from d4a_jax.config import Config
    from d4a_jax.trajectories import Experts

Params = dict[str, jax.Array]


class Task(NamedTuple):
    """What a segment is matched to; constant while the segment is made.

    Attributes:
      data: the real training set.
      kept: the real images that the filter kept.
      previous: uint8 `[C, p, h, w, c]`, earlier segments, finished and frozen; only
        the first `num_previous` of the p places are filled, so that the shape, and
        with it the compiled program, is the same for all segments.
      num_previous: int32 scalar.
      beginning: the real images that the segment may begin with; None for `kept`.
      epoch_shift: int32 scalar, by how many epochs experts learn the kept images later
        than all of them; zero where the method does not follow the filter.
      previous_labels: float16 `[C, p, factor**2, classes]`, label logits that earlier
        segments learned, frozen as `previous` is; None where labels are hard.
    """

    data: RealData
    kept: Pool
    previous: jax.Array
    num_previous: jax.Array
    beginning: Pool | None = None
    epoch_shift: jax.Array | int = 0
    previous_labels: jax.Array | None = None


class Batch(NamedTuple):
    """The data of one step.

    Attributes:
      task: what the segment is matched to.
      real: the images that `draw` asked for; see `rows.read_rows`.
      fed: the part of the step in the tree that `Method.feed` returned.
    """

    task: Task
    real: Any = None
    fed: Any = None


class Learned(NamedTuple):
    """Something that is learned beside the images.

    Attributes:
      shape: (pixels `[C, n, h, w, c]`, task) -> the shape of the array.
      first: (pixels, task) -> float32, the first value. It runs on the host before the
        first step of a segment.
      optimizer: moves it.
      stored: of a value `[C, n, ...]`, what is stored of it and seen by everything
        after; None where nothing is.
    """

    shape: Callable[[jax.Array, Task], tuple[int, ...]]
    first: Callable[[jax.Array, Task], jax.Array]
    optimizer: optax.GradientTransformation
    stored: Callable[[jax.Array], jax.Array] | None = None


class Method(NamedTuple):
    """A method whose gradient moves a segment.

    Attributes:
      init: (key, task) -> state, before the first step of a segment.
      draw: (key, step, task) -> tree of `ClassRows` and `SetRows`, or None where a step
        reads no real image. It follows from the key and the step alone.
      update: (key, step, state, params, batch) -> (gradient of `params`, state, scalar
        figures to record); images are float32 `[C, n, h, w, c]` in [0, 1], `step`
        counts from 0 within the segment, and keys are derived from it.
      feed: (key, first step, steps, task) -> tree of arrays `[steps, ...]`. It runs on
        the host before every call of the compiled program, for data that is too large
        to be on the devices as a whole; None where nothing is needed.
      fed: (steps, task) -> the shapes of that tree, without making it.
      learned: what is learned beside the images, by its name in `params`.
    """

    init: Callable[[jax.Array, Task], Any]
    draw: Callable[[jax.Array, jax.Array, Task], Any]
    update: Callable[
        [jax.Array, jax.Array, Any, Params, Batch],
        tuple[Params, Any, dict[str, jax.Array]],
    ]
    feed: Callable[[jax.Array, int, int, Task], Any] | None = None
    fed: Callable[[int, Task], Any] | None = None
    learned: Mapping[str, Learned] = {}


def _one_by_one(function, shared, items):
    """Applies `function(shared, item)` to every class; see `devices.parallel`."""
    return jax.lax.map(lambda item: function(shared, item), items)


class Setting(NamedTuple):
    """The plain values that a method is built from.

    Attributes:
      network: the architecture at which images are matched.
      normalize: of images in [0, 1].
      segment_sizes: stored images per class of each segment.
      factor: tiles along a side of a stored image (IDC's multi-formation).
      decode: how images are formed, see `formation`.
      augmentation: differentiable siamese augmentation, see `augment`.
      batch_real: real images of a class in a step.
      batch_syn_max: formed images of a class in a step, at most.
      inner_iterations: steps until a fresh network comes.
      network_training: how the network moves on between two steps.
      regularizer: the extra term that keeps earlier segments in force.
      has_previous: False for the first segment, which has no earlier ones.
      experts: opens the expert trajectories; missing ones are trained first.
      map_classes: (function, shared, items) -> results; applies a function of (shared,
        item) to every class. By default one class after another on one device.
      split_batch: places a batch on the devices; by default nothing is done.
    """

    network: Network
    normalize: Normalization
    segment_sizes: tuple[int, ...] = (10,)
    factor: int = 2
    decode: str = "single"
    augmentation: str = "color_crop_cutout"
    batch_real: int = 64
    batch_syn_max: int = 128
    inner_iterations: int = 100
    network_training: NetworkTrainingConfig = NetworkTrainingConfig()
    regularizer: Regularizer = none()
    has_previous: bool = False
    experts: "Callable[[], Experts] | None" = None
    map_classes: Callable[..., Any] = _one_by_one
    split_batch: Callable[[Any], Any] = lambda tree: tree


class Passes(NamedTuple):
    """What an image costs in a step, in passes through the network (see `cost`).

    Attributes:
      real: a real image whose value is matched.
      synthetic: a synthetic image, with its gradient.
      constant: an image in a constant of the regularizer.
    """

    real: int
    synthetic: int
    constant: int


class MethodOptions:
    """The options of a method: a frozen dataclass that builds it and knows its needs.

    Attributes:
      passes: cost of a matching step; None where `total_passes` counts otherwise.
      trains_networks: whether networks are trained between the steps.
      uses_experts: whether expert trajectories are needed.
      follows_filter: whether `Task.epoch_shift` is needed.
      learns_labels: whether "labels" are learned, logits `[C, n, factor**2, classes]`.
      uses_previous: whether earlier segments take part, whatever the regularizer.
      single_network: whether one network serves a whole segment, so that a segment has
        one outer iteration.
    """

    passes: ClassVar[Passes | None] = None
    trains_networks: ClassVar[bool] = True
    uses_experts: ClassVar[bool] = False
    single_network: ClassVar[bool] = False

    @property
    def uses_previous(self) -> bool:
        return False

    @property
    def follows_filter(self) -> bool:
        return False

    @property
    def learns_labels(self) -> bool:
        return False

    def build(self, setting: Setting) -> Method:
        """The method itself."""
        raise TypeError(f"{type(self).__name__} does not build a method.")

    def shrunk(self) -> "MethodOptions":
        """The same method with a handful of steps of its own, for a run of seconds."""
        return self

    def problems(self, config: "Config") -> Iterator[str]:
        """Sentences on values of a run's configuration that the method cannot use."""
        return iter(())

    def network_problems(self, network: Network, spec: str) -> Iterator[str]:
        """Sentences on a network that the method cannot use."""
        return iter(())

    def total_passes(self, config: "Config", num_classes: int, images: int) -> int:
        """Passes of a whole run; by default those of matching class by class."""
        return class_matching_passes(config, num_classes, images)

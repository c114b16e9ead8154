"""The options of a run by section: their types, defaults and ranges.

`Config()` is the published IDC setting for CIFAR-10 with D4A's options at their
defaults.
"""

import dataclasses
from collections.abc import Collection
from typing import Any


def _field(default, **rule):
    """A field with the range (low, high, above) or the choices of its values."""
    return dataclasses.field(default=default, metadata=rule)


def all_but(section: Any, names: Collection[str]) -> dict[str, Any]:
    """The values of a section without the named fields.

    An identity leaves out the fields that are known to change nothing, so that a new
    field counts until somebody says otherwise.
    """
    values = dataclasses.asdict(section)
    for name in names:
        del values[name]
    return values


# Steps and sizes are 32-bit numbers in the compiled programs.
MOST = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images to distill; see `d4a_jax.data.load_dataset`."""

    name: str = "cifar10"
    path: str | None = None
    size: int | None = _field(None, low=4, high=1024)
    classes: int | tuple[int, ...] | None = _field(None, low=0)
    data_dir: str | None = None
    manual_dir: str | None = None
    download: bool = True

    def identity(self) -> dict[str, Any]:
        """What determines the images: not the folders, nor how they come there."""
        return all_but(self, ("path", "data_dir", "manual_dir", "download"))


@dataclasses.dataclass(frozen=True)
class SyntheticConfig:
    """The synthetic set: its size, its segments and IDC's multi-formation.

    `segments` is a number of equal segments or the images per class of each one. For
    `init`, `skip_hardest` and `frozen_share` see `beginnings`.
    """

    images_per_class: int = _field(10, low=1)
    segments: int | tuple[int, ...] = _field(1, low=1)
    factor: int = _field(2, low=1, high=8)
    decode: str = _field("single", choices=("single", "multi", "bound"))
    init: str = _field("real", choices=("real", "noise", "correct", "window"))
    skip_hardest: float = _field(0.0, low=0.0)
    frozen_share: float = _field(0.0, low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class MatchingConfig:
    """The matching loss and how the pixels follow its gradient.

    A segment takes `outer_iterations * inner_iterations` matching steps, each on all
    classes. The pixel learning rate is `learning_rate * (images per class / 10) *
    (side / 32)**2` (IDC), with the images per class of the segment or of the total, or
    `learning_rate` itself with the scaling "none". It counts pixels in [0, 1] or
    normalized ones (`pixels`). None has `learning_rate` found by a short range test,
    see `range_test`.

    `features` is what distribution matching matches. `early_weight`, the weight of all
    maps but the last, and `discrimination`, that of the discrimination loss, are those
    of CAFE.
    `union` matches a segment together with the earlier ones (PDD). `statistics_weight`
    is that of batch norm's statistics (SRe2L), and `optimizer` is momentum SGD or, with
    a cosine decay over the segment and `momentum` as its first beta, Adam (SRe2L).
    Momentum SGD steps after every class (IDC) or once for all (`steps`).
    """

    surrogate: str = _field(
        "gradient",
        choices=("gradient", "distribution", "cafe", "inversion", "trajectory"),
    )
    distance: str = _field("mse", choices=("mse", "l1", "cosine"))
    match_norm_and_bias: bool = False
    match_classifier: bool = False
    features: str = _field("embedding", choices=("embedding", "layers"))
    early_weight: float = _field(0.1, low=0.0)
    discrimination: float = _field(0.01, low=0.0)
    statistics_weight: float = _field(1.0, low=0.0)
    union: bool = False
    batch_real: int = _field(64, low=1)
    batch_syn_max: int = _field(128, low=1)
    augmentation: str = "color_crop_cutout"
    learning_rate: float | None = _field(5e-3, above=0.0)
    learning_rate_scaling: str = _field("segment", choices=("segment", "total", "none"))
    pixels: str = _field("unit", choices=("unit", "normalized"))
    optimizer: str = _field("sgd", choices=("sgd", "adam"))
    momentum: float = _field(0.5, low=0.0, high=0.999)
    steps: str = _field("per_class", choices=("per_class", "joint"))
    outer_iterations: int = _field(2000, low=1)
    inner_iterations: int = _field(100, low=1)
    clip: str = _field("outer", choices=("outer", "step"))


@dataclasses.dataclass(frozen=True)
class TrajectoryConfig:
    """Trajectory matching (MTT): the experts, where they are met, and the student.

    The experts are `experts` networks trained for `epochs` on the whole real set by
    SGD at a constant rate (`batch_size` to `cutmix_probability`); see `trajectories`.
    A student starts at an expert's epoch t, drawn from `min_start_epoch <= t <
    max_start_epoch`, and takes `student_steps` steps on batches of `batch_syn` images
    (None: all) to reach that expert's epoch t + `expert_epochs`. With
    `first_max_start_epoch` the window begins narrower and reaches its full width after
    `expansion_steps` (DATM). `skip_loss_above` leaves steps of a larger loss without
    effect (DATM). `epochs_follow_filter` moves the window with what the filter keeps.
    With a `label_learning_rate` soft labels are learned together with the images, by
    SGD with `label_momentum` (DATM); zero leaves the labels hard.
    """

    experts: int = _field(100, low=1)
    epochs: int = _field(50, low=1)
    batch_size: int = _field(256, low=1)
    learning_rate: float = _field(0.01, above=0.0)
    momentum: float = _field(0.0, low=0.0, high=0.999)
    weight_decay: float = _field(0.0, low=0.0)
    augmentation: str = "color_crop_cutout_flip_scale_rotate"
    cutmix_probability: float = _field(0.0, low=0.0, high=1.0)
    storage_dtype: str = _field("float32", choices=("float32", "bfloat16"))
    max_gigabytes: float = _field(50.0, above=0.0)
    min_start_epoch: int = _field(0, low=0)
    max_start_epoch: int = _field(20, low=1)
    first_max_start_epoch: int | None = _field(None, low=1)
    expansion_steps: int = _field(0, low=0)
    expert_epochs: int = _field(2, low=1)
    epochs_follow_filter: bool = True
    student_steps: int = _field(30, low=1)
    batch_syn: int | None = _field(None, low=1)
    step_size: float = _field(0.01, above=0.0)
    step_size_learning_rate: float = _field(1e-5, low=0.0)
    skip_loss_above: float | None = _field(None, above=0.0)
    label_learning_rate: float = _field(0.0, low=0.0)
    label_momentum: float = _field(0.9, low=0.0, high=0.999)

    def identity(self) -> dict[str, Any]:
        """What determines the result: not the room that experts may take."""
        return all_but(self, ("max_gigabytes",))


@dataclasses.dataclass(frozen=True)
class NetworkTrainingConfig:
    """How the network moves on between two matching steps (IDC: on real data).

    `synthetic` stands for the segment in the making and all earlier ones (DC, DSA).
    Before anything else a fresh network takes `stage_epochs` passes over each union of
    earlier segments (PDD) and `pretrain_epochs` over the data.
    """

    data: str = _field("all", choices=("all", "filtered", "earlier", "synthetic"))
    images_per_step: int = _field(2000, low=0)
    stage_epochs: int = _field(0, low=0)
    pretrain_epochs: int = _field(0, low=0)
    batch_size: int = _field(64, low=1)
    learning_rate: float = _field(0.01, above=0.0)
    momentum: float = _field(0.9, low=0.0, high=0.999)
    weight_decay: float = _field(5e-4, low=0.0)
    augmentation: str = "color_crop"
    cutmix_probability: float = _field(0.5, low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """What is kept of the real set for the next segment (D4A's filter)."""

    enabled: bool = True
    scope: str = _field("full", choices=("full", "cumulative"))
    networks: int = _field(3, low=1)
    vote: str = _field("mean_softmax", choices=("mean_softmax", "majority"))
    min_per_class: int | None = _field(None, low=1)
    max_discard: float = _field(1.0, low=0.0, high=1.0)
    keep_easiest: float = _field(1.0, above=0.0, high=1.0)
    guard: bool = False


@dataclasses.dataclass(frozen=True)
class DifficultyConfig:
    """Cross-fitted networks trained on the real set: difficulty and noise guard.

    Each of the `folds` is left out by `networks` networks of different seeds, which
    are looked at `checkpoints` times; most measures are means over the last
    `late_checkpoints` of these (all, where there are fewer).
    """

    folds: int = _field(2, low=2)
    networks: int = _field(2, low=1)
    epochs: int = _field(30, low=1)
    max_steps: int | None = _field(None, low=1)
    checkpoints: int = _field(10, low=1)
    late_checkpoints: int = _field(3, low=1)


@dataclasses.dataclass(frozen=True)
class RegularizerConfig:
    """The extra loss term that keeps earlier segments in force."""

    name: str = _field(
        "none",
        choices=("none", "previous", "union", "anchor", "conflict", "replay"),
    )
    weight: float = _field(1.0, low=0.0)
    step_size: float = _field(0.01, above=0.0)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Training from scratch on the distilled set (IDC's recipe, hard labels).

    `prefix_repeats` networks, by default all `repeats`, test the prefixes before the
    last segment.
    """

    enabled: bool = True
    network: str | None = None
    repeats: int = _field(5, low=1)
    prefix_repeats: int | None = _field(None, low=1)
    epochs: int = _field(1000, low=1)
    max_steps: int | None = _field(None, low=1)
    batch_size: int = _field(64, low=1)
    learning_rate: float = _field(0.01, above=0.0)
    momentum: float = _field(0.9, low=0.0, high=0.999)
    weight_decay: float = _field(5e-4, low=0.0)
    augmentation: str = "color_crop_flip_scale_rotate"
    cutmix_probability: float = _field(0.5, low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """How the work is laid out on the hardware; none of it changes the result.

    `compute_dtype` is the exception: bfloat16 rounds inside the networks. So is, after
    a divergence, `steps_per_call`, see `divergence`. A device works on `class_chunk`
    classes or networks at once. Zero leaves a choice to the backend. A data set that
    takes more than `image_memory_gb` (1e9 bytes; by default a quarter of the memory) on
    a device is left on the host and read as it is drawn.
    """

    compute_dtype: str = _field("float32", choices=("float32", "bfloat16"))
    devices: int = _field(0, low=0)
    class_chunk: int = _field(0, low=0)
    steps_per_call: int = _field(0, low=0)
    predict_batch: int = _field(256, low=1)
    image_memory_gb: float | None = _field(None, low=0.0)
    checkpoint_seconds: float = _field(120.0, low=0.0)
    keep_checkpoints: int = _field(2, low=1)

    def identity(self) -> dict[str, Any]:
        """What determines the result: not the layout, nor the checkpoints."""
        layout = ("devices", "class_chunk", "steps_per_call", "predict_batch")
        saving = ("image_memory_gb", "checkpoint_seconds", "keep_checkpoints")
        return all_but(self, layout + saving)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a distilled dataset."""

    data: DataConfig = DataConfig()
    network: str = "convnet"
    synthetic: SyntheticConfig = SyntheticConfig()
    matching: MatchingConfig = MatchingConfig()
    trajectory: TrajectoryConfig = TrajectoryConfig()
    network_training: NetworkTrainingConfig = NetworkTrainingConfig()
    filter: FilterConfig = FilterConfig()
    difficulty: DifficultyConfig = DifficultyConfig()
    regularizer: RegularizerConfig = RegularizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    seed: int = _field(0, low=0)

    @property
    def segment_sizes(self) -> tuple[int, ...]:
        """Stored images per class of each segment."""
        segments = self.synthetic.segments
        if isinstance(segments, tuple):
            return segments
        size, rest = divmod(self.synthetic.images_per_class, segments)
        return tuple(size + (k < rest) for k in range(segments))

    @property
    def steps_per_segment(self) -> int:
        """Matching steps on all classes that each segment takes."""
        return self.matching.outer_iterations * self.matching.inner_iterations

    @property
    def uses_previous(self) -> bool:
        """Whether making a segment takes the earlier ones into account."""
        return (
            self.regularizer.name != "none"
            or self.matching.union
            or self.network_training.stage_epochs > 0
            or self.network_training.data in ("earlier", "synthetic")
            or self.matching.surrogate == "trajectory"
        )

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of plain values, as `from_dict` takes them."""
        return dataclasses.asdict(self)

    def identity(self) -> dict[str, Any]:
        """The part of `to_dict` that determines the result: no paths, no layout.

        A section says itself what it leaves out; one that does not counts as a whole.
        """
        own = {
            name: section.identity()
            for name, section in vars(self).items()
            if hasattr(section, "identity")
        }
        return self.to_dict() | own

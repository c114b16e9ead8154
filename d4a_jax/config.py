"""The configuration of a run: typed, frozen, checked before any compute.

`Config()` is the published IDC setting for CIFAR-10 with D4A's options at their
defaults. `from_dict` builds one from nested mappings (such as an
`ml_collections.ConfigDict`) and reports every problem at once.
"""

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Any


class ConfigError(ValueError):
    """All problems of a configuration, one per line."""

    def __init__(self, problems: list[str]):
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def _field(default, **rule):
    """A field with the range (low, high, above) or the choices of its values."""
    return dataclasses.field(default=default, metadata=rule)


# Steps and sizes are 32-bit numbers in the compiled programs.
_MOST = 2**31 - 1
_WHOLE = {"high": _MOST}


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
    a divergence, `steps_per_call`, see `divergence`. Zero leaves a choice to the
    backend. A data set that takes more than `image_memory_gb` (1e9 bytes; by default a
    quarter of the memory) on a device is left on the host and read as it is drawn.
    """

    compute_dtype: str = _field("float32", choices=("float32", "bfloat16"))
    devices: int = _field(0, low=0)
    class_chunk: int = _field(0, low=0)
    steps_per_call: int = _field(0, low=0)
    predict_batch: int = _field(256, low=1)
    image_memory_gb: float | None = _field(None, low=0.0)
    checkpoint_seconds: float = _field(120.0, low=0.0)
    keep_checkpoints: int = _field(2, low=1)


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
        """The part of `to_dict` that determines the result: no paths, no layout."""
        values = self.to_dict()
        values["runtime"] = {"compute_dtype": self.runtime.compute_dtype}
        for name in ("path", "data_dir", "manual_dir", "download"):
            del values["data"][name]
        return values


def from_dict(values: Mapping[str, Any]) -> Config:
    """Builds a configuration from nested mappings and checks it.

    Args:
      values: what differs from the defaults, as nested mappings. Lists stand for
        tuples.

    Returns:
      The checked configuration.

    Raises:
      ConfigError: naming every unknown key with the nearest known one, and every
        value of a wrong type or outside its range.
    """
    problems: list[str] = []
    config = _build(Config, values, "", problems)
    if not problems:
        problems.extend(_cross_checks(config))
    if problems:
        raise ConfigError(problems)
    return config


def validate(config: Config) -> Config:
    """Checks a configuration that was built directly; see `from_dict`."""
    return from_dict(config.to_dict())


def differences(left: Mapping[str, Any], right: Mapping[str, Any]) -> list[str]:
    """Dotted names of the values in which two nested dictionaries differ."""
    a, b = dict(_flatten(left)), dict(_flatten(right))
    return sorted(key for key in a.keys() | b.keys() if a.get(key) != b.get(key))


def _flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, list(value) if isinstance(value, tuple) else value


def _build(cls, values, prefix, problems):
    fields = {field.name: field for field in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    if not isinstance(values, Mapping):
        name = prefix.rstrip(".") or "the configuration"
        problems.append(f"{name} is {values!r}; it must be a section of named values.")
        return cls()
    arguments = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in fields:
            problems.append(_unknown(name, key, fields))
        elif dataclasses.is_dataclass(hints[key]):
            arguments[key] = _build(hints[key], value, f"{name}.", problems)
        else:
            value, problem = _check(name, value, hints[key], fields[key].metadata)
            problems.extend([problem] if problem else [])
            arguments[key] = value
    return cls(**arguments)


def _unknown(name, key, fields):
    near = difflib.get_close_matches(str(key), fields, n=1, cutoff=0.0)[0]
    return f"{name} is not an option; the nearest one is {near!r}."


def _check(name, value, hint, rule):
    """Returns the value, converted where that loses nothing, and a problem or None."""
    options = typing.get_args(hint) or (hint,)
    if value is None and type(None) in options:
        return None, None
    if isinstance(value, (list, tuple)) and tuple[int, ...] in options:
        value = tuple(value)
        bad = [item for item in value if not _is_int(item)]
        if bad or not value:
            return value, f"{name} is {value!r}; it must be one or more whole numbers."
        ranges = (_range(name, item, _WHOLE | rule) for item in value)
        return value, next((problem for problem in ranges if problem), None)
    if int in options and _is_int(value):
        return int(value), _range(name, value, _WHOLE | rule)
    if float in options and isinstance(value, (int, float)) and _is_finite(value):
        return float(value), _range(name, float(value), rule)
    if bool in options and isinstance(value, bool):
        return value, None
    if str in options and isinstance(value, str):
        return value, _choice(name, value, rule.get("choices"))
    return value, f"{name} is {value!r}; it must be {_type_name(options)}."


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_finite(value):
    try:
        return not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # A whole number beyond the floats.
        return False


def _type_name(options):
    names = {
        int: "a whole number",
        float: "a finite number",
        bool: "True or False",
        str: "a string",
        type(None): "None",
    }
    return " or ".join(names.get(o, "a tuple of whole numbers") for o in options)


def _range(name, value, rule):
    low, high, above = rule.get("low"), rule.get("high"), rule.get("above")
    limits = [
        f"at least {low}" if low is not None else "",
        f"above {above}" if above is not None else "",
        f"at most {high}" if high is not None else "",
    ]
    wrong = (
        (low is not None and value < low)
        or (above is not None and value <= above)
        or (high is not None and value > high)
    )
    allowed = " and ".join(limit for limit in limits if limit)
    return f"{name} is {value!r}; it must be {allowed}." if wrong else None


def _choice(name, value, choices):
    if choices is None or value in choices:
        return None
    near = difflib.get_close_matches(value, choices, n=1, cutoff=0.0)[0]
    return (
        f"{name} is {value!r}; it must be one of {', '.join(choices)} "
        f"(nearest: {near!r})."
    )


def _cross_checks(config: Config) -> Iterator[str]:
    """Problems that concern several values at once."""
    synthetic, matching = config.synthetic, config.matching
    total = synthetic.images_per_class
    if isinstance(synthetic.segments, tuple):
        if sum(synthetic.segments) != total:
            yield (
                f"synthetic.segments is {synthetic.segments!r}, which sums to "
                f"{sum(synthetic.segments)}; it must sum to "
                f"synthetic.images_per_class = {total}."
            )
    elif synthetic.segments > total:
        yield (
            f"synthetic.segments is {synthetic.segments}; it must be at most "
            f"synthetic.images_per_class = {total}."
        )
    if config.steps_per_segment * len(config.segment_sizes) > _MOST:
        yield (
            f"matching.outer_iterations * inner_iterations is "
            f"{config.steps_per_segment} for each segment; all segments together may "
            f"take at most {_MOST} steps."
        )
    calls = config.runtime.steps_per_call
    if calls and config.steps_per_segment % calls:
        yield (
            f"runtime.steps_per_call is {calls}; it must divide the "
            f"{config.steps_per_segment} matching steps of a segment."
        )
    if (
        synthetic.decode == "bound"
        and max(config.segment_sizes) > matching.batch_syn_max
    ):
        yield (
            f"matching.batch_syn_max is {matching.batch_syn_max} with synthetic.decode "
            f"'bound'; it must be at least the {max(config.segment_sizes)} images per "
            "class of the largest segment."
        )
    if matching.surrogate == "inversion":
        yield from _inversion_checks(config)
    yield from _trajectory_checks(config)
    if matching.surrogate in ("distribution", "cafe"):
        yield from _feature_checks(config)
    if matching.distance == "cosine" and matching.match_norm_and_bias:
        yield (
            "matching.match_norm_and_bias is True with matching.distance 'cosine'; "
            "one-dimensional parameters have no direction per output unit, so it "
            "must be False."
        )


def _trajectory_checks(config: Config) -> Iterator[str]:
    """Problems of the experts' window, and of what trajectory matching cannot use."""
    settings, synthetic = config.trajectory, config.synthetic
    last = settings.max_start_epoch - 1 + settings.expert_epochs
    if last > settings.epochs:
        yield (
            f"trajectory.epochs is {settings.epochs}; it must be at least {last}, the "
            "last epoch that trajectory.max_start_epoch and trajectory.expert_epochs "
            "reach."
        )
    first = settings.first_max_start_epoch or settings.max_start_epoch
    if first > settings.max_start_epoch:
        yield (
            f"trajectory.first_max_start_epoch is {first}; it must be at most "
            f"trajectory.max_start_epoch = {settings.max_start_epoch}."
        )
    if settings.min_start_epoch >= first:
        yield (
            f"trajectory.min_start_epoch is {settings.min_start_epoch}; it must be "
            f"below {first}, where the window ends."
        )
    if config.matching.surrogate == "trajectory" and config.regularizer.name != "none":
        yield (
            f"regularizer.name is {config.regularizer.name!r} with matching.surrogate "
            "'trajectory'; it must be 'none', as the student trains on the earlier "
            "segments as well."
        )
    if settings.label_learning_rate and config.matching.surrogate != "trajectory":
        yield (
            f"trajectory.label_learning_rate is {settings.label_learning_rate} with "
            f"matching.surrogate {config.matching.surrogate!r}; labels are learned by "
            "trajectory matching alone, so it must be 0."
        )
    if synthetic.frozen_share and synthetic.init == "noise":
        yield (
            f"synthetic.frozen_share is {synthetic.frozen_share} with synthetic.init "
            "'noise'; noise must not be frozen, so it must be 0."
        )


def _feature_checks(config: Config) -> Iterator[str]:
    """Options of gradient matching that mean features do not have."""
    surrogate = config.matching.surrogate
    if config.matching.distance == "cosine":
        yield (
            f"matching.distance is 'cosine' with matching.surrogate {surrogate!r}; "
            "mean features have no output units, so it must be mse or l1."
        )
    if config.regularizer.name == "replay":
        yield (
            f"regularizer.name is 'replay' with matching.surrogate {surrogate!r}; it "
            "steps along a gradient, so it needs the surrogate 'gradient'."
        )
    for name in ("match_norm_and_bias", "match_classifier"):
        if getattr(config.matching, name):
            yield (
                f"matching.{name} is True with matching.surrogate {surrogate!r}; it "
                "chooses among gradients, so it must be False."
            )


def _inversion_checks(config: Config) -> Iterator[str]:
    """Options that the inversion of a teacher does not have."""
    if config.regularizer.name != "none" or config.matching.union:
        yield (
            f"regularizer.name is {config.regularizer.name!r} and matching.union is "
            f"{config.matching.union} with matching.surrogate 'inversion'; it takes no "
            "account of earlier segments, so they must be 'none' and False."
        )
    if not config.network_training.pretrain_epochs:
        yield (
            "network_training.pretrain_epochs is 0 with matching.surrogate "
            "'inversion'; the teacher has to be trained, so it must be at least 1."
        )
    if config.matching.outer_iterations > 1:
        yield (
            f"matching.outer_iterations is {config.matching.outer_iterations} with "
            "matching.surrogate 'inversion'; a segment has one teacher, so it must "
            "be 1."
        )

"""The configuration of a run: typed, frozen, checked before any compute.

`Config()` is the published IDC setting for CIFAR-10 with D4A's options at their
defaults. `from_dict` builds one from nested mappings (such as an
`ml_collections.ConfigDict`) and reports every problem at once.
"""

import dataclasses
import difflib
import sys
import typing
from collections.abc import Iterator, Mapping
from typing import Any


class ConfigError(ValueError):
    """All problems of a configuration, one per line."""

    def __init__(self, problems: list[str]):
        self.problems = tuple(problems)
        super().__init__("\n".join(problems))


def _field(default, *, low=None, high=None, above=None, choices=None):
    """A field with the range or the choices of its values."""
    rule = {"low": low, "high": high, "above": above, "choices": choices}
    return dataclasses.field(default=default, metadata=rule)


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

    `segments` is a number of equal segments or the images per class of each one.
    """

    images_per_class: int = _field(10, low=1)
    segments: int | tuple[int, ...] = _field(1, low=1)
    factor: int = _field(2, low=1, high=8)
    decode: str = _field("single", choices=("single", "multi", "bound"))
    init: str = _field("real", choices=("real", "noise"))


@dataclasses.dataclass(frozen=True)
class MatchingConfig:
    """The matching loss and how the pixels follow its gradient.

    A segment takes `outer_iterations * inner_iterations` matching steps, each on all
    classes. The pixel learning rate is `learning_rate * (images per class / 10) *
    (side / 32)**2` (IDC), with the images per class of the segment or of the total.
    """

    surrogate: str = _field("gradient", choices=("gradient",))
    distance: str = _field("mse", choices=("mse", "l1", "cosine"))
    match_norm_and_bias: bool = False
    match_classifier: bool = False
    batch_real: int = _field(64, low=1)
    batch_syn_max: int = _field(128, low=1)
    augmentation: str = "color_crop_cutout"
    learning_rate: float = _field(5e-3, above=0.0)
    learning_rate_scaling: str = _field("segment", choices=("segment", "total"))
    momentum: float = _field(0.5, low=0.0, high=0.999)
    outer_iterations: int = _field(2000, low=1)
    inner_iterations: int = _field(100, low=1)
    clip: str = _field("outer", choices=("outer", "step"))


@dataclasses.dataclass(frozen=True)
class NetworkTrainingConfig:
    """How the network moves on between two matching steps (IDC: on real data)."""

    data: str = _field("all", choices=("all", "filtered", "earlier"))
    images_per_step: int = _field(2000, low=0)
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
    """Cross-fitted networks trained on the real set: difficulty and noise guard."""

    folds: int = _field(2, low=2)
    networks: int = _field(1, low=1)
    epochs: int = _field(30, low=1)
    max_steps: int | None = _field(None, low=1)


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

    `compute_dtype` is the exception: bfloat16 rounds inside the networks. Zero leaves
    a choice to the backend. A data set that takes more than `image_memory_gb` (1e9
    bytes; by default a quarter of the memory) on a device is left on the host and
    read as it is drawn.
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
    network_training: NetworkTrainingConfig = NetworkTrainingConfig()
    filter: FilterConfig = FilterConfig()
    difficulty: DifficultyConfig = DifficultyConfig()
    regularizer: RegularizerConfig = RegularizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    seed: int = _field(0, low=0, high=2**31 - 1)

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
        worst = next((p for p in (_range(name, v, rule) for v in value) if p), None)
        return value, worst
    if int in options and _is_int(value):
        return int(value), _range(name, value, rule)
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
    return not isinstance(value, bool) and abs(value) <= sys.float_info.max


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
    calls = config.runtime.steps_per_call
    if calls and config.steps_per_segment % calls:
        yield (
            f"runtime.steps_per_call is {calls}; it must divide the "
            f"{config.steps_per_segment} matching steps of a segment."
        )
    if synthetic.decode == "bound" and max(config.segment_sizes) > matching.batch_syn_max:
        yield (
            f"matching.batch_syn_max is {matching.batch_syn_max} with synthetic.decode "
            f"'bound'; it must be at least the {max(config.segment_sizes)} images per "
            "class of the largest segment."
        )
    if matching.distance == "cosine" and matching.match_norm_and_bias:
        yield (
            "matching.match_norm_and_bias is True with matching.distance 'cosine'; "
            "one-dimensional parameters have no direction per output unit, so it "
            "must be False."
        )

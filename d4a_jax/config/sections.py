"""The options of a run by section: their types, defaults and ranges.

`Config()` is the published IDC setting for CIFAR-10 with D4A's options at their
defaults.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from d4a_jax.filters import RULES, Rule, easiest, kept_before, learnable, wrong
from d4a_jax.methods import (
    METHODS,
    GradientMatching,
    MethodOptions,
    NetworkTrainingConfig,
)
from d4a_jax.options import all_but, option
from d4a_jax.parts import Parts
from d4a_jax.regularizers import REGULARIZERS, Regularizer, replay


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """Which images to distill; see `d4a_jax.data.load_dataset`."""

    name: str = "cifar10"
    path: str | None = None
    size: int | None = option(None, low=4, high=1024)
    classes: int | tuple[int, ...] | None = option(None, low=0)
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

    images_per_class: int = option(10, low=1)
    segments: int | tuple[int, ...] = option(1, low=1)
    factor: int = option(2, low=1, high=8)
    decode: str = option("single", choices=("single", "multi", "bound"))
    init: str = option("real", choices=("real", "noise", "correct", "window"))
    skip_hardest: float = option(0.0, low=0.0)
    frozen_share: float = option(0.0, low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class MatchingConfig:
    """The matching steps, and how the pixels follow their gradient.

    A segment takes `outer_iterations * inner_iterations` matching steps, each on all
    classes. The pixel learning rate is `learning_rate * (images per class / 10) *
    (side / 32)**2` (IDC), with the images per class of the segment or of the total, or
    `learning_rate` itself with the scaling "none". It counts pixels in [0, 1] or
    normalized ones (`pixels`). None has `learning_rate` found by a short range test,
    see `range_test`.

    `optimizer` is momentum SGD or, with a cosine decay over the segment and `momentum`
    as its first beta, Adam (SRe2L). Momentum SGD steps after every class (IDC) or once
    for all (`steps`).
    """

    batch_real: int = option(64, low=1)
    batch_syn_max: int = option(128, low=1)
    augmentation: str = "color_crop_cutout"
    learning_rate: float | None = option(5e-3, above=0.0)
    learning_rate_scaling: str = option("segment", choices=("segment", "total", "none"))
    pixels: str = option("unit", choices=("unit", "normalized"))
    optimizer: str = option("sgd", choices=("sgd", "adam"))
    momentum: float = option(0.5, low=0.0, high=0.999)
    steps: str = option("per_class", choices=("per_class", "joint"))
    outer_iterations: int = option(2000, low=1)
    inner_iterations: int = option(100, low=1)
    clip: str = option("outer", choices=("outer", "step"))


@dataclasses.dataclass(frozen=True)
class ExpertsConfig:
    """Expert trajectories: `count` networks trained for `epochs` on the real set.

    By SGD at a constant rate, see `trajectories`. Trajectory matching matches them, and
    `synthetic.init` "correct" asks them which images are right.
    """

    count: int = option(100, low=1)
    epochs: int = option(50, low=1)
    batch_size: int = option(256, low=1)
    learning_rate: float = option(0.01, above=0.0)
    momentum: float = option(0.0, low=0.0, high=0.999)
    weight_decay: float = option(0.0, low=0.0)
    augmentation: str = "color_crop_cutout_flip_scale_rotate"
    cutmix_probability: float = option(0.0, low=0.0, high=1.0)
    storage_dtype: str = option("float32", choices=("float32", "bfloat16"))
    max_gigabytes: float = option(50.0, above=0.0)

    def identity(self) -> dict[str, Any]:
        """The values that determine the result: not the room that experts may take."""
        return all_but(self, ("max_gigabytes",))


@dataclasses.dataclass(frozen=True)
class FilterConfig:
    """The real images that are kept for the next segment (D4A's filter), see `filters`.

    By default a rule is made of `scope`, `vote`, `guard` and `keep_easiest`; `rule`
    names another one in its place, such as `my_package.my_module:mine`.
    """

    enabled: bool = True
    rule: str | None = option(None, registry=RULES)
    scope: str = option("full", choices=("full", "cumulative"))
    networks: int = option(3, low=1)
    vote: str = option("mean_softmax", choices=("mean_softmax", "majority"))
    min_per_class: int | None = option(None, low=1)
    max_discard: float = option(1.0, low=0.0, high=1.0)
    keep_easiest: float = option(1.0, above=0.0, high=1.0)
    guard: bool = False

    def make_rule(self) -> Rule:
        """The rule of this section.

        Images are hard that the networks get wrong. With the scope "cumulative" only
        those that were kept before count, with `guard` only learnable ones; and
        `keep_easiest` takes a share of what is left.
        """
        if self.rule is not None:
            return RULES[self.rule]()
        rule = wrong(self.vote)
        if self.scope == "cumulative":
            rule = rule & kept_before()
        if self.guard:
            rule = rule & learnable()
        if self.keep_easiest < 1.0:
            rule = easiest(self.keep_easiest, rule)
        return rule


@dataclasses.dataclass(frozen=True)
class DifficultyConfig:
    """Cross-fitted networks trained on the real set: difficulty and noise guard.

    Each of the `folds` is left out by `networks` networks of different seeds, which
    are looked at `checkpoints` times; most measures are means over the last
    `late_checkpoints` of these (all, where there are fewer).
    """

    folds: int = option(2, low=2)
    networks: int = option(2, low=1)
    epochs: int = option(30, low=1)
    max_steps: int | None = option(None, low=1)
    checkpoints: int = option(10, low=1)
    late_checkpoints: int = option(3, low=1)


@dataclasses.dataclass(frozen=True)
class RegularizerConfig:
    """The extra loss term that keeps earlier segments in force; see `regularizers`.

    `step_size` is that of `replay`.
    """

    name: str = option("none", registry=REGULARIZERS)
    weight: float = option(1.0, low=0.0)
    step_size: float = option(0.01, above=0.0)


@dataclasses.dataclass(frozen=True)
class EvaluationConfig:
    """Training from scratch on the distilled set (IDC's recipe, hard labels).

    `prefix_repeats` networks, by default all `repeats`, test the prefixes before the
    last segment.
    """

    enabled: bool = True
    network: str | None = None
    repeats: int = option(5, low=1)
    prefix_repeats: int | None = option(None, low=1)
    epochs: int = option(1000, low=1)
    max_steps: int | None = option(None, low=1)
    batch_size: int = option(64, low=1)
    learning_rate: float = option(0.01, above=0.0)
    momentum: float = option(0.9, low=0.0, high=0.999)
    weight_decay: float = option(5e-4, low=0.0)
    augmentation: str = "color_crop_flip_scale_rotate"
    cutmix_probability: float = option(0.5, low=0.0, high=1.0)


@dataclasses.dataclass(frozen=True)
class RuntimeConfig:
    """How the work is laid out on the hardware; none of it changes the result.

    `compute_dtype` is the exception: bfloat16 rounds inside the networks. So is, after
    a divergence, `steps_per_call`, see `divergence`. A device works on `class_chunk`
    classes or networks at once. Zero leaves a choice to the backend. A data set that
    takes more than `image_memory_gb` (1e9 bytes; by default a quarter of the memory) on
    a device is left on the host and read as it is drawn.
    """

    compute_dtype: str = option("float32", choices=("float32", "bfloat16"))
    devices: int = option(0, low=0)
    class_chunk: int = option(0, low=0)
    steps_per_call: int = option(0, low=0)
    predict_batch: int = option(256, low=1)
    image_memory_gb: float | None = option(None, low=0.0)
    checkpoint_seconds: float = option(120.0, low=0.0)
    keep_checkpoints: int = option(2, low=1)

    def identity(self) -> dict[str, Any]:
        """What determines the result: not the layout, nor the checkpoints."""
        layout = ("devices", "class_chunk", "steps_per_call", "predict_batch")
        saving = ("image_memory_gb", "checkpoint_seconds", "keep_checkpoints")
        return all_but(self, layout + saving)


@dataclasses.dataclass(frozen=True)
class Config:
    """Everything that determines a distilled dataset.

    `parts` are objects of a program, which a file cannot hold.
    """

    data: DataConfig = DataConfig()
    network: str = "convnet"
    synthetic: SyntheticConfig = SyntheticConfig()
    matching: MatchingConfig = MatchingConfig()
    method: MethodOptions = GradientMatching()
    experts: ExpertsConfig = ExpertsConfig()
    network_training: NetworkTrainingConfig = NetworkTrainingConfig()
    filter: FilterConfig = FilterConfig()
    difficulty: DifficultyConfig = DifficultyConfig()
    regularizer: RegularizerConfig = RegularizerConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    runtime: RuntimeConfig = RuntimeConfig()
    seed: int = option(0, low=0)
    parts: Parts = Parts()

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
    def method_name(self) -> str:
        """The registered name of the method, or its import path."""
        return METHODS.name_of(type(self.method))

    @property
    def uses_previous(self) -> bool:
        """Whether making a segment takes the earlier ones into account."""
        training = self.network_training
        return (
            self.has_regularizer
            or self.method.uses_previous
            or training.stage_epochs > 0
            or training.data in ("earlier", "synthetic")
        )

    @property
    def uses_experts(self) -> bool:
        """Whether expert trajectories are needed, by the method or the first images."""
        return self.method.uses_experts or self.synthetic.init == "correct"

    def make_rule(self) -> Rule:
        """The rule of the filter."""
        return self.parts.rule or self.filter.make_rule()

    @property
    def has_regularizer(self) -> bool:
        """Whether the loss has the extra term, by name or as an object."""
        return self.parts.regularizer is not None or self.regularizer.name != "none"

    @property
    def shown_regularizer(self) -> str:
        """The regularizer as messages name it."""
        given = self.parts.regularizer is not None
        return "an object" if given else repr(self.regularizer.name)

    def make_regularizer(self) -> Regularizer:
        """The regularizer of the section of that name."""
        if self.parts.regularizer is not None:
            return self.parts.regularizer
        section = self.regularizer
        factory = REGULARIZERS[section.name]
        if factory is replay:
            return replay(section.weight, section.step_size)
        return factory(section.weight)

    def of_data(self, source: Mapping[str, Any]) -> "Config":
        """The configuration with the data that it is used on in its section `data`.

        Args:
          source: `name`, `path`, `size` and `classes`, as in `Dataset.source`.
        """
        classes = source["classes"]
        data = dataclasses.replace(
            self.data,
            name=source["name"],
            path=source["path"],
            size=source["size"],
            classes=tuple(classes) if isinstance(classes, list) else classes,
        )
        return dataclasses.replace(self, data=data)

    def to_dict(self) -> dict[str, Any]:
        """Nested dictionaries of plain values, as `from_dict` takes them.

        Parts that were given as objects are described, and only where there are any;
        `from_dict` refuses these.
        """
        sections = dataclasses.replace(self, parts=Parts())
        values = dataclasses.asdict(sections)
        del values["parts"]
        values["method"] = {"name": self.method_name, **values["method"]}
        return values | ({"parts": self.parts.identity()} if self.parts else {})

    def identity(self) -> dict[str, Any]:
        """The part of `to_dict` that determines the result: no paths, no layout.

        A section says itself what it leaves out; one that does not counts as a whole.
        """
        own = {
            name: section.identity()
            for name, section in vars(self).items()
            if hasattr(section, "identity") and name != "parts"
        }
        return self.to_dict() | own

"""Another legal value for every field of the configuration, and whether it matters.

For tests of what identifies a run: a field that is missing here fails one of them.
"""

import dataclasses
from typing import Any, NamedTuple

from d4a_jax.config import Config, from_dict

# Every change below is legal on top of this, and a run takes moments.
BASE = {
    "network": "convnet:width=4:depth=1",
    "synthetic": {"images_per_class": 2, "segments": 2, "factor": 2},
    "matching": {
        "batch_real": 4,
        "learning_rate": 1.0,
        "outer_iterations": 2,
        "inner_iterations": 2,
    },
    "network_training": {"images_per_step": 8, "batch_size": 8},
    "filter": {"networks": 1, "min_per_class": 3},
    "evaluation": {"repeats": 1, "max_steps": 3, "batch_size": 8},
    "experts": {"count": 2, "epochs": 4},
    "runtime": {"devices": 1, "checkpoint_seconds": 0.0},
}

_MATTERS = {
    "network": "convnet:width=5:depth=1",
    "synthetic.images_per_class": 4,
    "synthetic.segments": 1,
    "synthetic.factor": 1,
    "synthetic.decode": "multi",
    "synthetic.init": "noise",
    "synthetic.skip_hardest": 0.5,
    "synthetic.frozen_share": 0.5,
    "method.name": "distribution_matching",
    "method.distance": "l1",
    "method.match_norm_and_bias": True,
    "method.match_classifier": True,
    "method.union": True,
    "matching.batch_real": 5,
    "matching.batch_syn_max": 6,
    "matching.augmentation": "none",
    "matching.learning_rate": 2.0,
    "matching.learning_rate_scaling": "total",
    "matching.pixels": "normalized",
    "matching.optimizer": "adam",
    "matching.momentum": 0.25,
    "matching.steps": "joint",
    "matching.outer_iterations": 4,
    "matching.inner_iterations": 4,
    "matching.clip": "step",
    "experts.count": 3,
    "experts.epochs": 5,
    "experts.batch_size": 128,
    "experts.learning_rate": 0.02,
    "experts.momentum": 0.5,
    "experts.weight_decay": 1e-3,
    "experts.augmentation": "none",
    "experts.cutmix_probability": 0.5,
    "experts.storage_dtype": "bfloat16",
    "network_training.data": "filtered",
    "network_training.images_per_step": 16,
    "network_training.stage_epochs": 1,
    "network_training.pretrain_epochs": 1,
    "network_training.batch_size": 4,
    "network_training.learning_rate": 0.02,
    "network_training.momentum": 0.5,
    "network_training.weight_decay": 1e-3,
    "network_training.augmentation": "none",
    "network_training.cutmix_probability": 0.25,
    "filter.enabled": False,
    "filter.rule": "wrong",
    "filter.scope": "cumulative",
    "filter.networks": 2,
    "filter.vote": "majority",
    "filter.min_per_class": 4,
    "filter.max_discard": 0.5,
    "filter.keep_easiest": 0.5,
    "filter.guard": True,
    "difficulty.folds": 3,
    "difficulty.networks": 1,
    "difficulty.epochs": 2,
    "difficulty.max_steps": 5,
    "difficulty.checkpoints": 4,
    "difficulty.late_checkpoints": 2,
    "regularizer.name": "union",
    "regularizer.weight": 0.5,
    "regularizer.step_size": 0.02,
    "evaluation.enabled": False,
    "evaluation.network": "convnet:width=6:depth=1",
    "evaluation.repeats": 2,
    "evaluation.prefix_repeats": 2,
    "evaluation.epochs": 2,
    "evaluation.max_steps": 4,
    "evaluation.batch_size": 4,
    "evaluation.learning_rate": 0.02,
    "evaluation.momentum": 0.5,
    "evaluation.weight_decay": 1e-3,
    "evaluation.augmentation": "none",
    "evaluation.cutmix_probability": 0.25,
    "runtime.compute_dtype": "bfloat16",
    "seed": 1,
}

# Options of the other methods, which stand in the place of those of the base.
OF_METHODS = {
    "distribution_matching": {
        "distance": "l1",
        "features": "layers",
        "union": True,
    },
    "cafe": {
        "distance": "l1",
        "early_weight": 0.2,
        "discrimination": 0.02,
        "union": True,
    },
    "inversion": {"statistics_weight": 2.0},
    "trajectory_matching": {
        "min_start_epoch": 1,
        "max_start_epoch": 2,
        "first_max_start_epoch": 2,
        "expansion_steps": 3,
        "expert_epochs": 1,
        "epochs_follow_filter": False,
        "student_steps": 4,
        "batch_syn": 2,
        "step_size": 0.02,
        "step_size_learning_rate": 1e-4,
        "skip_loss_above": 1.0,
        "label_learning_rate": 0.5,
        "label_momentum": 0.5,
    },
}

# Those of the data set that is distilled count instead, whatever these are.
_OF_DATA = {"data.name": "digits", "data.size": 16, "data.classes": 2}

_CHANGES_NOTHING = {
    "data.path": "elsewhere",
    "data.data_dir": "elsewhere",
    "data.manual_dir": "elsewhere",
    "data.download": False,
    "experts.max_gigabytes": 5.0,
    "runtime.devices": 2,
    "runtime.class_chunk": 2,
    "runtime.steps_per_call": 2,
    "runtime.predict_batch": 7,
    "runtime.image_memory_gb": 0.0,
    "runtime.checkpoint_seconds": 3.0,
    "runtime.keep_checkpoints": 3,
}


class Change(NamedTuple):
    """A field and its other value."""

    field: str
    value: Any

    def config(self, base: dict[str, Any] = BASE) -> Config:
        """The base with this field changed."""
        section, _, name = self.field.rpartition(".")
        own = {section: {name: self.value}} if section else {name: self.value}
        return from_dict(merged(base, own))


def merged(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Nested values with those of other sections put over them."""
    result = dict(values)
    for name, change in changes.items():
        is_section = isinstance(change, dict)
        result[name] = {**values.get(name, {}), **change} if is_section else change
    return result


MATTERS = tuple(Change(*item) for item in _MATTERS.items())
CHANGES_NOTHING = tuple(Change(*item) for item in _CHANGES_NOTHING.items())
OF_DATA = tuple(Change(*item) for item in _OF_DATA.items())
CHANGES = MATTERS + CHANGES_NOTHING + OF_DATA


def all_fields() -> set[str]:
    """Dotted names of every field of the configuration."""
    names = {"method.name"}
    for field in dataclasses.fields(Config):
        value = getattr(Config(), field.name)
        if field.name == "parts":
            continue  # Objects, see test_extension.
        if dataclasses.is_dataclass(value):
            names |= {f"{field.name}.{part.name}" for part in dataclasses.fields(value)}
        else:
            names.add(field.name)
    return names

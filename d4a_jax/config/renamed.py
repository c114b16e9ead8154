"""Former names of options, so that old configurations and old runs still mean the same.

The options of the methods once stood in `matching` and `trajectory` together; now each
method has its own, in `method`.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from d4a_jax.methods import METHODS, MethodOptions
from d4a_jax.registry import UnknownName

# Former values of `matching.surrogate`, and the names of the methods.
SURROGATES = {
    "gradient": "gradient_matching",
    "distribution": "distribution_matching",
    "cafe": "cafe",
    "inversion": "inversion",
    "trajectory": "trajectory_matching",
}

# Former options of methods, with their former defaults.
_OF_METHODS = {
    "matching": {
        "distance": "mse",
        "match_norm_and_bias": False,
        "match_classifier": False,
        "features": "embedding",
        "early_weight": 0.1,
        "discrimination": 0.01,
        "statistics_weight": 1.0,
        "union": False,
    },
    "trajectory": {
        "min_start_epoch": 0,
        "max_start_epoch": 20,
        "first_max_start_epoch": None,
        "expansion_steps": 0,
        "expert_epochs": 2,
        "epochs_follow_filter": True,
        "student_steps": 30,
        "batch_syn": None,
        "step_size": 0.01,
        "step_size_learning_rate": 1e-5,
        "skip_loss_above": None,
        "label_learning_rate": 0.0,
        "label_momentum": 0.9,
    },
}

# Former options of the experts, and their names in `experts`.
_OF_EXPERTS = {
    "experts": "count",
    "epochs": "epochs",
    "batch_size": "batch_size",
    "learning_rate": "learning_rate",
    "momentum": "momentum",
    "weight_decay": "weight_decay",
    "augmentation": "augmentation",
    "cutmix_probability": "cutmix_probability",
    "storage_dtype": "storage_dtype",
    "max_gigabytes": "max_gigabytes",
}


def new_name(name: str) -> str:
    """The present name of an option, such as `method.distance`.

    Example:
      >>> new_name("matching.surrogate"), new_name("trajectory.experts")
      ('method.name', 'experts.count')
    """
    section, _, option = name.partition(".")
    if name == "matching.surrogate":
        return "method.name"
    if option in _OF_METHODS.get(section, {}):
        return f"method.{option}"
    if section == "trajectory" and option in _OF_EXPERTS:
        return f"experts.{_OF_EXPERTS[option]}"
    return name


def with_new_names(values: Any) -> tuple[Any, list[str]]:
    """Moves options with former names to their places.

    An option that the method does not have is left out where it has its former default,
    which had no effect.

    Args:
      values: nested mappings, as `from_dict` takes them; not changed.

    Returns:
      The values under present names, and a sentence for each one that has no place.
    """
    if not isinstance(values, Mapping):
        return values, []
    sections = {
        name: dict(section) if isinstance(section, Mapping) else section
        for name, section in values.items()
    }
    former = [
        (f"{name}.{option}", value)
        for name in ("matching", "trajectory")
        if isinstance(sections.get(name), dict)
        for option, value in list(sections[name].items())
        if new_name(f"{name}.{option}") != f"{name}.{option}"
    ]
    if not former:
        return values, []
    problems: list[str] = []
    # The name of the method first: it says which options there are.
    for name, value in sorted(former, key=lambda pair: pair[0] != "matching.surrogate"):
        section, _, option = name.partition(".")
        del sections[section][option]
        problems.extend(_move(sections, name, value))
    if not sections.get("trajectory", True):
        del sections["trajectory"]
    return sections, problems


def _move(sections, name, value):
    section, _, option = new_name(name).partition(".")
    place = sections.setdefault(section, {})
    if not isinstance(place, dict):
        return []  # `from_dict` says that it must be a section.
    if name == "matching.surrogate":
        value = SURROGATES.get(value, value)
    elif section == "method":
        fields = _fields(place.get("name", "gradient_matching"))
        if option not in fields:
            old_section, _, _ = name.partition(".")
            if value == _OF_METHODS[old_section][option]:
                return []
            return [
                f"{name} is {value!r}, which is method.{option} now; method.name "
                f"{place.get('name', 'gradient_matching')!r} has no such option."
            ]
    if place.get(option, value) != value:
        return [
            f"{name} is {value!r}, but it is {section}.{option} now, which is "
            f"{place[option]!r}; give {section}.{option} alone."
        ]
    place[option] = value
    return []


def _fields(method) -> set[str]:
    try:
        options = METHODS[method] if isinstance(method, str) else MethodOptions
    except UnknownName:
        return set()
    if not dataclasses.is_dataclass(options):
        return set()
    return {field.name for field in dataclasses.fields(options)}

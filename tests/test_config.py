"""Building and checking configurations."""

import dataclasses
import math
import typing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from d4a_jax import config as configs
from d4a_jax.config import Config, ConfigError, from_dict
from d4a_jax.data import from_arrays
from d4a_jax.distillation.run import check_fit
from d4a_jax.methods import GradientMatching, MethodOptions
from d4a_jax.parts import Parts
from experiments.run import plan


def leaves(cls=Config, prefix=()):
    """Path, type hint and metadata of every option."""
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        path = (*prefix, field.name)
        hint = hints[field.name]
        if hint is Parts:
            continue
        hint = GradientMatching if hint is MethodOptions else hint
        if dataclasses.is_dataclass(hint):
            yield from leaves(hint, path)
        else:
            yield path, hint, field.metadata


LEAVES = list(leaves())


def nested(pairs):
    """`{"a": {"b": 1}}` of `[(("a", "b"), 1)]`."""
    values = {}
    for path, value in pairs:
        section = values
        for name in path[:-1]:
            section = section.setdefault(name, {})
        section[path[-1]] = value
    return values


def problems_of(values):
    with pytest.raises(ConfigError) as caught:
        from_dict(values)
    return caught.value.problems


def test_nothing_gives_the_defaults():
    assert from_dict({}) == Config()


def test_dictionary_round_trip():
    config = from_dict(
        {"data": {"classes": [3, 1]}, "synthetic": {"segments": (4, 6)}, "seed": 5}
    )
    assert from_dict(config.to_dict()) == config
    assert config.data.classes == (3, 1)
    assert configs.validate(config) == config


def test_all_problems_are_named_at_once_with_value_and_remedy():
    found = problems_of(
        {
            "sed": 1,
            "matching": {"learning_rat": 0.1, "momentum": 1.0},
            "method": {"distance": "l3"},
            "filter": {"guard": 1},
            "data": {"classes": [1, 2.5]},
            "synthetic": 3,
        }
    )
    assert found == (
        "sed is not an option; the nearest one is 'seed'.",
        "matching.learning_rat is not an option; the nearest one is 'learning_rate'.",
        "matching.momentum is 1.0; it must be at least 0.0 and at most 0.999.",
        "method.distance is 'l3'; it must be one of mse, l1, cosine (nearest: 'l1').",
        "filter.guard is 1; it must be True or False.",
        "data.classes is (1, 2.5); it must be one or more whole numbers.",
        "synthetic is 3; it must be a section of named values.",
    )


@pytest.mark.parametrize(
    ("path", "value", "allowed"),
    [
        ("matching.learning_rate", 0, "above 0.0"),
        ("matching.learning_rate", math.nan, "a finite number"),
        ("matching.learning_rate", math.inf, "a finite number"),
        ("matching.learning_rate", 10**400, "a finite number"),
        ("matching.outer_iterations", 2.0, "a whole number"),
        ("matching.outer_iterations", True, "a whole number"),
        ("synthetic.images_per_class", 0, "at least 1"),
        ("synthetic.segments", (), "one or more whole numbers"),
        ("synthetic.segments", (5, 0), "at least 1"),
        ("data.size", "32", "a whole number or None"),
        ("data.name", None, "a string"),
        ("filter.max_discard", 1.5, "at least 0.0 and at most 1.0"),
        ("seed", 2**31, "at most 2147483647"),
    ],
)
def test_values_out_of_range_or_of_a_wrong_type(path, value, allowed):
    (problem,) = problems_of(nested([(path.split("."), value)]))
    assert problem.startswith(f"{path} is ") and allowed in problem


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"synthetic": {"segments": [3, 4]}}, ["(3, 4)", "sums to 7", "class = 10"]),
        ({"synthetic": {"segments": 11}}, ["synthetic.segments is 11", "10"]),
        ({"runtime": {"steps_per_call": 7}}, ["steps_per_call is 7", "200000"]),
        (
            {"matching": {"distance": "cosine", "match_norm_and_bias": True}},
            ["match_norm_and_bias", "'cosine'"],
        ),
    ],
)
def test_values_that_do_not_fit_together(values, words):
    (problem,) = problems_of(values)
    assert all(word in problem for word in words), problem


def test_whole_numbers_stand_for_floats_and_lists_for_tuples():
    config = from_dict({"matching": {"momentum": 0}, "synthetic": {"segments": [9, 1]}})
    assert isinstance(config.matching.momentum, float)
    assert config.segment_sizes == (9, 1)


@pytest.mark.parametrize(
    ("total", "segments", "sizes"),
    [(10, 1, (10,)), (10, 5, (2,) * 5), (10, 3, (4, 3, 3)), (3, 3, (1, 1, 1))],
)
def test_segment_sizes(total, segments, sizes):
    values = {"images_per_class": total, "segments": segments}
    assert from_dict({"synthetic": values}).segment_sizes == sizes


def test_identity_holds_what_determines_the_result_and_nothing_else():
    layout = {"devices": 3, "class_chunk": 2, "checkpoint_seconds": 1.0}
    paths = {"data_dir": "a", "manual_dir": "b", "path": "c", "download": False}
    same = from_dict({"runtime": layout, "data": paths})
    assert same.identity() == Config().identity()
    other = from_dict({"runtime": {"compute_dtype": "bfloat16"}, "seed": 1})
    found = configs.differences(other.identity(), Config().identity())
    assert found == ["runtime.compute_dtype", "seed"]


def values_of(hint, rule):
    """Values that an option allows."""
    options = typing.get_args(hint) or (hint,)
    if names := rule.get("choices") or rule.get("registry"):
        return st.sampled_from(list(names))
    low = max(rule.get("low") or 0, rule.get("above") or 0)
    kinds = {
        bool: st.booleans(),
        str: st.text(max_size=5),
        int: st.integers(int(low), rule.get("high") or 9),
        float: st.floats(low + 1e-6, rule.get("high") or 9.0),
        type(None): st.none(),
        tuple[int, ...]: st.lists(st.integers(int(low), 3), min_size=1, max_size=4),
    }
    return st.one_of([kinds[option] for option in options])


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.sampled_from([10**400, -(10**400), 2**63])
    | st.floats()
    | st.text(max_size=6)
    | st.binary(max_size=3)
    | st.builds(object),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=4) | st.integers(), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = st.sampled_from(sorted({name for path, _, _ in LEAVES for name in path}))
PAIRS = st.one_of(
    st.sampled_from(LEAVES).flatmap(
        lambda leaf: st.tuples(st.just(leaf[0]), values_of(*leaf[1:]))
    ),
    st.sampled_from(LEAVES).flatmap(lambda leaf: st.tuples(st.just(leaf[0]), JUNK)),
)


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(PAIRS, max_size=8),
    st.dictionaries(NAMES | st.text(max_size=6) | st.integers(), JUNK, max_size=3),
)
def test_any_nested_values_give_a_configuration_or_a_config_error(pairs, more):
    values = nested(pairs) | more
    try:
        config = from_dict(values)
    except ConfigError as error:
        assert error.problems and all(error.problems)
    else:
        assert from_dict(config.to_dict()) == config


SPECS = st.sampled_from(
    ["convnet", "convnet:width=4", "resnet18", "vit", "convnt", "convnet:depth=9", ""]
)
STRATEGIES = st.sampled_from(["none", "color_crop", "flip", "color_flop", "", "_"])


@pytest.fixture(scope="module")
def dataset():
    images = np.zeros((6, 8, 8, 3), np.uint8)
    labels = np.arange(6) % 3
    return from_arrays("tiny", images, labels, images, labels, flip=False)


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(
        st.sampled_from(LEAVES).flatmap(
            lambda leaf: st.tuples(st.just(leaf[0]), values_of(*leaf[1:]) | JUNK)
        ),
        max_size=3,
    ),
    SPECS,
    st.none() | SPECS,
    st.tuples(STRATEGIES, STRATEGIES, STRATEGIES),
)
def test_any_values_give_the_plan_of_a_run_or_a_config_error(
    dataset, pairs, network, judge, strategies
):
    """What `experiments/run.py` does before it computes anything."""
    values = nested(pairs)
    values.setdefault("network", network)
    sections = ("matching", "network_training", "evaluation")
    for name, strategy in zip(sections, strategies):
        section = values.setdefault(name, {})
        if isinstance(section, dict):
            section.setdefault("augmentation", strategy)
    if isinstance(values["evaluation"], dict):
        values["evaluation"].setdefault("network", judge)
    try:
        config = from_dict(values)
        check_fit(config, dataset)
        shown = plan(config, dataset, Path("runs"))
    except ConfigError as error:
        assert error.problems
        assert all(problem.strip().endswith(".") for problem in error.problems)
    else:
        assert config.network in shown and "3 classes" in shown


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.sampled_from(LEAVES).flatmap(
            lambda leaf: st.tuples(st.just(leaf[0]), values_of(*leaf[1:]))
        ),
        max_size=8,
    )
)
def test_allowed_values_are_never_called_wrong_on_their_own(pairs):
    try:
        from_dict(nested(pairs))
    except ConfigError as error:
        # Only values that do not fit together may remain.
        combined = (
            "synthetic.segments",
            "synthetic.frozen_share",
            "runtime.steps_per_call",
            "matching.",
            "network_training.pretrain_epochs",
            "regularizer.name",
            "method.",
        )
        assert all(problem.startswith(combined) for problem in error.problems)

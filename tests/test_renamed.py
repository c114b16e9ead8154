"""Former names of options: the same configuration, or a sentence with the new name."""

import pytest

from d4a_jax.config import ConfigError, from_dict
from d4a_jax.config.renamed import SURROGATES, new_name, with_new_names
from experiments import config_flag


@pytest.mark.parametrize(
    ("former", "present"),
    [
        ({"matching": {"distance": "l1"}}, {"method": {"distance": "l1"}}),
        (
            {"matching": {"surrogate": "cafe", "early_weight": 0.5, "batch_real": 3}},
            {
                "method": {"name": "cafe", "early_weight": 0.5},
                "matching": {"batch_real": 3},
            },
        ),
        (
            {
                "trajectory": {"experts": 3, "epochs": 30, "student_steps": 5},
                "matching": {"surrogate": "trajectory"},
            },
            {
                "method": {"name": "trajectory_matching", "student_steps": 5},
                "experts": {"count": 3, "epochs": 30},
            },
        ),
        # Former defaults of options that the method does not have had no effect.
        (
            {"matching": {"surrogate": "distribution", "match_classifier": False}},
            {"method": {"name": "distribution_matching"}},
        ),
        ({"trajectory": {"student_steps": 30}}, {}),
        # Both names with one value.
        (
            {"matching": {"distance": "l1"}, "method": {"distance": "l1"}},
            {"method": {"distance": "l1"}},
        ),
    ],
)
def test_former_names_mean_the_same(former, present):
    assert from_dict(former) == from_dict(present)


def test_present_names_are_left_as_they_are():
    values = {"method": {"name": "cafe"}, "matching": {"batch_real": 3}}
    assert with_new_names(values) == (values, [])
    assert new_name("matching.batch_real") == "matching.batch_real"


def test_every_former_method_has_a_name():
    for former, present in SURROGATES.items():
        values = {
            "matching": {"surrogate": former, "outer_iterations": 1},
            "network_training": {"pretrain_epochs": 1},
        }
        assert from_dict(values).method_name == present


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"matching": {"distance": "l1"}, "method": {"distance": "mse"}},
            "matching.distance is 'l1', but it is method.distance now, which is 'mse'",
        ),
        (
            {"matching": {"early_weight": 0.5}},
            "matching.early_weight is 0.5.*'gradient_matching' has no such option",
        ),
        (
            {"matching": {"surrogate": "distribution", "distance": "cosine"}},
            "method.distance is 'cosine'",
        ),
        ({"matching": {"surrogate": "nothing"}}, "'nothing' is no method"),
        ({"trajectory": {"nothing": 1}}, "trajectory is not an option"),
    ],
)
def test_former_names_without_a_place_are_refused(values, words):
    with pytest.raises(ConfigError, match=words):
        from_dict(values)


def parse(*flags):
    return config_flag.parse(["run.py", *flags])[0].config


def test_the_command_line_knows_both_names():
    found = parse("--config.matching.distance=l1")
    assert found == parse("--config.method.distance=l1")
    assert found.method.distance == "l1"


def test_the_command_line_chooses_a_method_before_its_options():
    flags = ("--config.method.early_weight=0.5", "--config.method.name=cafe")
    found = parse(*flags)
    assert found.method_name == "cafe" and found.method.early_weight == 0.5
    former = ("--config.matching.early_weight=0.5", "--config.matching.surrogate=cafe")
    assert parse(*former) == found
    assert parse("--config.method.name", "cafe").method_name == "cafe"


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.method.early_weight=0.5", "method.early_weight is not an option"),
        ("--config.method.name=caff", "nearest: 'cafe'"),
        ("--config.matching.surrogate=caff", "nearest: 'cafe'"),
    ],
)
def test_the_command_line_refuses_what_no_method_has(flag, words):
    with pytest.raises(ConfigError, match=words):
        parse(flag)

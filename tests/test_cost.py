"""Image passes by hand."""

import pytest

from d4a_jax.config import from_dict
from d4a_jax.cost import matching_passes, total_passes

BASE = {
    "synthetic": {"images_per_class": 3, "segments": [1, 2], "factor": 2},
    "matching": {
        "batch_real": 10,
        "batch_syn_max": 6,
        "outer_iterations": 5,
        "inner_iterations": 2,
    },
    "network_training": {"images_per_step": 7},
}


def make(**sections):
    values = dict(BASE)
    for name, changes in sections.items():
        values[name] = values.get(name, {}) | changes
    return from_dict(values)


# Ten steps for each segment; 4 formed images in the first, 6 of 8 in the second.
@pytest.mark.parametrize(
    "sections, first, second",
    [
        ({}, 30 + 28, 30 + 42),
        ({"regularizer": {"name": "anchor"}}, 58, 72 + 30),
        ({"regularizer": {"name": "union"}}, 58, 72 + 30 + 12),
        ({"method": {"union": True}}, 58, 72 + 12),
        (
            {"method": {"union": True}, "regularizer": {"name": "union"}},
            58,
            72 + 30 + 12,
        ),
        ({"method": {"name": "distribution_matching"}}, 10 + 8, 10 + 12),
        ({"method": {"name": "cafe"}}, 20 + 12, 20 + 18),
    ],
)
def test_matching_passes(sections, first, second):
    assert matching_passes(make(**sections)) == 10 * (first + second)


def test_total_passes_count_classes_and_network_training():
    # A network is trained once between the two steps of each of 2 x 5 networks.
    assert total_passes(make(), 4, 100) == 4 * 10 * (58 + 72) + 3 * 10 * 7


def test_total_passes_count_training_on_stages():
    config = make(network_training={"stage_epochs": 3})
    # Five networks of the second segment see 4 formed images of 4 classes, 3 times.
    assert (
        total_passes(config, 4, 100) - total_passes(make(), 4, 100) == 3 * 5 * 3 * 4 * 4
    )


def test_total_passes_count_pretraining_on_the_real_images():
    config = make(network_training={"pretrain_epochs": 2})
    extra = total_passes(config, 4, 100) - total_passes(make(), 4, 100)
    assert extra == 3 * 10 * 2 * 100


@pytest.mark.parametrize("batch_syn, second", [(None, 4 * 12), (20, 20)])
def test_students_pass_over_the_batches_of_the_union(batch_syn, second):
    """Four classes: 16 formed images in the first segment, 48 in both, three steps."""
    config = make(
        method={
            "name": "trajectory_matching",
            "student_steps": 3,
            "batch_syn": batch_syn,
        },
    )
    assert total_passes(config, 4, 100) == 10 * 3 * 9 * (16 + second)

"""The filter's verdict against NumPy, and its rules one by one."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import chex
import jax
import numpy as np
import pytest

from d4a_jax import filters
from d4a_jax.config import ConfigError, FilterConfig, from_dict

YES, NO = True, False


def _softmax(logits):
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_verdict_equals_numpy():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(3, 50, 4)).astype(np.float32) * 3
    labels = rng.integers(0, 4, 50)
    found = jax.jit(filters.verdict)(logits, labels)
    mean = _softmax(logits.astype(np.float64)).mean(0)
    for i, label in enumerate(labels):
        others = np.delete(mean[i], label)
        np.testing.assert_allclose(
            found.margin[i], mean[i, label] - others.max(), rtol=1e-4, atol=1e-6
        )
        right = sum(logits[e, i].argmax() == label for e in range(3))
        np.testing.assert_allclose(found.votes[i], right / 3, rtol=1e-6)
    np.testing.assert_array_equal(found.margin > 0, mean.argmax(1) == labels)


def test_margins_reach_one_and_minus_one():
    logits = np.array([[[90.0, 0.0, 0.0], [0.0, 90.0, 0.0]]], np.float32)
    margin = filters.verdict(logits, np.array([0, 0])).margin
    np.testing.assert_allclose(margin, [1.0, -1.0], atol=1e-6)


def _verdict(margin, votes=None):
    margin = np.array(margin, np.float32)
    votes = np.where(margin > 0, 1.0, 0.0) if votes is None else np.array(votes)
    return filters.Verdict(margin, votes)


def _all(result):
    return np.ones(result.margin.shape, bool)


def _select(
    result,
    valid=None,
    floor=0,
    previously=None,
    learnable=None,
    difficulty=None,
    **options,
):
    valid = _all(result) if valid is None else np.array(valid)
    to_array = lambda x: None if x is None else np.array(x)
    config = FilterConfig(**options)
    evidence = filters.Evidence(
        valid,
        result,
        to_array(previously),
        {"learnable": to_array(learnable), "loss": to_array(difficulty)},
    )
    rule = config.make_rule()
    return filters.select(evidence, rule, floor, config.max_discard, config.vote)


def test_what_is_wrong_is_kept():
    chosen = _select(_verdict([[0.5, -0.5, 0.1], [-0.9, 0.0, -0.1]]))
    np.testing.assert_array_equal(chosen.easy, [[YES, NO, YES], [NO, NO, NO]])
    np.testing.assert_array_equal(chosen.kept, ~chosen.easy)
    assert not chosen.topped_up.any()


def test_padding_is_neither_easy_nor_kept():
    chosen = _select(_verdict([[0.5, -0.5, 0.5, -0.5]]), [[YES, YES, NO, NO]], floor=4)
    np.testing.assert_array_equal(chosen.easy, [[YES, NO, NO, NO]])
    np.testing.assert_array_equal(chosen.kept, [[YES, YES, NO, NO]])
    np.testing.assert_array_equal(chosen.topped_up, [[YES, NO, NO, NO]])


def test_majority_vote_does_not_look_at_the_margin():
    result = _verdict([[0.5, -0.5, 0.5, -0.5]], [[0.5, 2 / 3, 1 / 3, 0.0]])
    by_margin = _select(result)
    by_votes = _select(result, vote="majority")
    np.testing.assert_array_equal(by_margin.easy, [[YES, NO, YES, NO]])
    # A tie is no majority.
    np.testing.assert_array_equal(by_votes.easy, [[NO, YES, NO, NO]])


def test_full_scope_forgets_and_cumulative_scope_remembers():
    result = _verdict([[-0.5, -0.4, 0.5, 0.4]])
    before = [[NO, YES, NO, YES]]
    full = _select(result, previously=before)
    cumulative = _select(result, previously=before, scope="cumulative")
    np.testing.assert_array_equal(full.kept, [[YES, YES, NO, NO]])
    np.testing.assert_array_equal(cumulative.kept, [[NO, YES, NO, NO]])
    np.testing.assert_array_equal(full.easy, cumulative.easy)


def test_guard_drops_what_is_not_learnable():
    chosen = _select(
        _verdict([[-0.5, -0.4, 0.5, 0.4]]), learnable=[[NO, YES, NO, YES]], guard=True
    )
    np.testing.assert_array_equal(chosen.kept, [[NO, YES, NO, NO]])
    np.testing.assert_array_equal(chosen.easy, [[NO, NO, YES, YES]])


def test_guard_fills_up_with_the_learnable_first():
    """Smallest margin first, but what the guard calls noise last of all."""
    chosen = _select(
        _verdict([[-0.9, 0.8, 0.1, 0.5]]),
        learnable=[[NO, YES, NO, YES]],
        guard=True,
        floor=3,
    )
    # 0.5 and 0.8 are learnable; of the two others -0.9 is the smaller margin.
    np.testing.assert_array_equal(chosen.kept, [[YES, YES, NO, YES]])
    np.testing.assert_array_equal(chosen.topped_up, chosen.kept)


def test_keep_easiest_keeps_a_share_of_the_hard_ones_rounded_up():
    result = _verdict([[-0.1, -0.2, -0.3, 0.4], [-0.1, 0.2, 0.3, 0.4]])
    difficulty = [[3.0, 1.0, 2.0, 0.0], [9.0, 0.0, 0.0, 0.0]]
    half = _select(result, difficulty=difficulty, keep_easiest=0.5)
    np.testing.assert_array_equal(half.kept, [[NO, YES, YES, NO], [YES, NO, NO, NO]])
    third = _select(result, difficulty=difficulty, keep_easiest=1 / 3)
    np.testing.assert_array_equal(third.kept, [[NO, YES, NO, NO], [YES, NO, NO, NO]])


def test_keep_easiest_ranks_what_the_guard_and_the_scope_left():
    result = _verdict([[-0.1, -0.2, -0.3, -0.4]])
    options = dict(difficulty=[[1.0, 2.0, 3.0, 4.0]], keep_easiest=0.5)
    guarded = _select(result, learnable=[[NO, YES, YES, NO]], guard=True, **options)
    np.testing.assert_array_equal(guarded.kept, [[NO, YES, NO, NO]])
    scoped = _select(
        result, previously=[[NO, NO, YES, YES]], scope="cumulative", **options
    )
    np.testing.assert_array_equal(scoped.kept, [[NO, NO, YES, NO]])


@pytest.mark.parametrize(
    "discard, kept", [(1.0, 1), (0.75, 1), (0.5, 2), (0.3, 3), (0.1, 4), (0.0, 4)]
)
def test_max_discard_tops_up_by_the_smallest_margin(discard, kept):
    chosen = _select(_verdict([[0.3, -0.5, 0.1, 0.9]]), max_discard=discard)
    order = [1, 2, 0, 3]
    np.testing.assert_array_equal(np.flatnonzero(chosen.kept[0]), sorted(order[:kept]))
    assert chosen.topped_up.sum() == kept - 1


def test_max_discard_counts_the_real_images_of_each_class():
    valid = [[YES, YES, NO, NO], [YES, YES, YES, YES]]
    result = _verdict([[0.3, 0.2, 0.1, 0.1], [0.4, 0.3, 0.2, 0.1]])
    chosen = _select(result, valid, max_discard=0.5)
    np.testing.assert_array_equal(chosen.kept, [[NO, YES, NO, NO], [NO, NO, YES, YES]])


@pytest.mark.parametrize("tenths", range(11))
def test_max_discard_is_exact_where_floats_are_not(tenths):
    result = _verdict(np.linspace(0.1, 0.9, 10)[None])
    chosen = _select(result, max_discard=tenths / 10)
    assert chosen.kept.sum() == 10 - tenths


def test_floor_and_share_take_the_larger():
    result = _verdict([[0.4, 0.3, 0.2, 0.1]])
    assert _select(result, floor=3, max_discard=0.5).kept.sum() == 3
    assert _select(result, floor=1, max_discard=0.5).kept.sum() == 2


def test_a_class_without_hard_images_gets_its_least_certain_ones():
    chosen = _select(_verdict([[0.4, 0.1, 0.3], [-0.1, -0.2, -0.3]]), floor=2)
    np.testing.assert_array_equal(chosen.kept, [[NO, YES, YES], [YES, YES, YES]])
    np.testing.assert_array_equal(chosen.topped_up, [[NO, YES, YES], [NO, NO, NO]])


def test_a_class_smaller_than_the_floor_is_taken_whole():
    valid = [[YES, YES, NO], [YES, YES, YES]]
    result = _verdict([[0.4, 0.1, -0.3], [0.1, 0.2, 0.3]])
    chosen = _select(result, valid, floor=64)
    np.testing.assert_array_equal(chosen.kept, valid)


def test_floor_adds_to_hard_images_without_replacing_them():
    chosen = _select(_verdict([[-0.1, 0.9, 0.2, 0.5]]), floor=2)
    np.testing.assert_array_equal(chosen.kept, [[YES, NO, YES, NO]])
    np.testing.assert_array_equal(chosen.topped_up, [[NO, NO, YES, NO]])


def test_selection_does_not_change_its_arguments():
    result = _verdict([[-0.1, 0.9, 0.2, 0.5]])
    valid, before = _all(result), np.array([[YES, YES, NO, NO]])
    rule = filters.wrong() & filters.kept_before()
    filters.select(filters.Evidence(valid, result, before), rule, 3)
    assert valid.all()
    np.testing.assert_array_equal(before, [[YES, YES, NO, NO]])


def test_describe_by_hand():
    valid = np.array([[YES, YES, YES, YES], [YES, YES, NO, NO]])
    easy = np.array([[YES, YES, NO, NO], [YES, NO, NO, NO]])
    topped_up = np.array([[NO, NO, NO, NO], [YES, NO, NO, NO]])
    before = np.array([[NO, YES, YES, NO], [NO, NO, NO, NO]])
    chosen = filters.Selection(easy, (valid & ~easy) | topped_up, topped_up)
    figures = filters.describe(chosen, valid, before)
    wanted = {
        "real_accuracy": 3 / 6,
        "kept": 4 / 6,
        "kept_per_class": [2 / 4, 2 / 2],
        "learned": 2 / 6,
        "forgotten": 1 / 6,
        "topped_up_images": 1,
        "topped_up_classes": 1,
    }
    assert figures.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_allclose(figures[name], value)
    first = filters.describe(chosen, valid, None)
    assert first["learned"] == 3 / 6 and first["forgotten"] == 0


def test_shapes_of_a_selection():
    chosen = _select(_verdict(np.linspace(-1, 1, 12).reshape(3, 4)), floor=1)
    chex.assert_shape(list(chosen), (3, 4))
    assert all(part.dtype == bool for part in chosen)


def test_rules_are_combined():
    result = _verdict([[0.5, -0.5, 0.1, -0.1]])
    loss = np.array([[3.0, 2.0, 1.0, 0.5]])
    evidence = filters.Evidence(_all(result), result, None, {"loss": loss})
    hard = filters.harder_than("loss", 1.5)
    decide = lambda rule: rule.decide(evidence)[0].tolist()
    assert decide(filters.wrong() | hard) == [YES, YES, NO, YES]
    assert decide(filters.wrong() & ~hard) == [NO, NO, NO, YES]
    assert decide(filters.easiest(0.5, hard)) == [NO, YES, NO, NO]
    assert decide(filters.everything()) == [YES] * 4
    rule = filters.easiest(0.5, filters.wrong() | hard, "el2n")
    assert rule.needs == {"loss", "el2n"}
    named = "easiest(0.5, (wrong('mean_softmax') | harder_than('loss', 1.5)), 'el2n')"
    assert rule.name == named


def test_a_configuration_names_a_rule():
    assert FilterConfig(guard=True).make_rule().needs == {"learnable"}
    assert FilterConfig(rule="everything").make_rule().name == "everything()"
    both = FilterConfig(rule="wrong_and_learnable").make_rule()
    assert both.name == FilterConfig(guard=True).make_rule().name
    with pytest.raises(ConfigError, match="filter.rule: 'rong' is no filter rule"):
        from_dict({"filter": {"rule": "rong"}})
    # Options that make the default rule are not options of another one.
    with pytest.raises(ConfigError, match="filter.guard is True with filter.rule"):
        from_dict({"filter": {"rule": "wrong", "guard": True}})

"""Regularizers on hand-made gradients, and their pixel gradients."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax import matching
from d4a_jax.config import ConfigError, from_dict
from d4a_jax.networks import create_network
from d4a_jax.regularizers import NEEDS, REGULARIZERS, Constants, replay

NAMES = list(REGULARIZERS)

NEW = (jnp.array([[1.0, 2.0]]), jnp.array([[0.0], [3.0]]))
OLD = (jnp.array([[-2.0, 1.0]]), jnp.array([[4.0], [-3.0]]))
WHOLE = (jnp.array([[1.0, 1.0]]), jnp.array([[1.0], [1.0]]))
PARAMS = (jnp.array([[10.0, 20.0]]), jnp.array([[30.0], [40.0]]))


def _constants(**changes):
    constants = {
        "distance": lambda x, y: matching.distance("mse", x, y),
        "params": PARAMS,
        "previous": OLD,
        "whole_class": WHOLE,
        "previous_loss": lambda p: sum(jnp.sum(x) for x in p),
        "previous_share": jnp.float32(0.75),
    }
    return Constants(**(constants | changes))


def _value(name, gradient=NEW, **changes):
    return REGULARIZERS[name]().term(gradient, _constants(**changes))


def test_none_is_zero():
    assert float(_value("none")) == 0.0


def test_previous_by_hand():
    assert float(_value("previous")) == (9 + 1) + (16 + 36)


def test_anchor_by_hand():
    assert float(_value("anchor", previous=None)) == (0 + 1) + (1 + 4)


def test_union_by_hand():
    # 3/4 old + 1/4 new: (-1.25, 1.25), (3, -1.5); minus ones.
    wanted = 2.25**2 + 0.25**2 + 2.0**2 + 2.5**2
    np.testing.assert_allclose(_value("union"), wanted, rtol=1e-6)


@pytest.mark.parametrize("share, gradient", [(0.0, NEW), (1.0, OLD)])
def test_union_of_one_part_is_that_part(share, gradient):
    value = _value("union", previous_share=jnp.float32(share))
    np.testing.assert_allclose(value, matching.distance("mse", gradient, WHOLE))


def test_conflict_by_hand():
    # The first layers are orthogonal; the second have the cosine -9 / (3 * 5).
    np.testing.assert_allclose(_value("conflict"), 0.6, rtol=1e-5)
    np.testing.assert_allclose(_value("conflict", previous=NEW), 0.0)
    opposite = tuple(-x for x in NEW)
    np.testing.assert_allclose(_value("conflict", previous=opposite), 2.0, rtol=1e-5)


def test_replay_by_hand():
    # Parameters sum to 100, the new gradient to 6: a step of 1/2 along it.
    value = replay(step_size=0.5).term(NEW, _constants())
    np.testing.assert_allclose(value, 100 - 3)


def test_aligned_layers_are_not_pushed_by_conflict():
    slope = jax.grad(lambda g: _value("conflict", g, previous=NEW))(NEW)
    chex.assert_trees_all_equal(slope, jax.tree.map(jnp.zeros_like, NEW))


@pytest.mark.parametrize("distance", list(matching.DISTANCES))
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("zero", ["new", "old", "both"])
def test_zero_gradients_are_safe(name, zero, distance):
    zeros = jax.tree.map(jnp.zeros_like, NEW)
    new = zeros if zero in ("new", "both") else NEW
    old = zeros if zero in ("old", "both") else OLD
    value, slope = jax.value_and_grad(
        lambda g: _value(
            name,
            g,
            previous=old,
            distance=lambda x, y: matching.distance(distance, x, y),
        )
    )(new)
    chex.assert_tree_all_finite((value, slope))


@pytest.mark.parametrize("zero", ["new", "old"])
def test_a_zero_gradient_conflicts_with_nothing(zero):
    """Neither in value nor in slope: no push, let alone one over a vanishing norm."""
    zeros = jax.tree.map(jnp.zeros_like, NEW)
    new, old = (zeros, OLD) if zero == "new" else (NEW, zeros)
    value, slope = jax.value_and_grad(lambda g: _value("conflict", g, previous=old))(
        new
    )
    assert float(value) == 0.0
    chex.assert_trees_all_equal(slope, zeros)


def test_every_name_of_the_configuration_exists():
    for name in NAMES:
        assert from_dict({"regularizer": {"name": name}}).regularizer.name == name
    with pytest.raises(ConfigError) as error:
        from_dict({"regularizer": {"name": "nothing"}})
    assert all(name in str(error.value) for name in NAMES)


def test_needs_name_what_is_read():
    """Each works with everything that it does not name left out."""
    for name in NAMES:
        needs = REGULARIZERS[name]().needs
        assert needs <= NEEDS
        missing = {need: None for need in NEEDS - needs}
        np.testing.assert_array_equal(_value(name, **missing), _value(name))


# --- through a network, in double precision ------------------------------------------

SHAPE, WEIGHT = (8, 8, 1), 0.7
PARTS = [
    replay(step_size=0.3) if name == "replay" else REGULARIZERS[name]()
    for name in NAMES
]


class Case:
    def __init__(self):
        self.network = create_network("convnet:width=4:depth=1", 3, SHAPE, jnp.float64)
        draw = np.random.default_rng(0).normal
        shapes = jax.eval_shape(self.network.init, jax.random.key(0))
        self.variables = jax.tree.map(lambda x: draw(size=x.shape) / 2, shapes)
        self.params = self.variables["params"]
        self.layers = matching.select_layers(self.params)
        self.new, self.real = draw(size=(2, *SHAPE)), draw(size=(3, *SHAPE))
        self.old, self.whole = draw(size=(4, *SHAPE)), draw(size=(5, *SHAPE))

    def loss(self, params, images, weights=None):
        variables = {**self.variables, "params": params}
        label = jnp.int32(2)
        return matching.class_loss(self.network, variables, images, label, weights)

    def gradient(self, images, weights=None):
        loss = lambda params: self.loss(params, images, weights)
        return matching.matched_gradient(loss, self.params, self.layers)

    def objective(self, shares):
        """All regularizers at once, so that a single program serves every one."""
        distance = lambda x, y: matching.distance("mse", x, y)
        merge = lambda matched: self.layers.merge(self.params, matched)
        constants = Constants(
            distance=distance,
            params=self.layers.split(self.params),
            # Turned round, because the true one happens not to be in conflict.
            previous=tuple(-x for x in self.gradient(self.old)),
            whole_class=self.gradient(self.whole),
            previous_loss=lambda matched: self.loss(merge(matched), self.old),
            previous_share=4 / 6,
        )
        target = self.gradient(self.real)

        def phi(gradient):
            terms = [part.term(gradient, constants) for part in PARTS]
            return distance(gradient, target) + jnp.vdot(shares, jnp.stack(terms))

        return phi

    def found(self, shares, images):
        phi = self.objective(shares)
        return matching.pixel_gradient(phi, self.loss, self.params, images, self.layers)

    def plain_value(self, shares, images):
        return self.objective(shares)(self.gradient(images))


@pytest.fixture(scope="module")
def case():
    with jax.enable_x64(True):
        case = Case()
        weights = dict(zip(NAMES, WEIGHT * np.eye(len(NAMES))))
        core, plain = jax.jit(case.found), jax.jit(case.plain_value)
        case.results = {name: core(weights[name], case.new) for name in NAMES}
        case.value = lambda name, images: plain(weights[name], images)
        yield case


@pytest.mark.parametrize("name", NAMES)
def test_pixel_gradient_equals_finite_differences(case, name):
    value, gradient = case.results[name]
    rng, step = np.random.default_rng(1), 1e-6
    with jax.enable_x64(True):
        np.testing.assert_allclose(value, case.value(name, case.new), rtol=1e-9)
        for _ in range(3):
            direction = rng.normal(size=case.new.shape)
            high = case.value(name, case.new + step * direction)
            low = case.value(name, case.new - step * direction)
            slope = np.vdot(gradient, direction)
            np.testing.assert_allclose((high - low) / (2 * step), slope, rtol=1e-4)


def test_every_regularizer_moves_the_pixels(case):
    """The finite differences above would not notice a term that is always zero."""
    bare = case.results["none"][1]
    for name in set(NAMES) - {"none"}:
        moved = np.abs(case.results[name][1] - bare).max()
        assert moved > 1e-3 * np.abs(bare).max(), name


def test_union_is_the_gradient_of_all_segments_together(case):
    """Four old and two new images: share 4/6 makes it the mean over all six."""
    images = np.concatenate([case.old, case.new])
    old, new, both = np.array([[1, 0], [0, 1], [1, 1]]).repeat([4, 2], axis=1)
    with jax.enable_x64(True):
        gradient = jax.jit(case.gradient)
        constants = _constants(
            previous=gradient(images, 1.0 * old),
            whole_class=gradient(images, 1.0 * both),
            previous_share=4 / 6,
        )
        value = REGULARIZERS["union"]().term(gradient(images, 1.0 * new), constants)
        np.testing.assert_allclose(value, 0.0, atol=1e-20)

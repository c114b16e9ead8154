"""Distances, matched layers and the pixel gradient of functions of a gradient."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

from unittest import mock

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from d4a_jax import matching
from d4a_jax.networks import Network, create_network, layers

SHAPE = (8, 8, 3)
LABEL = 1
NAMES = tuple(matching.DISTANCES)


def _xla_conv(images, kernel, stride=1, padding=0):
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


# --- distances -----------------------------------------------------------------------

LEFT = [jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.array([3.0, -1.0])]
RIGHT = [jnp.array([[2.0, 5.0], [0.0, 0.0]]), jnp.array([1.0, 1.0])]


@pytest.mark.parametrize(
    "name, value",
    [
        ("mse", (1 + 25 + 0 + 4) + (4 + 4)),
        ("l1", (1 + 5 + 0 + 2) + (2 + 2)),
        # Columns are output units: (1, 0) with (2, 0), and (0, 2) with (5, 0).
        ("cosine", (1 - 1) + (1 - 0)),
    ],
)
def test_distance_by_hand(name, value):
    np.testing.assert_allclose(
        matching.distance(name, LEFT, RIGHT), value, rtol=1e-6, atol=1e-5
    )


def test_cosine_of_convolution_kernels_is_summed_over_output_channels():
    draw = np.random.default_rng(0).normal
    x, y = draw(size=(3, 3, 4, 5)), draw(size=(3, 3, 4, 5))
    total = 0.0
    for unit in range(5):
        a, b = x[..., unit].ravel(), y[..., unit].ravel()
        total += 1 - a @ b / np.sqrt(a @ a * (b @ b))
    np.testing.assert_allclose(matching.distance("cosine", [x], [y]), total, rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_distance_is_zero_at_itself_and_symmetric(name):
    draw = np.random.default_rng(1).normal
    x, y = [draw(size=(4, 3))], [draw(size=(4, 3))]
    np.testing.assert_allclose(matching.distance(name, x, x), 0.0, atol=1e-5)
    np.testing.assert_allclose(
        matching.distance(name, x, y), matching.distance(name, y, x), rtol=1e-6
    )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("zero", ["left", "right", "both"])
def test_dead_units_have_finite_derivatives(name, zero):
    full = jnp.ones((3, 3, 2, 4)).at[..., 0].set(0.0)
    left = jnp.zeros_like(full) if zero != "right" else full
    right = jnp.zeros_like(full) if zero != "left" else full
    value, slope = jax.value_and_grad(lambda x: matching.distance(name, [x], [right]))(
        left
    )
    chex.assert_tree_all_finite((value, slope))


def test_distance_refuses_different_numbers_of_layers():
    with pytest.raises(ValueError):
        matching.distance("mse", LEFT, RIGHT[:1])


# --- matched layers ------------------------------------------------------------------


def _names(selected, params):
    paths = jax.tree_util.tree_leaves_with_path(params)
    return {
        "/".join(entry.key for entry in path)
        for (path, _), yes in zip(paths, selected.matched, strict=True)
        if yes
    }


KERNELS = {"block0/conv/kernel", "block1/conv/kernel"}
OTHERS = {
    f"block{i}/{leaf}"
    for i in range(2)
    for leaf in ("conv/bias", "norm/scale", "norm/bias")
} | {"classifier/bias"}


@pytest.mark.parametrize(
    "options, names",
    [
        ({}, KERNELS),
        ({"norm_and_bias": True}, KERNELS | OTHERS),
        ({"classifier": True}, KERNELS | {"classifier/kernel"}),
        (
            {"norm_and_bias": True, "classifier": True},
            KERNELS | OTHERS | {"classifier/kernel"},
        ),
    ],
)
def test_select_layers(options, names):
    network = create_network("convnet:width=4:depth=2:norm=batch", 3, SHAPE)
    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    assert _names(matching.select_layers(params, **options), params) == names


def test_split_and_merge_are_inverse_and_touch_nothing_else():
    params = {
        "conv": {"kernel": np.ones((1, 1)), "bias": np.zeros(1)},
        "classifier": {"kernel": np.full((1, 2), 2.0), "bias": np.zeros(2)},
    }
    selected = matching.select_layers(params)
    (kernel,) = selected.split(params)
    chex.assert_trees_all_equal(selected.merge(params, (kernel,)), params)
    merged = selected.merge(params, (kernel + 5,))
    wanted = {**params, "conv": {"kernel": np.full((1, 1), 6.0), "bias": np.zeros(1)}}
    chex.assert_trees_all_equal(merged, wanted)


# --- losses and pixel gradients ------------------------------------------------------


class Case:
    """A small network in double precision and everything that is checked on it."""

    def __init__(self, options):
        self.network = create_network(
            f"convnet:width=4:{options}", 3, SHAPE, np.float64
        )
        draw = np.random.default_rng(2).normal
        # Away from the initial zeros and ones of norms, where mistakes could hide.
        shapes = jax.eval_shape(self.network.init, jax.random.key(0))
        self.variables = jax.tree.map(lambda x: draw(size=x.shape) / 2, shapes)
        self.images = draw(size=(2, *SHAPE))
        self.layers = matching.select_layers(self.variables["params"])
        kernels = self.layers.split(self.variables["params"])
        self.target = tuple(draw(size=x.shape) / 10 for x in kernels)

    def loss(self, params, images):
        variables = {**self.variables, "params": params}
        return matching.class_loss(self.network, variables, images, jnp.int32(LABEL))

    def gradient(self, images):
        params = self.variables["params"]
        return matching.matched_gradient(
            lambda p: self.loss(p, images), params, self.layers
        )

    def objective(self, shares):
        """All distances at once, so that a single program serves every one."""

        def phi(gradient):
            values = [matching.distance(n, gradient, self.target) for n in NAMES]
            return jnp.vdot(shares, jnp.stack(values))

        return phi

    def found(self, shares, images):
        params = self.variables["params"]
        phi = self.objective(shares)
        return matching.pixel_gradient(phi, self.loss, params, images, self.layers)

    def reverse_over_reverse(self, shares, images):
        phi = self.objective(shares)
        return jax.value_and_grad(lambda x: phi(self.gradient(x)))(images)


@pytest.fixture(scope="module", params=["norm=instance:depth=1", "norm=batch:depth=2"])
def case(request):
    """The core's pixel gradients and XLA's reverse over reverse."""
    with jax.enable_x64(True):
        case = Case(request.param)
        one_hot = dict(zip(NAMES, np.eye(len(NAMES))))
        core = jax.jit(case.found)
        case.results = {n: core(one_hot[n], case.images) for n in NAMES}
        with mock.patch.object(layers, "conv2d", _xla_conv):
            plain = jax.jit(case.reverse_over_reverse)
            case.references = {n: plain(one_hot[n], case.images) for n in NAMES}
        case.value = lambda name, images: plain(one_hot[name], images)[0]
        yield case


@pytest.mark.parametrize("name", NAMES)
def test_pixel_gradient_equals_reverse_over_reverse(case, name):
    (value, gradient), (wanted, reference) = case.results[name], case.references[name]
    assert gradient.dtype == reference.dtype == jnp.float64
    assert np.abs(reference).max() > 1e-8
    np.testing.assert_allclose(value, wanted, rtol=1e-10)
    np.testing.assert_allclose(
        gradient, reference, rtol=1e-7, atol=1e-9 * np.abs(reference).max()
    )


@pytest.mark.parametrize("name", NAMES)
def test_pixel_gradient_equals_finite_differences(case, name):
    _, gradient = case.results[name]
    rng, step = np.random.default_rng(3), 1e-6
    with jax.enable_x64(True):
        for _ in range(4):
            direction = rng.normal(size=case.images.shape)
            high = case.value(name, case.images + step * direction)
            low = case.value(name, case.images - step * direction)
            slope = np.vdot(gradient, direction)
            np.testing.assert_allclose((high - low) / (2 * step), slope, rtol=2e-4)


def test_class_loss_is_the_weighted_mean_cross_entropy():
    """On a network whose logits are the images."""
    network = Network("identity", None, lambda v, x, train: (x, {}), None, 3)
    logits = np.random.default_rng(4).normal(size=(2, 3)).astype(np.float32)
    first, second = np.log(np.exp(logits).sum(1)) - logits[:, LABEL]
    loss = lambda *weights: matching.class_loss(
        network, {}, jnp.asarray(logits), jnp.int32(LABEL), *weights
    )
    np.testing.assert_allclose(loss(), (first + second) / 2, rtol=1e-5)
    np.testing.assert_allclose(loss(jnp.ones(2)), (first + second) / 2, rtol=1e-5)
    np.testing.assert_allclose(loss(jnp.array([0.0, 1.0])), second, rtol=1e-5)
    mixed = loss(jnp.array([3.0, 1.0]))
    np.testing.assert_allclose(mixed, (3 * first + second) / 4, rtol=1e-5)

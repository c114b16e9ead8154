"""Convolutions under `jax.vmap` against a loop over XLA's, in double precision."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from d4a_jax import matching
from d4a_jax.convolution import conv2d
from d4a_jax.convolution.batched import shifted
from d4a_jax.networks import create_network
from experiments.benchmark.grouped import grouped_convolutions

# (height, width, channels in, channels out, kernel, stride, padding). Few and many
# channels on either side, sizes that a stride does not divide, and more padding than
# a kernel can use.
CASES = [
    (6, 5, 3, 4, 3, 1, 1),
    (6, 6, 17, 3, 3, 1, 1),
    (5, 6, 18, 17, 3, 1, 0),
    (7, 6, 3, 17, 3, 2, 1),
    (7, 7, 17, 18, 3, 2, 1),
    (6, 6, 17, 3, 1, 1, 0),
    (5, 6, 17, 3, 1, 2, 0),
    (5, 4, 3, 2, 1, 1, 1),
    (9, 8, 3, 2, 7, 1, 1),
    (9, 9, 17, 2, 7, 2, 0),
    (4, 4, 17, 3, 3, 1, 3),
]
ITEMS, IMAGES = 3, 2


def _xla(images, kernel, stride, padding):
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _shapes(case):
    height, width, c_in, c_out, k, _, _ = case
    return (IMAGES, height, width, c_in), (k, k, c_in, c_out)


def _arrays(case, axes, seed):
    """Images and kernels; stacked along the axes, where there are any."""
    draw = np.random.default_rng(seed).normal

    def one(shape, axis):
        if axis is None:
            return draw(size=shape)
        return draw(size=(*shape[:axis], ITEMS, *shape[axis:]))

    return tuple(one(*pair) for pair in zip(_shapes(case), axes))


def _derivatives(conv, case):
    """A function of images, kernel and a direction in both: all derivatives."""
    *_, stride, padding = case

    def loss(images, kernel):
        # Not linear in the output, so that second derivatives do not vanish.
        return jnp.sum(jnp.sin(conv(images, kernel, stride, padding)))

    def everything(images, kernel, d_images, d_kernel):
        gradient = jax.grad(loss, (0, 1))
        primals = (images, kernel)
        value = conv(images, kernel, stride, padding)
        first, both = jax.jvp(gradient, primals, (d_images, d_kernel))
        # The pixel gradient is a derivative along the kernel alone.
        by_images = lambda w: gradient(images, w)[0]
        mixed = jax.jvp(by_images, (kernel,), (d_kernel,))[1]
        along = lambda x, w: jnp.vdot(gradient(x, w)[1], d_kernel)
        return value, first, both, mixed, jax.grad(along, (0, 1))(images, kernel)

    return everything


def _close(found, wanted):
    assert jax.tree.leaves(found)[0].dtype == jnp.float64
    check = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
    jax.tree.map(check, found, wanted)


def _convolutions(function, *arguments):
    """(feature groups, batch groups) of all convolutions in the lowered program."""
    text = jax.jit(function).lower(*arguments).as_text()
    lines = [x for x in text.splitlines() if "stablehlo.convolution" in x]

    def count(line, name):
        return int(line.split(f"{name}_group_count = ")[1].split()[0].strip(",}"))

    return [(count(x, "feature"), count(x, "batch")) for x in lines]


@pytest.mark.parametrize("axes", [(1, 3), (0, None), (None, 2)])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_vmap_of_all_derivatives_equals_a_loop(case, axes):
    # Directions in both are stacked wherever anything is.
    with jax.enable_x64(True):
        arrays = (*_arrays(case, axes, 0), *_arrays(case, (0, 0), 1))
        all_axes = (*axes, 0, 0)
        batched = jax.vmap(_derivatives(conv2d, case), all_axes)
        one = jax.jit(_derivatives(_xla, case))
        take = lambda x, i, axis: x if axis is None else np.take(x, i, axis)
        each = [one(*map(take, arrays, [i] * 4, all_axes)) for i in range(ITEMS)]
        found = jax.jit(batched)(*arrays)
        _close(found, jax.tree.map(lambda *x: np.stack(x), *each))
        groups = _convolutions(batched, *arrays)
        assert set(groups) <= {(1, 1)}


@pytest.mark.parametrize("outer", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize("inner", [(0, 0), (0, None), (None, 0)])
def test_vmap_of_vmap_equals_loops(outer, inner):
    case = CASES[4]
    *_, stride, padding = case
    conv = lambda x, w: conv2d(x, w, stride, padding)
    with jax.enable_x64(True):
        operands = [
            np.random.default_rng(0).normal(
                size=(*(n for n, a in zip((2, 3), pair) if a is not None), *shape)
            )
            for *pair, shape in zip(outer, inner, _shapes(case))
        ]
        batched = jax.vmap(jax.vmap(conv, inner), outer)
        found = jax.jit(batched)(*operands)
        assert set(_convolutions(batched, *operands)) <= {(1, 1)}
        for i in range(2):
            for j in range(3):
                x, w = (
                    (lambda y: y if b is None else y[j])(y if a is None else y[i])
                    for y, a, b in zip(operands, outer, inner)
                )
                _close(found[i, j], _xla(x, w, stride, padding))


def test_within_a_scan_over_steps():
    """Vmapped networks that take steps along their gradients, in a scan."""
    case = CASES[1]
    with jax.enable_x64(True):
        images, kernels = _arrays(case, (0, 0), 0)

        def train(conv, x, w):
            loss = lambda w: jnp.sum(jnp.sin(conv(x, w, *case[-2:])))
            step = lambda w, _: (w - 0.1 * jax.grad(loss)(w), None)
            return lax.scan(step, w, length=3)[0]

        batched = jax.vmap(functools.partial(train, conv2d))
        wanted = [train(_xla, x, w) for x, w in zip(images, kernels)]
        _close(jax.jit(batched)(images, kernels), np.stack(wanted))
        assert set(_convolutions(batched, images, kernels)) <= {(1, 1)}


def test_single_images_and_kernels_stay_convolutions():
    images, kernel = map(jnp.asarray, _arrays(CASES[1], (None, None), 0))
    loss = lambda x, w: jnp.sum(conv2d(x, w, 1, 1) ** 2)
    groups = _convolutions(jax.grad(loss), images, kernel)
    assert groups == [(1, 1)] * 2  # Forward and by the images.


@pytest.mark.parametrize("case", [CASES[0], CASES[1], CASES[4]], ids=str)
def test_low_precision_is_kept_and_summed_in_single(case):
    *_, stride, padding = case
    images, kernels = (x.astype(jnp.bfloat16) for x in _arrays(case, (0, 0), 0))
    exact = [x.astype(np.float64) for x in (images, kernels)]

    def both(conv, x, w):
        out, back = jax.vjp(lambda x: conv(x, w, stride, padding), x)
        return out, *back(jnp.ones_like(out))

    found = jax.vmap(functools.partial(both, conv2d))(images, kernels)
    with jax.enable_x64(True):
        wanted = jax.vmap(functools.partial(both, _xla))(*exact)
    for low, high in zip(found, wanted):
        assert low.dtype == jnp.bfloat16
        scale = np.abs(high).max()
        # Rounded once, at the end: half a unit in the last of eight places.
        np.testing.assert_allclose(
            np.asarray(low).astype(np.float64), high, rtol=2.0**-8, atol=1e-5 * scale
        )


@pytest.mark.parametrize("name", ["convnet:width=20:depth=3", "resnet10:width=20"])
def test_matching_all_classes_at_once_needs_no_grouped_convolution(name):
    """One network for all classes, and one for each, as in an ensemble."""
    network = create_network(name, 4, (16, 16, 3), jnp.float32)
    variables = network.init(jax.random.key(0))
    layers = matching.select_layers(variables["params"])
    images = jnp.ones((2, 3, 16, 16, 3))

    def one(variables, images, label):
        def loss(params, x):
            changed = variables | {"params": params}
            return matching.class_loss(network, changed, x, label)

        params = variables["params"]
        phi = lambda g: matching.distance("mse", g, layers.split(params))
        return matching.pixel_gradient(phi, loss, params, images, layers)

    labels = jnp.arange(2)
    classes = jax.vmap(one, (None, 0, 0))
    groups = _convolutions(classes, variables, images, labels)
    assert groups and set(groups) == {(1, 1)}
    copies = jax.tree.map(lambda x: jnp.stack([x, x]), variables)
    assert set(_convolutions(jax.vmap(one), copies, images, labels)) <= {(1, 1)}


@pytest.mark.parametrize("case", [CASES[1], CASES[4]], ids=str)
def test_grouped_convolutions_of_the_benchmark_give_the_same(case):
    with jax.enable_x64(True):
        arrays = (*_arrays(case, (0, None), 0), *_arrays(case, (0, 0), 1))
        program = lambda: jax.vmap(_derivatives(conv2d, case), (0, None, 0, 0))
        wanted = jax.jit(program())(*arrays)
        with grouped_convolutions():
            assert (ITEMS, 1) in _convolutions(program(), *arrays)
            _close(jax.jit(program())(*arrays), wanted)
        assert set(_convolutions(program(), *arrays)) <= {(1, 1)}


def test_shifted_by_hand():
    row = jnp.arange(1.0, 5.0).reshape(1, 4, 1)
    parts = shifted(row, (1, 3), (1, 2), 2, (0, 1))
    np.testing.assert_array_equal(
        [part.ravel() for part in parts], [[0, 2], [1, 3], [2, 4]]
    )
    (middle,) = shifted(row, (1, 1), (1, 2), 1, (0, -1))
    np.testing.assert_array_equal(middle.ravel(), [2, 3])

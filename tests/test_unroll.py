"""The unrolled student against a plain loop in float64, and its memory."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax.matching import trajectory_loss, unroll
from d4a_jax.networks import create_network
from d4a_jax.training import Normalization

SHAPE, CLASSES, STEPS, ALPHA = (8, 8, 1), 3, 4, 0.3


@pytest.fixture(scope="module", autouse=True)
def double():
    with jax.enable_x64():
        yield


@pytest.fixture(scope="module")
def problem():
    """A small ConvNet, batches with a repetition and without the last of 7 images."""
    network = create_network("convnet:width=3:depth=1", CLASSES, SHAPE, jnp.float64)
    wide = lambda tree: jax.tree.map(lambda x: x.astype(jnp.float64), tree)
    start = wide(network.init(jax.random.key(0))["params"])
    noise = wide(network.init(jax.random.key(1))["params"])
    target = jax.tree.map(lambda a, b: a + 0.3 * b, start, noise)
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.random((7, *SHAPE)))
    rows = jnp.asarray([[0, 1, 2, 3], [4, 5, 0, 0], [5, 3, 1, 2], [0, 4, 2, 5]])
    labels = jnp.asarray([0, 1, 2, 0, 1, 2, 0])
    normalize = Normalization((0.4,), (0.3,))

    def step_loss(params, batch, index):
        # The shift stands for an augmentation that differs from step to step.
        batch = normalize(batch) + 0.1 * index
        logits, _ = network.apply({"params": params}, batch, True)
        picked = jnp.take_along_axis(
            jax.nn.log_softmax(logits), labels[rows[index]][:, None], 1
        )
        return -jnp.mean(picked)

    return step_loss, start, target, images, rows


def plain_loop(step_loss, start, target, images, rows, step_size):
    """MTT's equations, written down, for reverse-mode differentiation as a whole."""
    params = start
    for index in range(len(rows)):
        gradient = jax.grad(step_loss)(params, images[rows[index]], index)
        params = jax.tree.map(lambda p, g: p - step_size * g, params, gradient)
    leaves = lambda tree: jnp.concatenate([x.ravel() for x in jax.tree.leaves(tree)])
    reached = jnp.sum((leaves(params) - leaves(target)) ** 2)
    return reached / jnp.sum((leaves(start) - leaves(target)) ** 2)


@pytest.fixture(scope="module")
def found(problem):
    step_loss, start, target, images, rows = problem
    run = jax.jit(lambda x, a: unroll(step_loss, start, target, a, x, rows))
    return run(images, jnp.float64(ALPHA))


def test_loss_and_gradients_equal_those_of_a_plain_loop(problem, found):
    step_loss, start, target, images, rows = problem
    loss = jax.jit(
        jax.value_and_grad(
            lambda x, a: plain_loop(step_loss, start, target, x, rows, a), (0, 1)
        )
    )
    value, (by_images, by_step_size) = loss(images, jnp.float64(ALPHA))
    assert found.inputs.dtype == jnp.float64
    chex.assert_trees_all_close(found.loss, value, rtol=1e-12)
    chex.assert_trees_all_close(found.inputs, by_images, rtol=1e-9, atol=1e-14)
    chex.assert_trees_all_close(found.step_size, by_step_size, rtol=1e-9)


def test_gradients_equal_finite_differences(problem, found):
    step_loss, start, target, images, rows = problem
    value = jax.jit(lambda x, a: plain_loop(step_loss, start, target, x, rows, a))
    direction = jnp.asarray(np.random.default_rng(1).normal(size=images.shape))
    h = 1e-6
    ahead, behind = (value(images + s * h * direction, ALPHA) for s in (1, -1))
    slope = jnp.vdot(found.inputs, direction)
    np.testing.assert_allclose((ahead - behind) / (2 * h), slope, rtol=1e-5)
    ahead, behind = (value(images, ALPHA + s * h) for s in (1, -1))
    np.testing.assert_allclose((ahead - behind) / (2 * h), found.step_size, rtol=1e-5)


def test_images_that_no_batch_holds_have_no_gradient(found):
    largest = jnp.abs(found.inputs).max((1, 2, 3))
    np.testing.assert_array_equal(largest > 0, [True] * 6 + [False])


def test_a_student_that_does_not_move_has_loss_one(problem):
    _, start, target, _, _ = problem
    assert trajectory_loss(start, start, target) == 1.0
    assert trajectory_loss(target, start, target) == 0.0


# --- images and labels ---------------------------------------------------------------


@pytest.fixture(scope="module")
def soft(problem):
    """The same student, whose labels are the softmax of logits that are learned."""
    _, start, target, images, rows = problem
    network = create_network("convnet:width=3:depth=1", CLASSES, SHAPE, jnp.float64)
    logits = jnp.asarray(2 * np.random.default_rng(2).normal(size=(7, CLASSES)))

    def step_loss(params, batch, index):
        images, logits = batch
        scores, _ = network.apply({"params": params}, images + 0.1 * index, True)
        losses = jax.nn.softmax(logits) * jax.nn.log_softmax(scores)
        return -jnp.mean(jnp.sum(losses, 1))

    run = jax.jit(lambda x, a: unroll(step_loss, start, target, a, x, rows))
    return step_loss, (images, logits), run((images, logits), jnp.float64(ALPHA))


def plain_soft_loop(step_loss, start, target, inputs, rows, step_size):
    """MTT's equations on images and labels, as `plain_loop`."""
    numbered = jnp.arange(len(inputs[0]))
    of_rows = lambda params, chosen, index: step_loss(
        params, (inputs[0][chosen], inputs[1][chosen]), index
    )
    return plain_loop(of_rows, start, target, numbered, rows, step_size)


def test_label_gradients_equal_those_of_a_plain_loop(problem, soft):
    _, start, target, _, rows = problem
    step_loss, inputs, found = soft
    loss = lambda x, a: plain_soft_loop(step_loss, start, target, x, rows, a)
    value, (wanted, by_step_size) = jax.jit(jax.value_and_grad(loss, (0, 1)))(
        inputs, jnp.float64(ALPHA)
    )
    assert found.inputs[1].dtype == jnp.float64
    chex.assert_trees_all_close(found.loss, value, rtol=1e-12)
    chex.assert_trees_all_close(found.inputs, wanted, rtol=1e-9, atol=1e-14)
    chex.assert_trees_all_close(found.step_size, by_step_size, rtol=1e-9)
    # A softmax does not change where all its logits rise alike.
    np.testing.assert_allclose(found.inputs[1].sum(1), 0.0, atol=1e-15)
    np.testing.assert_array_equal(found.inputs[1][6], 0.0)


def test_label_gradients_equal_finite_differences(problem, soft):
    _, start, target, _, rows = problem
    step_loss, (images, logits), found = soft
    value = jax.jit(
        lambda z: plain_soft_loop(step_loss, start, target, (images, z), rows, ALPHA)
    )
    direction = jnp.asarray(np.random.default_rng(3).normal(size=logits.shape))
    h = 1e-6
    ahead, behind = value(logits + h * direction), value(logits - h * direction)
    slope = jnp.vdot(found.inputs[1], direction)
    np.testing.assert_allclose((ahead - behind) / (2 * h), slope, rtol=1e-5)


@functools.cache
def temporary_bytes(steps):
    """Scratch memory of the compiled gradient of a student of so many steps."""
    network = create_network("convnet:width=8:depth=1", CLASSES, (16, 16, 3))
    labels = jnp.arange(30) % CLASSES

    def gradient(start, target, images, rows):
        def step_loss(params, batch, index):
            logits, _ = network.apply({"params": params}, batch, True)
            chosen = jax.nn.one_hot(labels[rows[index]], CLASSES)
            return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * chosen, 1))

        return unroll(step_loss, start, target, jnp.float32(0.1), images, rows)

    params = jax.eval_shape(network.init, jax.random.key(0))["params"]
    images = jax.ShapeDtypeStruct((30, 16, 16, 3), jnp.float32)
    rows = jax.ShapeDtypeStruct((steps, 30), jnp.int32)
    compiled = jax.jit(gradient).lower(params, params, images, rows).compile()
    size = sum(4 * leaf.size for leaf in jax.tree.leaves(params))
    return compiled.memory_analysis().temp_size_in_bytes, size


def test_memory_grows_by_no_more_than_the_parameters_of_each_step():
    (short, size), (long, _) = temporary_bytes(10), temporary_bytes(40)
    # The parameters before each step, and the compiler's copy of them.
    assert long - short <= 2.5 * 30 * size
    assert long < 1.2 * short

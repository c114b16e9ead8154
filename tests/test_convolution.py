"""The convolution and its derivatives against XLA's own, in double precision."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from d4a_jax.convolution import conv2d, forms

# (height, width, channels in, channels out, kernel, stride, padding). They take both
# forms of the kernel gradient, strides that leave a remainder, and more padding than
# a kernel can use.
CASES = [
    (8, 8, 3, 4, 3, 1, 1),
    (9, 6, 5, 3, 3, 2, 1),
    (8, 8, 17, 2, 3, 2, 0),
    (7, 7, 18, 3, 1, 2, 0),
    (8, 7, 17, 2, 5, 3, 2),
    (6, 6, 2, 3, 2, 2, 0),
    (5, 5, 16, 2, 3, 1, 3),
    (4, 4, 3, 2, 4, 1, 0),
]


def _reference(images, kernel, stride, padding):
    return lax.conv_general_dilated(
        images,
        kernel,
        (stride, stride),
        [(padding, padding)] * 2,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _arrays(case, seed=0):
    height, width, c_in, c_out, k, _, _ = case
    draw = np.random.default_rng(seed).normal
    return draw(size=(2, height, width, c_in)), draw(size=(k, k, c_in, c_out))


def _derivatives(conv, case):
    """A function of images, kernel and a direction in both: all derivatives."""
    *_, stride, padding = case

    def loss(images, kernel):
        # Not linear in the output, so that second derivatives do not vanish.
        return jnp.sum(jnp.sin(conv(images, kernel, stride, padding)))

    def everything(images, kernel, d_images, d_kernel):
        gradient = jax.grad(loss, (0, 1))
        first, mixed = jax.jvp(gradient, (images, kernel), (d_images, d_kernel))
        return {
            "value": conv(images, kernel, stride, padding),
            "first": first,
            "second": mixed,
        }

    return jax.jit(everything)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_conv_and_derivatives_equal_xlas(case):
    with jax.enable_x64(True):
        arrays = (*_arrays(case, 0), *_arrays(case, 1))
        found = _derivatives(conv2d, case)(*arrays)
        wanted = _derivatives(_reference, case)(*arrays)
        for name, value in found.items():
            assert jax.tree.leaves(value)[0].dtype == jnp.float64
            jax.tree.map(
                lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-9, atol=1e-10),
                value,
                wanted[name],
            )


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("chunk_bytes", [forms._CHUNK_BYTES, 500])
def test_forms_for_cpus_equal_those_for_accelerators(case, chunk_bytes, monkeypatch):
    """Also where images are worked on in several chunks, the last one filled up."""
    monkeypatch.setattr(forms, "_CHUNK_BYTES", chunk_bytes)
    *_, k, stride, padding = case
    steps = {"stride": stride, "padding": padding}
    with jax.enable_x64(True):
        images, kernel = _arrays(case)
        images = jnp.asarray(np.concatenate([images, images[:1] + 1.0]))
        cotangent = jnp.cos(forms.forward(images, kernel, **steps))
        pairs = [
            (
                form(images, cotangent, size=(k, k), **steps)
                for form in (forms.kernel_gradient, forms.kernel_gradient_on_cpu)
            ),
            (
                form(cotangent, kernel, sides=images.shape[1:3], **steps)
                for form in (forms.input_gradient, forms.input_gradient_on_cpu)
            ),
        ]
        for accelerator, cpu in pairs:
            assert accelerator.dtype == cpu.dtype == jnp.float64
            np.testing.assert_allclose(cpu, accelerator, rtol=1e-9, atol=1e-10)


def test_value_by_hand():
    images = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.array([[1.0, 0.0], [0.0, -1.0]]).reshape(2, 2, 1, 1)
    np.testing.assert_array_equal(
        conv2d(images, kernel)[0, :, :, 0], -4 * np.ones((2, 2))
    )
    strided = conv2d(images, kernel, 2, 1)[0, :, :, 0]
    np.testing.assert_array_equal(strided, [[0, -2], [-6, -4]])


@pytest.mark.parametrize("case", [CASES[1], CASES[2]], ids=str)
def test_vmap_over_networks_equals_a_loop(case):
    *_, stride, padding = case
    with jax.enable_x64(True):
        pairs = [_arrays(case, seed) for seed in range(3)]
        images, kernels = (np.stack(x) for x in zip(*pairs))

        def gradient(conv):
            loss = lambda x, w: jnp.sum(jnp.sin(conv(x, w, stride, padding)))
            return jax.grad(loss, (0, 1))

        batched = jax.jit(jax.vmap(gradient(conv2d)))(images, kernels)
        one = jax.jit(gradient(_reference))
        each = [one(x, w) for x, w in pairs]
        for found, wanted in zip(batched, zip(*each)):
            np.testing.assert_allclose(found, np.stack(wanted), rtol=1e-9, atol=1e-10)


def test_gradient_keeps_low_precision_and_sums_in_single():
    # 4096 ones times 1 + 2^-7: a sum in bfloat16 would stop growing at 256.
    images = jnp.ones((16, 16, 16, 1), jnp.bfloat16)
    kernel = jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    total = lambda w: jnp.sum(conv2d(images, w).astype(jnp.float32))
    gradient = jax.jit(jax.grad(total))(kernel)
    assert gradient.dtype == jnp.bfloat16
    assert float(gradient[0, 0, 0, 0]) == 4096.0

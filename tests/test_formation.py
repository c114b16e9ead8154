"""Multi-formation against loops in NumPy."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax import formation

CASES = [
    ((3, 8, 8, 3), 2),
    ((2, 9, 9, 3), 2),
    ((2, 10, 7, 1), 3),
    ((2, 11, 9, 3), 4),
    ((1, 6, 6, 1), 6),
    ((2, 5, 8, 3), 1),
]

_jit_form = jax.jit(formation.form, static_argnums=1)


def _images(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).uniform(size=shape).astype(dtype)


def _enlarge(tile, height, width):
    """Bilinear, half-pixel centers, clamped at the border."""
    rows, columns, channels = tile.shape
    result = np.zeros((height, width, channels))
    for i in range(height):
        for j in range(width):
            y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
            x = min(max((j + 0.5) * columns / width - 0.5, 0), columns - 1)
            for a in {math.floor(y), min(math.floor(y) + 1, rows - 1)}:
                for b in {math.floor(x), min(math.floor(x) + 1, columns - 1)}:
                    weight = (1 - abs(y - a)) * (1 - abs(x - b))
                    result[i, j] += weight * tile[a, b]
    return result


def _form(stored, factor):
    _, height, width, _ = stored.shape
    tile_h, tile_w = math.ceil(height / factor), math.ceil(width / factor)
    formed = []
    for i in range(factor):
        for j in range(factor):
            for image in stored:
                shape = (tile_h * factor, tile_w * factor, image.shape[-1])
                padded = np.full(shape, 0.5)
                padded[:height, :width] = image
                rows = slice(i * tile_h, (i + 1) * tile_h)
                columns = slice(j * tile_w, (j + 1) * tile_w)
                formed.append(_enlarge(padded[rows, columns], height, width))
    return np.stack(formed)


def _compose(images, factor):
    height, width, channels = images.shape[1:]
    n = images.shape[0] // factor**2
    stored = np.full((n, height, width, channels), np.nan, np.float32)
    k = top = 0
    for i in range(factor):
        rows = height // factor + (i < height % factor)
        left = 0
        for j in range(factor):
            columns = width // factor + (j < width % factor)
            for m in range(n):
                for a in range(rows):
                    for b in range(columns):
                        source = a * height // rows, b * width // columns
                        stored[m, top + a, left + b] = images[k * n + m][source]
            k, left = k + 1, left + columns
        top += rows
    return stored


@pytest.mark.parametrize("shape, factor", CASES)
def test_form_matches_numpy(shape, factor):
    stored = _images(shape)
    formed = _jit_form(stored, factor)
    n, *rest = shape
    chex.assert_shape(formed, (n * factor**2, *rest))
    assert formed.dtype == jnp.float32
    np.testing.assert_allclose(formed, _form(stored, factor), atol=1e-6)
    assert formed.min() >= 0 and formed.max() <= 1 + 1e-6


def test_form_enlarges_as_worked_out_by_hand():
    stored = np.array([[0.0, 1.0], [0.2, 0.4]], np.float32)
    stored = np.kron(stored, np.ones((2, 2), np.float32))[None, :, :, None]
    formed = _jit_form(stored, 2)
    np.testing.assert_allclose(formed[:, 1, 2, 0], [0.0, 1.0, 0.2, 0.4], atol=1e-6)
    ramp = np.tile(np.array([0.0, 1.0, 0.0, 0.0], np.float32), (4, 1))[None, :, :, None]
    row = _jit_form(ramp, 2)[0, 0, :, 0]
    np.testing.assert_allclose(row, [0.0, 0.25, 0.75, 1.0], atol=1e-6)


def test_padding_is_half():
    formed = formation.form(np.zeros((1, 5, 5, 1), np.float32), 2)
    assert float(formed[0].max()) == 0.0
    np.testing.assert_allclose(formed[3, -1, -1], 0.5, atol=1e-6)
    np.testing.assert_allclose(formed[3, 0, 0], 0.0, atol=1e-6)


@pytest.mark.parametrize("shape, factor", CASES)
def test_form_tiles_agrees_with_form(shape, factor):
    stored, n = _images(shape), shape[0]
    formed = np.asarray(_jit_form(stored, factor))
    function = jax.jit(formation.form_tiles, static_argnums=2)
    for first in range(factor**2):
        tiles = (first + np.arange(n)) % factor**2
        result = function(stored, tiles, factor)
        np.testing.assert_allclose(result, formed[tiles * n + np.arange(n)], atol=1e-6)


@pytest.mark.parametrize("name", ["form", "form_multi", "form_tiles"])
def test_affine_with_exact_gradients(name):
    factor, shape = 2, (2, 7, 9, 3)
    with jax.enable_x64(True):
        rest = (jnp.arange(2) + 1,) if name == "form_tiles" else ()

        def function(z):
            return getattr(formation, name)(z, *rest, factor)

        @jax.jit
        def products(x, v, cotangent):
            value, tangent = jax.jvp(function, (x,), (v,))
            (pulled,) = jax.vjp(function, x)[1](cotangent)
            pair = jnp.vdot(tangent, cotangent), jnp.vdot(v, pulled)
            return tangent, function(x + v) - value, pair

        out = jax.eval_shape(function, jax.ShapeDtypeStruct(shape, jnp.float64))
        assert out.dtype == jnp.float64
        x, v = (_images(shape, seed, np.float64) for seed in (0, 1))
        cotangent = _images(out.shape, 2, np.float64)
        tangent, difference, pair = products(x, v, cotangent)
        np.testing.assert_allclose(tangent, difference, atol=1e-12)
        np.testing.assert_allclose(*pair, rtol=1e-12)


@pytest.mark.parametrize("shape, factor", CASES)
def test_compose_matches_numpy(shape, factor):
    n, *rest = shape
    images = _images((n * factor**2, *rest))
    stored = jax.jit(formation.compose, static_argnums=1)(images, factor)
    assert stored.dtype == jnp.float32
    np.testing.assert_array_equal(stored, _compose(images, factor))


@pytest.mark.parametrize("side, factor", [(32, 2), (33, 3), (28, 2)])
def test_forming_a_mosaic_returns_smooth_images(side, factor):
    rng = np.random.default_rng(0)
    n = 2 * factor**2
    axis = np.linspace(0, 1, side)
    phase = rng.uniform(0, 6, (n, 1, 1, 3))
    slope = axis[:, None, None] + axis[:, None]
    images = (0.5 + 0.5 * np.sin(phase + slope)).astype(np.float32)
    compose = jax.jit(formation.compose, static_argnums=1)
    formed = _jit_form(compose(images, factor), factor)
    # Taking the nearest pixel shifts an image by up to (factor - 1) / 2 pixels.
    np.testing.assert_allclose(formed, images, atol=factor / side)
    wrong = np.roll(images, 1, axis=0)
    assert np.abs(formed - images).mean() < 0.2 * np.abs(formed - wrong).mean()


def test_factor_one_is_the_identity():
    images = _images((3, 7, 6, 3))
    for function in (*formation.DECODERS.values(), formation.compose):
        np.testing.assert_array_equal(function(images, 1), images)
    tiles = np.zeros(3, np.int32)
    np.testing.assert_array_equal(formation.form_tiles(images, tiles, 1), images)


def _bound_sizes(n, factor, bound):
    """How many stored images each factor takes, from the largest factor on."""
    sizes, left, used = [], n, 0
    for f in range(factor, 1, -1):
        size = min((bound - used - left) // f**2, left)
        sizes.append((f, size))
        left, used = left - size, used + size * f * f
    return [*sizes, (1, left)]


@pytest.mark.parametrize(
    "n, factor, bound, count",
    [
        (20, 3, 128, 125),
        (10, 2, 128, 40),
        (10, 3, 10, 10),
        (7, 3, 30, 26),
        (50, 2, 128, 107),
    ],
)
def test_bound(n, factor, bound, count):
    stored = _images((n, 6, 6, 1))
    parts, start = [], 0
    for f, size in _bound_sizes(n, factor, bound):
        if size:
            parts.append(_form(stored[start : start + size], f))
        start += size
    formed = jax.jit(formation.form_bound, static_argnums=(1, 2))(stored, factor, bound)
    np.testing.assert_allclose(formed, np.concatenate(parts), atol=1e-6)
    assert formed.shape[0] == formation.formed_count(n, factor, "bound", bound) == count
    assert n <= count <= bound


def test_multi():
    stored = _images((2, 7, 6, 3))
    expected = np.concatenate([_form(stored, f) for f in (1, 2, 3)])
    np.testing.assert_allclose(formation.form_multi(stored, 3), expected, atol=1e-6)
    assert formation.formed_count(2, 3, "multi") == 28


@pytest.mark.parametrize("decode", formation.DECODERS)
def test_sources_name_the_stored_image(decode):
    n, factor = 12, 3
    stored = np.broadcast_to(
        np.arange(n, dtype=np.float32)[:, None, None, None] / n, (n, 6, 6, 1)
    )
    formed = jax.jit(formation.DECODERS[decode], static_argnums=1)(stored, factor)
    sources = formation.formed_sources(n, factor, decode)
    assert sources.shape == (formation.formed_count(n, factor, decode),)
    assert formed.shape[0] == sources.size
    np.testing.assert_allclose(formed[:, 0, 0, 0], sources / n, atol=1e-6)


def test_counts():
    assert formation.tile_side(32, 2) == 16
    assert formation.tile_side(28, 3) == 10
    assert formation.formed_count(10, 2) == 40
    assert formation.formed_count(10, 1) == 10


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda x: formation.form(x, 0), "factor is 0"),
        (lambda x: formation.form(x, 7), "factor is 7"),
        (lambda x: formation.form_multi(x, 7), "factor is 7"),
        (lambda x: formation.form_multi(x, 0), "factor is 0"),
        (lambda x: formation.form_tiles(x, jnp.zeros(6, int), 7), "factor is 7"),
        (lambda x: formation.compose(x, 2), "multiple of 4"),
        (lambda x: formation.form_bound(x, 2, 5), "bound is 5"),
        (lambda x: formation.formed_count(6, 2, "multy"), "nearest: 'multi'"),
    ],
)
def test_refuses(call, message):
    with pytest.raises(ValueError, match=message):
        call(_images((6, 6, 6, 1)))

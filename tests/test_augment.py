"""Siamese augmentation and CutMix against loops in NumPy."""

import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax.augment import Strategy, cutmix, parse_strategy, siamese, siamese_augment
from d4a_jax.augment.cutmix import apply_cutmix, draw_cutmix

ALL = "flip_color_crop_scale_rotate_cutout"
SHAPES = ((3, 8, 8, 3), (3, 9, 6, 1), (3, 7, 11, 3))

_augment = jax.jit(siamese_augment, static_argnames=("strategy", "shared"))
_draw = jax.jit(siamese.draw_parameters, static_argnums=(1, 2, 3, 4))
_cutmix = jax.jit(cutmix, static_argnames=("probability", "beta", "num_classes"))
_draw_cutmix = jax.jit(draw_cutmix, static_argnums=(1, 2, 3))


def _images(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def _color(image, brightness, saturation, contrast):
    image = image + brightness
    mean = image.mean(axis=-1, keepdims=True)
    image = (image - mean) * saturation + mean
    return (image - image.mean()) * contrast + image.mean()


def _sample(image, y, x):
    """Bilinear value at real coordinates; zero outside the image."""
    height, width, channels = image.shape
    value = np.zeros(channels)
    for row in (math.floor(y), math.floor(y) + 1):
        for column in (math.floor(x), math.floor(x) + 1):
            if 0 <= row < height and 0 <= column < width:
                weight = (1 - abs(y - row)) * (1 - abs(x - column))
                value += weight * image[row, column]
    return value


def _affine(image, matrix):
    """Samples at `matrix @ (x, y)` in coordinates from -1 to 1, corners not aligned."""
    height, width, _ = image.shape
    result = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            out = np.array([(2 * j + 1) / width - 1, (2 * i + 1) / height - 1])
            u, v = np.asarray(matrix) @ out
            x, y = ((u + 1) * width - 1) / 2, ((v + 1) * height - 1) / 2
            result[i, j] = _sample(image, y, x)
    return result


def _crop(image, dy, dx):
    height, width, _ = image.shape
    result = np.zeros(image.shape)
    for i in range(height):
        for j in range(width):
            if 0 <= i + dy < height and 0 <= j + dx < width:
                result[i, j] = image[i + dy, j + dx]
    return result


def _cutout(image, offset_y, offset_x):
    height, width, _ = image.shape
    size_y, size_x = int(height * 0.5 + 0.5), int(width * 0.5 + 0.5)
    result = np.array(image)
    for a in range(size_y):
        for b in range(size_x):
            row = min(max(a + offset_y - size_y // 2, 0), height - 1)
            column = min(max(b + offset_x - size_x // 2, 0), width - 1)
            result[row, column] = 0
    return result


def _reference(image, strategy, draw):
    """One image in float64; `draw` holds this image's parameters as numbers."""
    image = np.asarray(image, np.float64)
    if strategy.flip and draw["flip"]:
        image = image[:, ::-1]
    if strategy.color:
        names = ("brightness", "saturation", "contrast")
        image = _color(image, *(draw[name] for name in names))
    if strategy.geometric:
        name = strategy.geometric[int(draw.get("choice", 0))]
        if name == "crop":
            image = _crop(image, int(draw["crop_y"]), int(draw["crop_x"]))
        elif name == "scale":
            image = _affine(image, [[draw["scale_x"], 0], [0, draw["scale_y"]]])
        else:
            cos, sin = np.cos(draw["rotate"]), np.sin(draw["rotate"])
            image = _affine(image, [[cos, -sin], [sin, cos]])
    if strategy.cutout:
        image = _cutout(image, int(draw["cutout_y"]), int(draw["cutout_x"]))
    return image


def _reference_batch(key, images, strategy, shared):
    n, height, width, _ = images.shape
    parsed = parse_strategy(strategy)
    count = None if shared else n
    draw = _draw(key, parsed, height, width, count)
    draw = {name: np.asarray(value, np.float64) for name, value in draw.items()}
    return np.stack(
        [
            _reference(
                image,
                parsed,
                {k: v if v.ndim == 0 else v[i] for k, v in draw.items()},
            )
            for i, image in enumerate(images)
        ]
    )


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize(
    "strategy, shape",
    [
        ("color_crop_cutout", SHAPES[0]),
        ("crop_cutout", SHAPES[1]),
        ("flip_scale", SHAPES[2]),
        ("color_rotate", SHAPES[1]),
        (ALL, SHAPES[2]),
    ],
)
def test_matches_numpy(strategy, shape, shared):
    images = _images(shape)
    for seed in range(8):
        key = jax.random.key(seed)
        result = _augment(key, images, strategy, shared=shared)
        chex.assert_shape(result, shape)
        assert result.dtype == jnp.float32
        expected = _reference_batch(key, images, strategy, shared)
        np.testing.assert_allclose(result, expected, atol=2e-5)


def test_jit_changes_nothing():
    images, key = _images(SHAPES[0]), jax.random.key(4)
    compiled = _augment(key, images, "color_crop_cutout", shared=True)
    mixed = _cutmix(key, images, np.arange(3), 1.0, num_classes=5)
    plain = siamese_augment(key, images, "color_crop_cutout", shared=True)
    plain_mixed = cutmix(key, images, np.arange(3), 1.0, num_classes=5)
    chex.assert_trees_all_close(plain, compiled, atol=1e-6)
    chex.assert_trees_all_close(plain_mixed, mixed, atol=1e-6)


@pytest.mark.parametrize("name", ["crop", "scale", "rotate", "cutout"])
def test_transformations_move_pixels_as_expected(name):
    """Values worked out by hand, for the direction and the borders."""
    image = np.zeros((1, 4, 4, 1), np.float32)
    image[0, 1, 2] = 1.0
    draws = {
        "crop": {"crop_y": 1, "crop_x": -1},
        "scale": {"scale_y": 1.0, "scale_x": 1.2},
        "rotate": {"rotate": math.pi / 2},
        "cutout": {"cutout_y": 0, "cutout_x": 4},
    }
    # A pixel at row i comes from i + 1 after a crop by 1; cutting out at 0 leaves the
    # rows from 1 on, at 4 the columns up to 1. In a width of 4 the column 2 samples
    # at 1.5 + 1.2 / 2 = 2.1, the columns 1 and 3 at 0.9 and 3.3. A rotation of the
    # coordinates by 90 degrees takes (i, j) from (j, 3 - i).
    expected = {
        "crop": {(0, 3): 1.0},
        "scale": {(1, 2): 0.9},
        "rotate": {(1, 1): 1.0},
        "cutout": {(1, 2): 1.0},
    }
    arrays = {k: jnp.asarray(v) for k, v in draws[name].items()}
    apply = jax.jit(siamese.apply_parameters, static_argnums=1)
    result = apply(image, parse_strategy(name), arrays)
    wanted = np.zeros((4, 4))
    for place, value in expected[name].items():
        wanted[place] = value
    np.testing.assert_allclose(result[0, :, :, 0], wanted, atol=1e-6)


@pytest.mark.parametrize("strategy", ["color_crop_cutout", ALL])
def test_shared_draw_does_not_depend_on_the_batch(strategy):
    """The siamese property: one key, one transformation, whatever the batch."""
    real, synthetic = _images((7, 8, 8, 3), 1), _images((3, 8, 8, 3), 2)
    for seed in range(8):
        key = jax.random.key(seed)
        together = np.concatenate([real, synthetic])
        joint = _augment(key, together, strategy, shared=True)
        apart = [
            _augment(key, batch, strategy, shared=True) for batch in (real, synthetic)
        ]
        chex.assert_trees_all_close(joint, jnp.concatenate(apart), atol=1e-6)


def test_per_image_draws_differ_within_a_batch():
    strategy, key = "color_crop_cutout", jax.random.key(0)
    images = np.broadcast_to(_images((1, 8, 8, 3)), (16, 8, 8, 3))
    for shared in (False, True):
        result = np.asarray(_augment(key, images, strategy, shared=shared))
        assert len({image.tobytes() for image in result}) == (1 if shared else 16)
    draw = _draw(key, parse_strategy(ALL), 64, 64, 16)
    for name, values in draw.items():
        distinct = {"choice": 1, "flip": 2}.get(name, 8)
        assert np.unique(values).size >= distinct, name


@pytest.mark.parametrize("height, width", [(32, 28), (7, 6)])
def test_ranges_and_frequencies(height, width):
    strategy, n = parse_strategy(ALL), 4096
    keys = jax.random.split(jax.random.key(3), n)
    draw = jax.vmap(lambda key: _draw(key, strategy, height, width, None))(keys)
    draw = {name: np.asarray(value) for name, value in draw.items()}
    assert abs(draw["flip"].mean() - 0.5) < 0.04
    for name, low, high in (
        ("brightness", -0.5, 0.5),
        ("saturation", 0.0, 2.0),
        ("contrast", 0.5, 1.5),
        ("scale_y", 1 / 1.2, 1.2),
        ("scale_x", 1 / 1.2, 1.2),
        ("rotate", -math.radians(15), math.radians(15)),
    ):
        values = draw[name]
        assert low - 1e-6 <= values.min() and values.max() <= high + 1e-6, name
        assert abs(values.mean() - (low + high) / 2) < 0.03 * (high - low), name
        assert values.max() - values.min() > 0.99 * (high - low), name
    for axis, side in (("y", height), ("x", width)):
        reach, hole = int(side * 0.125 + 0.5), int(side * 0.5 + 0.5)
        crop, cut = draw[f"crop_{axis}"], draw[f"cutout_{axis}"]
        assert set(crop) == set(range(-reach, reach + 1))
        assert set(cut) == set(range(side + (1 - hole % 2)))
    counts = np.bincount(draw["choice"], minlength=3) / n
    np.testing.assert_allclose(counts, 1 / 3, atol=0.03)
    pairs = np.corrcoef([draw[k] for k in ("brightness", "saturation", "scale_y")])
    assert np.abs(pairs - np.eye(3)).max() < 0.06


def test_one_choice_for_a_batch_in_both_modes():
    strategy, key = parse_strategy("crop_rotate"), jax.random.key(0)
    for count in (None, 5):
        draw = jax.eval_shape(lambda c=count: _draw(key, strategy, 8, 8, c))
        chex.assert_shape(draw["choice"], ())
        chex.assert_shape(draw["rotate"], () if count is None else (count,))


@pytest.mark.parametrize("shared", [True, False])
def test_switch_is_a_branch_only_where_there_is_a_choice(shared):
    def primitives(strategy):
        images = jnp.zeros((2, 8, 8, 3))
        function = lambda key, x: siamese_augment(key, x, strategy, shared=shared)
        return str(jax.make_jaxpr(function)(jax.random.key(0), images))

    assert " cond[" not in primitives("color_crop_cutout")
    assert " cond[" in primitives("color_crop_scale")


@pytest.mark.parametrize(
    "strategy, shared", [("color_crop_cutout", False), (ALL, True)]
)
def test_gradients(strategy, shared):
    """Affine in the images: exact differences, and a transpose that is one."""

    def function(key, x):
        return siamese_augment(key, x, strategy, shared=shared)

    @jax.jit
    def products(key, x, v, cotangent):
        value, tangent = jax.jvp(lambda z: function(key, z), (x,), (v,))
        (pulled,) = jax.vjp(lambda z: function(key, z), x)[1](cotangent)
        difference = function(key, x + v) - value
        return tangent, difference, jnp.vdot(tangent, cotangent), jnp.vdot(v, pulled)

    with jax.enable_x64(True):
        arrays = [_images((3, 9, 8, 3), seed, np.float64) for seed in range(3)]
        for seed in range(8):
            tangent, difference, *pair = products(jax.random.key(seed), *arrays)
            assert tangent.dtype == jnp.float64
            np.testing.assert_allclose(tangent, difference, atol=1e-12)
            np.testing.assert_allclose(*pair, rtol=1e-10)


def test_vmap_over_classes_equals_a_loop():
    """Matching draws one transformation for each class."""
    images = jnp.asarray(_images((4, *SHAPES[0])))
    keys = jax.random.split(jax.random.key(0), 4)

    def function(key, x):
        return siamese_augment(key, x, ALL, shared=True)

    loop = [_augment(k, x, ALL, shared=True) for k, x in zip(keys, images, strict=True)]
    batched = jax.jit(jax.vmap(function))(keys, images)
    chex.assert_trees_all_close(batched, jnp.stack(loop), atol=1e-6)


@pytest.mark.parametrize("strategy", ["none", "None", ""])
def test_no_augmentation_returns_the_images(strategy):
    images = _images((2, 8, 8, 3))
    result = siamese_augment(jax.random.key(0), images, strategy, shared=True)
    np.testing.assert_array_equal(result, images)


def test_half_precision_is_kept():
    images = jnp.zeros((2, 8, 8, 3), jnp.bfloat16)
    result = jax.eval_shape(
        lambda x: _augment(jax.random.key(0), x, ALL, shared=False), images
    )
    assert result.dtype == jnp.bfloat16


def test_parse_strategy():
    assert parse_strategy("") == parse_strategy("none") == Strategy()
    assert parse_strategy("cutout_rotate_crop_Color") == Strategy(
        color=True, geometric=("crop", "rotate"), cutout=True
    )


@pytest.mark.parametrize(
    "strategy, message",
    [
        ("color_crp", "'crp'.*nearest: 'crop'"),
        ("colour", "'colour'.*nearest: 'color'"),
        ("color__crop", "''"),
        ("crop_color_crop", "'crop' more than once"),
    ],
)
def test_parse_strategy_refuses(strategy, message):
    with pytest.raises(ValueError, match=message):
        parse_strategy(strategy)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_cutmix_matches_numpy(shape):
    n, height, width, _ = shape
    images, classes = _images(shape), 5
    labels = np.arange(n) % classes
    for seed in range(12):
        key = jax.random.key(seed)
        mixed, soft = _cutmix(key, images, labels, 1.0, num_classes=classes)
        draw = _draw_cutmix(key, shape, 1.0, 1.0)
        draw = {name: np.asarray(value) for name, value in draw.items()}
        expected, count = np.array(images), 0
        for i in range(draw["top"], draw["bottom"]):
            for j in range(draw["left"], draw["right"]):
                expected[:, i, j] = images[draw["order"], i, j]
                count += 1
        np.testing.assert_array_equal(mixed, expected)
        share = count / (height * width)
        target = np.zeros((n, classes))
        for k in range(n):
            target[k, labels[k]] += 1 - share
            target[k, labels[draw["order"][k]]] += share
        np.testing.assert_allclose(soft, target, atol=1e-6)
        np.testing.assert_allclose(soft.sum(axis=1), 1.0, atol=1e-6)


def _boxes(probability, beta=1.0):
    keys = jax.random.split(jax.random.key(1), 4000)
    shape = (4, 32, 20, 3)
    draw = jax.jit(jax.vmap(lambda key: draw_cutmix(key, shape, probability, beta)))
    return {name: np.asarray(value) for name, value in draw(keys).items()}


def test_cutmix_probability():
    images, labels = _images(SHAPES[0]), np.array([0, 2, 1])
    hard = np.eye(5, dtype=np.float32)[labels]
    for seed in range(8):
        key = jax.random.key(seed)
        mixed, soft = _cutmix(key, images, labels, 0.0, num_classes=5)
        np.testing.assert_array_equal(mixed, images)
        np.testing.assert_array_equal(soft, hard)
    # Where a batch is mixed, a side of 20 is still cut below 2 pixels, so not at all,
    # if sqrt(1 - kept) is below 1 / 10: with a uniform share once in 100 batches.
    box = _boxes(0.3)
    empty = (box["bottom"] <= box["top"]) | (box["right"] <= box["left"])
    assert abs(empty.mean() - (0.7 + 0.3 * 0.01)) < 0.03


@pytest.mark.parametrize("beta", [1.0, 0.5])
def test_cutmix_box_distribution(beta):
    """IDC's box: centers everywhere, half sides floor(floor(side r) / 2), cut off."""
    box = _boxes(1.0, beta)
    assert box["top"].min() == 0 and box["bottom"].max() == 32
    assert box["left"].min() == 0 and box["right"].max() == 20
    inner = (box["top"] > 0) & (box["bottom"] < 32)
    assert np.all((box["bottom"] - box["top"])[inner] % 2 == 0)
    area = (box["bottom"] - box["top"]) * (box["right"] - box["left"]) / 640
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(4000):
        ratio = math.sqrt(1 - rng.beta(beta, beta))
        share = 1.0
        for side in (32, 20):
            half, center = int(side * ratio) // 2, rng.integers(side)
            share *= (min(center + half, side) - max(center - half, 0)) / side
        shares.append(share)
    np.testing.assert_allclose(area.mean(), np.mean(shares), atol=0.02)
    np.testing.assert_allclose(area.std(), np.std(shares), atol=0.02)


def test_cutmix_takes_distributions():
    images = _images(SHAPES[0])
    labels = np.random.default_rng(0).dirichlet(np.ones(4), 3).astype(np.float32)
    key = jax.random.key(5)
    mixed, soft = _cutmix(key, images, labels, 1.0, num_classes=4)
    again = apply_cutmix(images, labels, _draw_cutmix(key, images.shape, 1.0, 1.0))
    chex.assert_trees_all_close((mixed, soft), again)
    np.testing.assert_allclose(soft.sum(axis=1), 1.0, atol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [((1.5,), "1.5"), ((-0.1,), "-0.1"), ((0.5, 0.0), "beta")],
)
def test_cutmix_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        cutmix(
            jax.random.key(0),
            jnp.zeros((2, 4, 4, 1)),
            jnp.zeros(2, jnp.int32),
            *arguments,
            num_classes=2,
        )

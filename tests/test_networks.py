"""Networks: parameter counts, shapes, layers against NumPy, specifications."""

import functools
import itertools
import re

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax.networks import create_network, layers, network_names
from d4a_jax.networks.resnet import BasicBlock, ConvNorm

CIFAR = (32, 32, 3)


@functools.cache
def _variables(spec, num_classes, image_shape):
    """Abstract variables."""
    network = create_network(spec, num_classes, image_shape)
    return jax.eval_shape(network.init, jax.random.key(0))


def _features(spec, num_classes, image_shape):
    """Abstract features of two images."""
    features = create_network(spec, num_classes, image_shape).features
    variables = _variables(spec, num_classes, image_shape)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    return jax.eval_shape(features, variables, images)


def _apply(spec, num_classes, image_shape):
    """Abstract logits and new statistics of two images in training."""
    network = create_network(spec, num_classes, image_shape)
    variables = _variables(spec, num_classes, image_shape)
    images = jax.ShapeDtypeStruct((2, *image_shape), jnp.float32)
    apply = functools.partial(network.apply, train=True)
    return jax.eval_shape(apply, variables, images)


def _count(spec, num_classes, image_shape):
    params = _variables(spec, num_classes, image_shape)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _images(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def _fill(shapes, seed=0):
    """Random values of plausible size for abstract variables, drawn by NumPy."""

    def value(path, leaf):
        name = path[-1].key
        if name in ("scale", "var"):
            return np.ones(leaf.shape, leaf.dtype)
        scale = np.prod(leaf.shape[:-1]) ** -0.5 if name == "kernel" else 0.1
        return scale * _images(leaf.shape, seed + leaf.size)

    return jax.tree_util.tree_map_with_path(value, shapes)


def _run(module, x, *args):
    """NumPy-filled parameters of one layer and what it makes of `x`."""
    shapes = jax.eval_shape(lambda x: module.init(jax.random.key(0), x, *args), x)
    variables = _fill(shapes)
    y = jax.jit(lambda v, x: module.apply(v, x, *args))(variables, x)
    return variables["params"], np.asarray(y)


def _tiny(spec, image_shape=(8, 8, 3), num_classes=5, dtype=jnp.float32):
    """A small network, its application under jit and NumPy-filled variables."""
    network = create_network(spec, num_classes, image_shape, dtype)
    variables = _fill(jax.eval_shape(network.init, jax.random.key(0)))
    apply = jax.jit(network.apply, static_argnames="train")
    return network, apply, variables


# Parameter counts. A convolution with bias and affine norm over c outputs has
# k * k * c_in * c + 3 * c parameters; without bias, 2 * c instead of 3 * c.


def test_convnet_counts():
    assert _count("convnet", 10, CIFAR) == 320_010
    blocks = (9 * 3 * 128 + 3 * 128) + 3 * (9 * 128 * 128 + 3 * 128)
    classifier = 128 * 4 * 4 * 200 + 200
    assert _count("convnet", 200, (64, 64, 3)) == blocks + classifier
    no_norm = 320_010 - 3 * 2 * 128
    assert _count("convnet:norm=none", 10, CIFAR) == no_norm
    per_element = 2 * 128 * (32 * 32 + 16 * 16 + 8 * 8)
    assert _count("convnet:norm=layer", 10, CIFAR) == no_norm + per_element


@pytest.mark.parametrize("spec", ["resnet18:norm=batch", "resnet_ap18"])
def test_resnet18_count(spec):
    assert _count(spec, 10, CIFAR) == 11_173_962


@pytest.mark.parametrize("name", ["resnet10", "resnet_ap10"])
def test_resnet10_count(name):
    total = 9 * 3 * 64 + 2 * 64
    c_in = 64
    for c in (64, 128, 256, 512):
        total += 9 * c_in * c + 9 * c * c + 4 * c
        total += c_in * c + 2 * c if c != c_in else 0
        c_in = c
    assert _count(name, 10, CIFAR) == total + 512 * 10 + 10
    larger_stem = (49 - 9) * 3 * 64
    assert _count(name, 10, (224, 224, 3)) == total + larger_stem + 512 * 10 + 10


def test_vgg11_count():
    widths = (3, 64, 128, 256, 256, 512, 512, 512, 512)
    total = sum(9 * a * b + 3 * b for a, b in itertools.pairwise(widths))
    assert _count("vgg11", 10, CIFAR) == total + 512 * 10 + 10


def test_alexnet_count():
    convolutions = ((5, 3, 128), (5, 128, 192), (3, 192, 256), (3, 256, 192))
    total = sum(k * k * a * b + b for k, a, b in (*convolutions, (3, 192, 192)))
    assert _count("alexnet", 10, CIFAR) == total + 192 * 4 * 4 * 10 + 10


def test_densenet_count():
    growth, channels = 12, 24
    total = 9 * 3 * channels
    for stage, count in enumerate((6, 12, 24, 16)):
        for _ in range(count):
            total += 2 * channels + channels * 4 * growth
            total += 2 * 4 * growth + 9 * 4 * growth * growth
            channels += growth
        if stage < 3:
            total += 2 * channels + channels * (channels // 2)
            channels //= 2
    total += 2 * channels + channels * 10 + 10
    assert total == 1_000_618
    assert _count("densenet121", 10, CIFAR) == total


def test_vit_count():
    block = 4 * 192 * 192 + 4 * 192 + 2 * (192 * 384) + 384 + 192 + 4 * 192
    embedding = 4 * 4 * 3 * 192 + 192 + 192 + 65 * 192
    head = 2 * 192 + 192 * 10 + 10
    assert _count("vit", 10, CIFAR) == 6 * block + embedding + head


# Shapes and the contract of the functions.


@pytest.mark.parametrize(
    "name, image_shape",
    [(name, (28, 28, 1)) for name in network_names() if name != "densenet121"]
    + [(name, (64, 64, 3)) for name in ("convnet", "resnet_ap10", "vgg11", "alexnet")],
)
def test_logits_and_features(name, image_shape):
    variables = _variables(name, 7, image_shape)
    logits, stats = _apply(name, 7, image_shape)
    features = _features(name, 7, image_shape)
    chex.assert_shape(logits, (2, 7))
    assert logits.dtype == jnp.float32
    assert variables["batch_stats"] == stats == {}
    kernel = variables["params"]["classifier"]["kernel"]
    chex.assert_shape(features[-1], (2, kernel.shape[0]))
    assert len(features) > 2
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype("float32")}


def test_densenet_statistics_and_features():
    variables = _variables("densenet121", 10, CIFAR)
    logits, stats = _apply("densenet121", 10, CIFAR)
    features = _features("densenet121", 10, CIFAR)
    chex.assert_shape(logits, (2, 10))
    chex.assert_trees_all_equal_shapes_and_dtypes(stats, variables["batch_stats"])
    sides_and_widths = [f.shape[1::2] for f in features[:-1]]
    assert sides_and_widths == [(16, 48), (8, 96), (4, 192), (4, 384)]
    chex.assert_shape(features[-1], (2, 384))


@pytest.mark.parametrize(
    "image_shape, depth, last",
    [
        ((8, 8, 3), 2, (2, 2)),
        ((16, 16, 1), 2, (4, 4)),
        ((28, 28, 1), 3, (4, 4)),
        ((28, 28, 3), 3, (4, 4)),
        ((33, 47, 2), 3, (4, 5)),
        ((64, 64, 3), 4, (4, 4)),
        ((128, 128, 3), 5, (4, 4)),
    ],
)
def test_convnet_depth_follows_the_side(image_shape, depth, last):
    features = _features("convnet:width=4", 3, image_shape)
    assert len(features) == depth + 1
    assert features[-2].shape == (2, *last, 4)
    assert features[-1].shape == (2, last[0] * last[1] * 4)


def test_resnet_stems():
    sides = {96: (48, 6), 224: (56, 7)}
    for side, (stem, last) in sides.items():
        for name in ("resnet10", "resnet_ap10"):
            features = _features(f"{name}:width=4", 3, (side, side, 3))
            assert features[0].shape == (2, stem, stem, 4)
            assert features[-2].shape == (2, last, last, 32)


def test_vgg_flattens_larger_images():
    assert _features("vgg11", 10, (28, 28, 1))[-1].shape == (2, 512)
    assert _features("vgg11", 10, (96, 64, 3))[-1].shape == (2, 3 * 2 * 512)


@pytest.mark.parametrize(
    "spec, convolutions",
    [
        ("convnet", 3),
        ("resnet18", 20),
        ("vgg11", 8),
        ("alexnet:norm=batch", 5),
        ("densenet121", 120),
        ("vit", 0),
    ],
)
def test_leaf_names_tell_the_roles(spec, convolutions):
    params = _variables(spec, 10, CIFAR)["params"]
    leaves = jax.tree_util.tree_flatten_with_path(params)[0]
    named = [([entry.key for entry in path], leaf) for path, leaf in leaves]
    kernels = [names for names, leaf in named if leaf.ndim == 4]
    assert len(kernels) == convolutions
    assert {names[-1] for names in kernels} <= {"kernel"}
    norms = {names[-1] for names, _ in named if "norm" in "/".join(names)}
    assert norms == {"scale", "bias"}
    chex.assert_rank(params["classifier"]["kernel"], 2)


def test_features_feed_the_classifier():
    network, apply, variables = _tiny("convnet:width=8")
    x = _images((4, 8, 8, 3))
    logits, _ = apply(variables, x, train=False)
    head = variables["params"]["classifier"]
    embedding = jax.jit(network.features)(variables, x)[-1]
    expected = np.asarray(embedding) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, expected, atol=1e-5)


@pytest.mark.parametrize("spec", ["convnet:width=8", "vit:dim=12:depth=1"])
def test_bfloat16_computes_close_logits_in_float32(spec):
    _, rounded, variables = _tiny(spec, dtype=jnp.bfloat16)
    _, exact, _ = _tiny(spec)
    x = _images((4, 8, 8, 3))
    logits = np.asarray(rounded(variables, x)[0])
    assert logits.dtype == np.float32
    difference = np.abs(logits - exact(variables, x)[0]).max()
    assert 0 < difference < 0.05


def test_init_maps_over_keys_and_depends_on_them():
    network = create_network("convnet:width=4:depth=1:norm=batch", 5, (8, 8, 3))
    keys = jax.random.split(jax.random.key(3), 2)
    pair = jax.jit(jax.vmap(network.init))(keys)
    chex.assert_tree_shape_prefix(pair, (2,))
    kernel = np.asarray(pair["params"]["block0"]["conv"]["kernel"])
    assert not np.allclose(kernel[0], kernel[1])
    norms = [tree["block0"]["norm"] for tree in pair.values()]
    for leaf in ("scale", "bias", "mean", "var"):
        (value,) = [norm[leaf] for norm in norms if leaf in norm]
        np.testing.assert_array_equal(value, float(leaf in ("scale", "var")))


# Batch norm.


def test_batch_statistics_are_used_and_updated():
    network, apply, variables = _tiny("convnet:width=6:depth=1:norm=batch")
    norm = variables["params"]["block0"]["norm"]
    norm["bias"] = np.zeros_like(norm["bias"])
    old = variables["batch_stats"]["block0"]["norm"]
    x = 3 * _images((16, 8, 8, 3)) + 1
    logits, stats = apply(variables, x, train=True)
    conv = {"params": variables["params"]["block0"]["conv"]}
    y = np.asarray(jax.jit(layers.Conv(6).apply)(conv, x))
    new = stats["block0"]["norm"]
    mean, variance = y.mean((0, 1, 2)), y.var((0, 1, 2))
    np.testing.assert_allclose(new["mean"], 0.9 * old["mean"] + 0.1 * mean, atol=1e-5)
    np.testing.assert_allclose(new["var"], 0.9 * old["var"] + 0.1 * variance, rtol=1e-5)
    evaluated, kept = apply(variables, x, train=False)
    chex.assert_trees_all_equal(kept, variables["batch_stats"])
    assert np.abs(np.asarray(evaluated) - logits).max() > 1e-3
    z = np.maximum((y - mean) / np.sqrt(variance + 1e-5), 0)
    z = z.reshape(16, 4, 2, 4, 2, 6).mean((2, 4))
    features = jax.jit(network.features, static_argnums=2)(variables, x, True)
    np.testing.assert_allclose(features[0], z, atol=1e-4)


@pytest.mark.parametrize("norm", ["instance", "none", "group", "layer"])
def test_networks_without_batch_norm_have_no_statistics(norm):
    _, apply, variables = _tiny(f"convnet:width=4:norm={norm}")
    x = _images((3, 8, 8, 3))
    assert variables["batch_stats"] == {}
    trained, stats = apply(variables, x, train=True)
    assert stats == {}
    chex.assert_trees_all_equal(trained, apply(variables, x, train=False)[0])


# Layers against NumPy.


@pytest.mark.parametrize(
    "norm, axes", [("Instance", (1, 2)), ("Group", (1, 2, 4)), ("Layer", (1, 2, 3))]
)
def test_norms_against_numpy(norm, axes):
    x = 2 * _images((3, 5, 4, 8)) + np.float32(0.5)
    module = getattr(layers, f"{norm}Norm")()
    params, _ = _run(module, x)
    z = x.reshape(3, 5, 4, 4, 2) if norm == "Group" else x
    z = (z - z.mean(axes, keepdims=True)) / np.sqrt(z.var(axes, keepdims=True) + 1e-5)
    shape = (5, 4, 8) if norm == "Layer" else (8,)
    chex.assert_shape([params["scale"], params["bias"]], shape)
    scale, bias = _images((2, *shape))
    y = module.apply({"params": {"scale": scale, "bias": bias}}, x)
    np.testing.assert_allclose(y, z.reshape(x.shape) * scale + bias, atol=1e-5)


def test_standardize_is_finite_where_the_variance_is_zero():
    x = np.full((1, 4, 4, 2), 1000.1, np.float32)

    @jax.jit
    def run(x, cotangent):
        y, pull = jax.vjp(lambda x: layers.standardize(x, (1, 2)), x)
        return y, pull(cotangent)[0]

    y, gradient = run(x, _images(x.shape))
    np.testing.assert_allclose(y, 0, atol=0.1)
    assert np.isfinite(gradient).all()


def test_avg_pool_drops_odd_rows():
    x = _images((2, 7, 9, 3))
    for window in (2, 4):
        rows, columns = 7 // window, 9 // window
        expected = np.empty((2, rows, columns, 3), np.float32)
        for i, j in np.ndindex(rows, columns):
            top, left = i * window, j * window
            tile = x[:, top : top + window, left : left + window]
            expected[:, i, j] = tile.mean((1, 2))
        np.testing.assert_allclose(layers.avg_pool(x, window), expected, atol=1e-6)
    np.testing.assert_array_equal(layers.avg_pool(x, 1), x)


@pytest.mark.parametrize("window, stride, padding", [(2, None, 0), (3, 2, 1)])
def test_max_pool(window, stride, padding):
    x = _images((2, 7, 9, 3))
    step = stride or window
    border = ((0, 0), (padding, padding), (padding, padding), (0, 0))
    padded = np.pad(x, border, constant_values=-np.inf)
    rows, columns = [(s - window) // step + 1 for s in padded.shape[1:3]]
    expected = np.empty((2, rows, columns, 3), np.float32)
    for i, j in np.ndindex(rows, columns):
        top, left = i * step, j * step
        tile = padded[:, top : top + window, left : left + window]
        expected[:, i, j] = tile.max((1, 2))
    y = layers.max_pool(x, window, stride, padding)
    np.testing.assert_array_equal(y, expected)


def test_global_avg_pool():
    x = _images((2, 3, 5, 4))
    np.testing.assert_allclose(layers.global_avg_pool(x), x.mean((1, 2)), atol=1e-6)


def test_conv_against_explicit_sum():
    x = _images((2, 6, 5, 3))
    params, y = _run(layers.Conv(4, kernel=3, stride=2, padding=1), x)
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    chex.assert_shape(y, (2, 3, 3, 4))
    for i, j in np.ndindex(3, 3):
        tile = padded[:, 2 * i : 2 * i + 3, 2 * j : 2 * j + 3]
        expected = np.einsum("nabc,abcd->nd", tile, params["kernel"]) + params["bias"]
        np.testing.assert_allclose(y[:, i, j], expected, atol=1e-5)


def test_instance_norm_needs_no_bias():
    """The block that leaves the bias out equals one that adds it."""
    x = _images((4, 8, 8, 3))
    params, y = _run(layers.ConvBlock(16), x, False)
    conv, norm = params["conv"], params["norm"]
    conv["bias"] = 5 * _images((16,), seed=1)
    skipped = layers.ConvBlock(16).apply({"params": params}, x, False)
    chex.assert_trees_all_close(skipped, y, atol=1e-5)
    added = layers.Conv(16).apply({"params": conv}, x)
    added = nn.relu(layers.InstanceNorm().apply({"params": norm}, added))
    chex.assert_trees_all_close(skipped, added, atol=1e-4)


@pytest.mark.parametrize("norm", ["none", "group", "layer"])
def test_other_norms_add_the_bias(norm):
    x = _images((2, 6, 6, 3))
    block = layers.ConvBlock(8, norm=norm)
    params, y = _run(block, x, False)
    params["conv"]["bias"] = params["conv"]["bias"] + np.arange(8)
    changed = np.asarray(block.apply({"params": params}, x, False))
    assert np.abs(changed - y).max() > 0.1


def test_pixel_gradient_along_a_parameter_direction():
    """Forward over reverse, which matching uses, equals reverse over reverse."""
    network, _, variables = _tiny("convnet:width=4:depth=1")
    params, tangent = variables["params"], _fill(variables["params"], seed=1)
    x = _images((2, 8, 8, 3))

    def loss(params, x):
        logits, _ = network.apply({"params": params}, x, train=True)
        return -nn.log_softmax(logits)[:, 0].mean()

    def forward(params, tangent, x):
        return jax.jvp(lambda p: jax.grad(loss, 1)(p, x), (params,), (tangent,))[1]

    def along(params, tangent, x):
        products = jax.tree.map(jnp.vdot, jax.grad(loss)(params, x), tangent)
        return sum(jax.tree.leaves(products))

    y = np.asarray(jax.jit(forward)(params, tangent, x))
    reverse = jax.jit(jax.grad(along, 2))(params, tangent, x)
    assert np.abs(y).max() > 1e-3
    np.testing.assert_allclose(y, reverse, atol=1e-4 * np.abs(y).max())


def test_pooled_residual_block_pools_after_the_shortcut():
    """Pooling before the 1x1 convolution is the published order, odd sides included."""
    x = _images((2, 7, 7, 4))
    block = BasicBlock(8, stride=2, pooled=True)
    params, y = _run(block, x, False)

    def published(p, x):
        def conv(name, x, kernel):
            return layers.conv2d(x, p[name]["conv"]["kernel"], 1, kernel // 2)

        def norm(name, x):
            return layers.InstanceNorm().apply({"params": p[name]["norm"]}, x)

        left = layers.avg_pool(nn.relu(norm("conv1", conv("conv1", x, 3))))
        left = norm("conv2", conv("conv2", left, 3))
        right = norm("shortcut", layers.avg_pool(conv("shortcut", x, 1)))
        return nn.relu(left + right)

    np.testing.assert_allclose(y, jax.jit(published)(params, x), atol=1e-5)


@pytest.mark.parametrize("window, stride, padding", [(2, None, 0), (3, 2, 1)])
def test_max_pool_differentiates_twice(window, stride, padding):
    x, tangent = _images((1, 8, 8, 2)), _images((1, 8, 8, 2), seed=1)

    def loss(x):
        return (layers.max_pool(x, window, stride, padding) ** 2).sum()

    gradient = jax.jit(jax.grad(loss))
    product = jax.jit(lambda x, v: jax.jvp(jax.grad(loss), (x,), (v,))[1])(x, tangent)
    # Between ties the loss is quadratic, so the gradient is linear along a short step.
    step = np.float32(1e-3) * tangent
    difference = (np.asarray(gradient(x + step)) - gradient(x - step)) / 2e-3
    np.testing.assert_allclose(product, difference, atol=1e-2)


# Initialization.


def test_pytorch_default_initialization():
    def init(key):
        conv = layers.Conv(64, kernel=5).init(key, jnp.zeros((1, 8, 8, 16)))
        dense = layers.Dense(512).init(key, jnp.zeros((1, 100)))
        return conv["params"], dense["params"]

    conv, dense = jax.tree.map(np.asarray, jax.jit(init)(jax.random.key(0)))
    for leaves, fan_in in ((conv, 5 * 5 * 16), (dense, 100)):
        bound = fan_in**-0.5
        for leaf in leaves.values():
            assert 0.9 * bound < np.abs(leaf).max() <= bound
            assert abs(leaf.mean()) < 0.2 * bound
        np.testing.assert_allclose(leaves["kernel"].std(), bound / 3**0.5, rtol=0.02)


def test_he_initialization():
    module = ConvNorm(128, kernel=3)

    def init(key):
        return module.init(key, jnp.zeros((1, 4, 4, 64)), False)["params"]

    params = jax.tree.map(np.asarray, jax.jit(init)(jax.random.key(0)))
    kernel, std = params["conv"]["kernel"], np.sqrt(2 / (9 * 128))
    np.testing.assert_allclose(kernel.std(), std, rtol=0.02)
    assert np.abs(kernel).max() > 3.5 * std  # Not truncated.
    np.testing.assert_array_equal(params["norm"]["scale"], 1)
    np.testing.assert_array_equal(params["norm"]["bias"], 0)


# Specifications.


@pytest.mark.parametrize(
    "spec, canonical",
    [
        ("convnet", "convnet"),
        ("convnet:norm=instance:width=128", "convnet"),
        ("convnet:norm=batch:depth=4", "convnet:depth=4:norm=batch"),
        ("resnet18:width=32", "resnet18:width=32"),
        ("resnet_ap10:norm=batch", "resnet_ap10:norm=batch"),
        ("vit:patch=8:mlp_ratio=4", "vit:patch=8:mlp_ratio=4"),
    ],
)
def test_canonical_spec(spec, canonical):
    network = create_network(spec, 10, CIFAR)
    assert network.spec == canonical
    assert create_network(canonical, 10, CIFAR).spec == canonical


@pytest.mark.parametrize(
    "spec, image_shape, parts",
    [
        ("convnt", CIFAR, ["'convnt'", "resnet18", "did you mean 'convnet'"]),
        ("ConvNet", CIFAR, ["'ConvNet'", "did you mean 'convnet'"]),
        ("", CIFAR, ["''", "convnet"]),
        ("convnet:", CIFAR, ["key=value"]),
        ("convnet:depth", CIFAR, ["'depth'", "key=value"]),
        ("convnet:dept=3", CIFAR, ["'dept'", "depth, width, norm", "mean 'depth'"]),
        ("convnet:depth=3:depth=4", CIFAR, ["'depth'", "twice"]),
        ("convnet:depth=0", CIFAR, ["'depth'", "positive integer", "'0'"]),
        ("convnet:width=-4", CIFAR, ["'width'", "'-4'"]),
        ("convnet:norm=bach", CIFAR, ["'bach'", "group", "did you mean 'batch'"]),
        ("convnet:norm=group:width=6", CIFAR, ["divisible by 4", "6"]),
        ("convnet:num_classes=3", CIFAR, ["'num_classes'", "depth, width, norm"]),
        ("resnet18:blocks=3", CIFAR, ["'blocks'", "norm, width"]),
        ("resnet18:norm=none", CIFAR, ["'none'", "instance, batch"]),
        ("convnet:depth=6", CIFAR, ["at least 64", "32 x 32"]),
        ("convnet", (3, 3, 1), ["at least 4", "3 x 3"]),
        ("resnet10", (8, 8, 3), ["at least 16"]),
        ("vgg11", (16, 16, 3), ["at least 32"]),
        ("alexnet", (4, 4, 3), ["at least 8"]),
        ("densenet121", (4, 4, 3), ["at least 8"]),
        ("vit:patch=5", CIFAR, ["patch=5", "32 x 32", "patch=4"]),
        ("vit:heads=5", CIFAR, ["heads=5", "dim=192"]),
        ("vit", (100, 100, 3), ["patch=12", "100 x 100", "patch=10"]),
        ("convnet", (32, 32), ["(32, 32)", "height, width"]),
        ("convnet", (32, 0, 3), ["(32, 0, 3)"]),
    ],
)
def test_errors_name_what_is_wrong(spec, image_shape, parts):
    with pytest.raises(ValueError) as raised:
        create_network(spec, 10, image_shape)
    message = str(raised.value)
    for part in parts:
        assert part in message
    assert "\n" not in message and re.search(r"\.$", message)


def test_number_of_classes_is_checked():
    with pytest.raises(ValueError, match="classes 0"):
        create_network("convnet", 0, CIFAR)

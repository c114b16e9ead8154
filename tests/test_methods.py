"""Every objective and its pixel gradient against a plain reference in float64."""

import dataclasses
import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from d4a_jax import formation
from d4a_jax.config import Config, ConfigError, from_dict
from d4a_jax.data import from_arrays
from d4a_jax.devices.parallel import make_layout
from d4a_jax.distillation.run import check_fit, setting_of
from d4a_jax.distillation.segments import pixel_learning_rate, pixel_optimizer
from d4a_jax.methods import METHODS, Batch, Task, inversion
from d4a_jax.methods.inner_networks import fresh_network, train_between_steps
from d4a_jax.networks import create_network
from d4a_jax.real_data import index_classes, load_real_data, make_pool, read_rows
from d4a_jax.training import NetworkState, Normalization

CLASSES, PER_CLASS, SHAPE = 3, 5, (8, 8, 3)
KEY = jax.random.key(3)
MEAN, STD = np.array([0.5, 0.4, 0.3]), np.array([0.2, 0.3, 0.25])
# The filter kept the first two images of every class.
KEPT = 2


def make_config(**sections):
    values = {
        "network": "convnet:width=4:depth=2",
        "synthetic": {"images_per_class": 6, "segments": [1, 1, 2, 2], "factor": 2},
        "matching": {"batch_real": KEPT, "augmentation": "none"},
        "network_training": {"images_per_step": 0},
    }
    for name, changes in sections.items():
        old = values.get(name)
        values[name] = old | changes if isinstance(old, dict) else changes
    return from_dict(values)


def make_case(config, has_previous=True, dtype=np.float64):
    """Setting, task and pixels; batches as large as what they are drawn from."""
    draw = np.random.default_rng(0)
    layout = make_layout(1)
    network = create_network(config.network, CLASSES, SHAPE, dtype)
    images = draw.integers(0, 256, (CLASSES * PER_CLASS, *SHAPE), dtype=np.uint8)
    index = index_classes(np.repeat(np.arange(CLASSES), PER_CLASS), CLASSES)
    data = load_real_data(images, index, layout)
    kept = np.tile(np.arange(PER_CLASS) < KEPT, (CLASSES, 1))
    # One place of the earlier segments is filled, the others must not count.
    previous = draw.integers(0, 256, (CLASSES, 4, *SHAPE), dtype=np.uint8)
    task = Task(data, make_pool(kept, layout), jnp.array(previous), jnp.int32(1))
    pixels = draw.uniform(size=(CLASSES, 2, *SHAPE)).astype(dtype)
    normalize = Normalization(tuple(MEAN), tuple(STD))
    setting = setting_of(config, network, normalize, layout, has_previous)
    return setting._replace(has_previous=has_previous), task, pixels


def take_step(method, step, state, task, pixels):
    """The loss and the pixel gradient of one step."""

    @jax.jit
    def update(state, pixels):
        real = read_rows(make_layout(1), task.data, method.draw(KEY, step, task))
        batch = Batch(task, real)
        gradient, _, figures = method.update(
            KEY, step, state, {"images": pixels}, batch
        )
        return figures["matching_loss"], gradient["images"]

    return update(state, pixels)


# --- the plain reference -------------------------------------------------------------


def normalized(images):
    images = images / 255.0 if images.dtype == jnp.uint8 else images
    return (images - MEAN) / STD


def gradient_of(network, variables, images, label, config):
    def loss(params):
        logits, _ = network.apply({**variables, "params": params}, images, True)
        return -jnp.mean(jax.nn.log_softmax(logits)[:, label])

    gradient = jax.grad(loss)(variables["params"])
    blocks = [gradient[f"block{i}"]["conv"]["kernel"] for i in range(2)]
    classifier = [gradient["classifier"]["kernel"]]
    return blocks + (classifier if config.method.match_classifier else [])


def features_of(network, variables, images, label, config):
    *maps, embedding = network.features(variables, images, True)
    if config.method_name == "cafe":
        scale = np.sqrt(config.method.early_weight)
        chosen = [scale * maps[0], maps[1], embedding]
    else:
        chosen = [embedding] if config.method.features == "embedding" else maps
    return [sum(x[i] for i in range(len(x))) / len(x) for x in chosen]


def plain_distance(name, left, right):
    if name == "mse":
        return sum(jnp.sum((x - y) ** 2) for x, y in zip(left, right))
    total = 0.0
    for x, y in zip(left, right):
        for unit in range(x.shape[-1]):
            a, b = x[..., unit].ravel(), y[..., unit].ravel()
            total += 1 - a @ b / (jnp.sqrt(a @ a) * jnp.sqrt(b @ b) + 1e-6)
    return total


def reference(config, setting, task, variables, pixels):
    """Sum over classes of the loss, image by image and union by union."""
    factor = setting.factor
    of = gradient_of if config.method_name == "gradient_matching" else features_of
    total = 0.0
    if config.method_name == "cafe":
        total += config.method.discrimination * plain_discrimination(
            setting, task, variables, pixels
        )
    for c in range(CLASSES):
        measure = lambda x, c=c: of(setting.network, variables, x, c, config)
        compare = lambda x, y: plain_distance(config.method.distance, x, y)
        new = normalized(formation.form(pixels[c], factor))
        old = normalized(formation.form(task.previous[c, :1] / 255.0, factor))
        both = jnp.concatenate([old, new])
        real, kept = (
            normalized(task.data.images[c]),
            normalized(task.data.images[c, :KEPT]),
        )
        matched = both if config.method.union and setting.has_previous else new
        total += compare(measure(matched), measure(kept))
        if setting.has_previous and config.regularizer.name == "union":
            penalty = compare(measure(both), measure(real))
            total += config.regularizer.weight * penalty
        if setting.has_previous and config.regularizer.name == "previous":
            penalty = compare(measure(new), measure(old))
            total += config.regularizer.weight * penalty
    return total


def plain_discrimination(setting, task, variables, pixels):
    """CAFE's second term, real image by real image."""
    embed = lambda x: setting.network.features(variables, normalized(x), True)[-1]
    factor = setting.factor
    centers = [embed(formation.form(pixels[c], factor)).mean(0) for c in range(CLASSES)]
    total = 0.0
    for c in range(CLASSES):
        for embedding in embed(task.data.images[c, :KEPT]):
            logits = jnp.stack([embedding @ center for center in centers])
            total -= jax.nn.log_softmax(logits)[c]
    return total


CASES = {
    "cafe": (
        {
            "method": {"name": "cafe", "early_weight": 0.3, "discrimination": 0.7},
            "regularizer": {"name": "previous", "weight": 0.3},
        },
        True,
    ),
    "dm": ({"method": {"name": "distribution_matching"}}, True),
    "dm-union": (
        {
            "method": {"name": "distribution_matching"},
            "matching": {"batch_real": KEPT * PER_CLASS},
            "regularizer": {"name": "union", "weight": 0.7},
        },
        True,
    ),
    "idc-features": (
        {
            "method": {"name": "distribution_matching", "features": "layers"},
            "regularizer": {"name": "previous", "weight": 0.3},
        },
        True,
    ),
    "dc": ({"method": {"distance": "cosine", "match_classifier": True}}, False),
    "pdd": ({"method": {"union": True}}, True),
    "pdd-first": ({"method": {"union": True}}, False),
}


@pytest.mark.parametrize("name", CASES)
def test_loss_and_pixel_gradient_equal_the_reference(name):
    sections, has_previous = CASES[name]
    with jax.enable_x64(True):
        config = make_config(**sections)
        setting, task, pixels = make_case(config, has_previous)
        method = config.method.build(setting)
        state = method.init(KEY, task)
        # Away from the zeros and ones of norms and from symmetric classifiers.
        draw = np.random.default_rng(1).normal
        params = jax.tree.map(
            lambda x: (draw(size=x.shape) / 2).astype(x.dtype), state.params
        )
        state = state._replace(params=params)
        loss, gradient = take_step(method, jnp.int32(1), state, task, pixels)
        wanted = jax.jit(lambda x: reference(config, setting, task, state.variables, x))
        loss = loss * CLASSES
        np.testing.assert_allclose(loss, wanted(pixels), rtol=1e-6)
        for seed in range(3):
            direction = np.random.default_rng(seed).normal(size=pixels.shape)
            ends = [wanted(pixels + h * direction) for h in (1e-6, -1e-6)]
            slope = (ends[0] - ends[1]) / 2e-6
            found = np.vdot(gradient, direction)
            np.testing.assert_allclose(found, slope, rtol=2e-4, atol=1e-6 * abs(loss))


@pytest.mark.parametrize(("most", "each"), [(1, 1), (5 * CLASSES, 4), (100, 8)])
def test_inversion_equals_the_reference(most, each, monkeypatch):
    """Batch statistics taken by hand behind a plain convolution, image by image."""
    monkeypatch.setattr(inversion, "_BATCH", most)
    config = make_config(
        network="convnet:width=4:depth=1:norm=batch",
        method={"name": "inversion", "statistics_weight": 0.7},
        matching={"outer_iterations": 1},
        network_training={"pretrain_epochs": 1},
    )
    with jax.enable_x64(True):
        setting, task, pixels = make_case(config)
        method = config.method.build(setting)
        # A teacher far from its first state; training it is tested elsewhere.
        draw = np.random.default_rng(1)
        shapes = jax.eval_shape(setting.network.init, KEY)
        variables = jax.tree.map(
            lambda x: draw.uniform(0.2, 1.0, x.shape).astype(x.dtype), shapes
        )
        params, stats = variables["params"], variables["batch_stats"]
        state = NetworkState(params, stats, None)
        running = stats["block0"]["norm"]
        conv = params["block0"]["conv"]

        def wanted(pixels):
            total = 0.0
            formed = [formation.form(pixels[c], 2) for c in range(CLASSES)]
            for first in range(0, 8, each):
                members = [
                    (c, k) for k in range(first, first + each) for c in range(CLASSES)
                ]
                images = normalized(jnp.stack([formed[c][k] for c, k in members]))
                maps = jax.lax.conv_general_dilated(
                    images,
                    conv["kernel"],
                    (1, 1),
                    "SAME",
                    dimension_numbers=("NHWC", "HWIO", "NHWC"),
                )
                maps = maps + conv["bias"]
                mean = maps.mean((0, 1, 2))
                variance = ((maps - mean) ** 2).mean((0, 1, 2))
                total += 0.7 * jnp.sqrt(jnp.sum((mean - running["mean"]) ** 2))
                total += 0.7 * jnp.sqrt(jnp.sum((variance - running["var"]) ** 2))
                logits, _ = setting.network.apply(variables, images, True)
                scores = jax.nn.log_softmax(logits)
                right = [scores[i, c] for i, (c, _) in enumerate(members)]
                total -= sum(right) / len(members)
            return total

        loss, gradient = take_step(method, jnp.int32(0), state, task, pixels)
        plain = jax.jit(wanted)
        loss = loss * 8 / each
        np.testing.assert_allclose(loss, plain(pixels), rtol=1e-6)
        for seed in range(3):
            direction = np.random.default_rng(seed).normal(size=pixels.shape)
            ends = [plain(pixels + h * direction) for h in (1e-6, -1e-6)]
            slope = (ends[0] - ends[1]) / 2e-6
            found = np.vdot(gradient, direction)
            np.testing.assert_allclose(found, slope, rtol=2e-4, atol=1e-6 * abs(loss))


# --- the networks --------------------------------------------------------------------

PLAIN_SGD = {
    "batch_size": 6,
    "learning_rate": 0.1,
    "momentum": 0.9,
    "weight_decay": 0.0,
    "augmentation": "none",
    "cutmix_probability": 0.0,
}


def sgd_reference(setting, params, schedule):
    """Momentum SGD with (learning rate, images, labels) for every full-batch step."""

    @jax.jit
    def slope(params, images, labels):
        def loss(params):
            variables = {"params": params, "batch_stats": {}}
            logits, _ = setting.network.apply(variables, normalized(images), True)
            one_hot = jax.nn.one_hot(labels, CLASSES)
            return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * one_hot, 1))

        return jax.grad(loss)(params)

    velocity = jax.tree.map(jnp.zeros_like, params)
    for rate, images, labels in schedule:
        gradient = slope(params, images, labels)
        velocity = jax.tree.map(lambda v, g: 0.9 * v + g, velocity, gradient)
        params = jax.tree.map(lambda p, v: p - rate * v, params, velocity)
    return params


def assert_close(left, right):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5), left, right
    )


def test_network_trains_on_all_segments_in_the_making():
    """DC's inner loop: the earlier image and the two new ones of each class."""
    total = CLASSES * 3
    config = make_config(
        synthetic={"factor": 1},
        network_training=PLAIN_SGD
        | {"data": "synthetic", "images_per_step": total, "batch_size": total},
    )
    setting, task, pixels = make_case(config, dtype=np.float32)
    state = fresh_network(KEY, 0, setting, task)
    step = jax.jit(
        lambda state: train_between_steps(
            KEY, setting, state, pixels, Batch(task), None
        )
    )
    images = jnp.concatenate([pixels, task.previous[:, :1] / 255.0], 1)
    labels = np.repeat(np.arange(CLASSES), 3)
    batch = (0.1, images.reshape(-1, *SHAPE), labels)
    wanted = sgd_reference(setting, state.params, [batch])
    assert_close(step(state).params, wanted)


def test_network_first_trains_on_the_stages():
    """PDD: full batches of S_1, then of S_1 u S_2, each from the full rate on."""
    config = make_config(
        synthetic={"factor": 1}, network_training=PLAIN_SGD | {"stage_epochs": 3}
    )
    config_plain = make_config(synthetic={"factor": 1})
    setting, task, _ = make_case(config, dtype=np.float32)
    task = task._replace(num_previous=jnp.int32(2))
    plain, _, _ = make_case(config_plain, dtype=np.float32)
    begun = fresh_network(KEY, 0, plain, task)
    params = begun.params
    for places in (1, 2):
        labels = np.repeat(np.arange(CLASSES), places)
        images = task.previous[:, :places].reshape(-1, *SHAPE) / 255.0
        rates = (0.1, 0.1, 0.1 * 0.2**2)
        params = sgd_reference(setting, params, [(r, images, labels) for r in rates])
    trained = jax.jit(lambda: fresh_network(KEY, 0, setting, task))()
    assert_close(trained.params, params)
    momentum = jax.tree.leaves(trained.opt_state)
    assert not any(np.any(x) for x in momentum)


# --- the pixels' optimizer -----------------------------------------------------------


def test_normalized_pixels_are_stepped_as_if_they_were_stored():
    """Momentum SGD on z = (x - mean) / std, by hand."""
    config = make_config(matching={"pixels": "normalized", "steps": "joint"})
    optimizer = pixel_optimizer(config, 0.3, CLASSES, tuple(STD))
    slope = lambda x: np.cos(3 * x)
    x = np.random.default_rng(0).uniform(size=(CLASSES, 1, *SHAPE)).astype(np.float32)
    z, velocity, state = (x - MEAN) / STD, 0.0, optimizer.init(jnp.asarray(x))
    for _ in range(4):
        velocity = 0.5 * velocity + slope(z * STD + MEAN) * STD
        z = z - 0.3 * velocity
        updates, state = optimizer.update(jnp.asarray(slope(x)), state)
        x = np.asarray(optax.apply_updates(x, updates))
    np.testing.assert_allclose(x, z * STD + MEAN, rtol=1e-5, atol=1e-5)


def test_adam_on_normalized_pixels_decays_to_zero():
    matching = {"optimizer": "adam", "pixels": "normalized", "momentum": 0.5}
    config = make_config(
        matching=matching | {"outer_iterations": 1, "inner_iterations": 2}
    )
    optimizer = pixel_optimizer(config, 0.1, CLASSES, tuple(STD))
    gradient = jnp.ones((CLASSES, 1, *SHAPE))
    state = optimizer.init(gradient)
    # A constant gradient makes Adam's steps as long as the rate, in normalized pixels.
    for rate in (0.1, 0.05, 0.0):
        updates, state = optimizer.update(gradient, state)
        wanted = -rate * np.broadcast_to(STD, gradient.shape)
        np.testing.assert_allclose(updates, wanted, rtol=1e-4, atol=1e-9)


def test_learning_rate_without_a_rule():
    config = make_config(
        matching={"learning_rate_scaling": "none", "learning_rate": 1.5}
    )
    assert pixel_learning_rate(config, 2, 64) == 1.5


# --- choices -------------------------------------------------------------------------


def test_every_method_can_be_chosen():
    for name in METHODS:
        config = from_dict(
            {
                "method": {"name": name},
                "matching": {"outer_iterations": 1},
                "network_training": {"pretrain_epochs": 1},
            }
        )
        assert config.method_name == name and isinstance(config.method, METHODS[name])
        assert from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError, match=", ".join(METHODS)):
        from_dict({"method": {"name": "nothing"}})


@pytest.mark.parametrize(
    "sections, name",
    [
        ({"method": {"distance": "cosine"}}, "method.distance is 'cosine'"),
        ({"regularizer": {"name": "replay"}}, "regularizer.name is 'replay'"),
        ({"method": {"match_classifier": True}}, "method.match_classifier is not"),
    ],
)
def test_options_of_gradients_are_refused_for_features(sections, name):
    method = {"name": "distribution_matching"} | sections.get("method", {})
    with pytest.raises(ConfigError, match=name):
        from_dict(sections | {"method": method})


def test_options_of_an_inversion_are_checked():
    sections = {
        "method": {"name": "inversion"},
        "matching": {"outer_iterations": 2},
        "regularizer": {"name": "union"},
    }
    with pytest.raises(ConfigError) as error:
        from_dict(sections)
    assert [p.split(" is ")[0] for p in error.value.problems] == [
        "regularizer.name",
        "network_training.pretrain_epochs",
        "matching.outer_iterations",
    ]


def test_an_inversion_needs_batch_norm():
    config = from_dict(
        {
            "network": "convnet:width=4",
            "method": {"name": "inversion"},
            "matching": {"outer_iterations": 1},
            "network_training": {"pretrain_epochs": 1},
        }
    )
    images = np.zeros((CLASSES, *SHAPE), np.uint8)
    labels = np.arange(CLASSES, dtype=np.int32)
    dataset = from_arrays("blank", images, labels, images, labels)
    with pytest.raises(ConfigError, match="must have batch norm"):
        check_fit(config, dataset)
    check_fit(dataclasses.replace(config, network="convnet:norm=batch"), dataset)


@pytest.mark.parametrize(
    "sections, uses",
    [
        ({}, False),
        ({"method": {"union": True}}, True),
        ({"network_training": {"stage_epochs": 1}}, True),
        ({"network_training": {"data": "synthetic"}}, True),
        ({"regularizer": {"name": "anchor"}}, True),
    ],
)
def test_who_looks_at_earlier_segments(sections, uses):
    assert from_dict(sections).uses_previous is uses
    assert Config().uses_previous is False

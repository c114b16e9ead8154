"""Parts of every kind as an outside package would write them, none in the library.

Each is used by `distill`, by a configuration and by a loop of one's own, and a run that
is interrupted continues.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

import d4a_jax as d4a
from d4a_jax import rng
from d4a_jax.config import ConfigError, EvaluationConfig, from_dict
from d4a_jax.distillation import Interrupted
from d4a_jax.distillation.segments import pixel_learning_rate, pixel_optimizer
from d4a_jax.methods import Method, MethodOptions, Passes
from d4a_jax.options import option
from d4a_jax.regularizers import Regularizer

SHAPE, CLASSES, HERE = (8, 8, 1), 3, __name__

# --- the outside package -------------------------------------------------------------


class TwoLayers(nn.Module):
    """A network: two dense layers, and their outputs as features."""

    num_classes: int = 0
    width: int = 8

    @nn.compact
    def __call__(self, images, train=False):
        hidden = nn.relu(nn.Dense(self.width)(images.reshape(len(images), -1)))
        return nn.Dense(self.num_classes, name="classifier")(hidden), (hidden, hidden)


def stripes():
    """A data set: bright columns in another place for each class."""
    draw = np.random.default_rng(0)
    labels = np.tile(np.arange(CLASSES), 8)
    images = draw.integers(0, 80, (len(labels), *SHAPE), dtype=np.uint8)
    for image, label in zip(images, labels):
        image[:, 2 * label : 2 * label + 2] += 150
    return d4a.from_arrays("stripes", images, labels, images, labels, flip=False)


def small(weight=1.0):
    """A regularizer: the new gradient stays small."""

    def term(gradient, constants):
        return sum(jnp.sum(x**2) for x in gradient) + 0 * constants.previous_share

    return Regularizer(term, frozenset({"previous"}), weight)


def uncertain():
    """A filter rule: the networks are not sure."""
    decide = lambda evidence: np.abs(evidence.verdict.margin) < 0.9
    return d4a.filters.Rule("uncertain()", decide)


@dataclasses.dataclass(frozen=True)
class MeanMatching(MethodOptions):
    """A method: the mean image of every class."""

    strength: float = option(1.0, above=0.0)
    passes = Passes(real=1, synthetic=1, constant=0)

    def build(self, setting):
        def draw(key, step, task):
            pick = lambda positions: positions[:4]
            return d4a.methods.ClassRows(jax.vmap(pick)(task.kept.positions))

        def update(key, step, state, params, batch):
            def loss(images):
                real = jnp.mean(batch.real / 255.0, axis=1)
                return self.strength * jnp.sum((images.mean(1) - real) ** 2)

            value, slope = jax.value_and_grad(loss)(params["images"])
            return {"images": slope}, state, {"matching_loss": value}

        return Method(lambda key, task: (), draw, update)


PROTOCOL = EvaluationConfig(
    repeats=1, max_steps=4, batch_size=8, augmentation="none", learning_rate=0.05
)

# --- how it is used ------------------------------------------------------------------

BASE = {
    "network": "convnet:width=4:depth=1",
    "synthetic": {"images_per_class": 2, "segments": 2, "factor": 1},
    "matching": {
        "batch_real": 4,
        "augmentation": "none",
        "learning_rate": 100.0,
        "outer_iterations": 2,
        "inner_iterations": 2,
    },
    "network_training": {
        "images_per_step": 8,
        "batch_size": 8,
        "augmentation": "none",
    },
    "filter": {"networks": 1, "min_per_class": 2},
    "evaluation": dataclasses.asdict(PROTOCOL),
    "runtime": {"devices": 1, "checkpoint_seconds": 0.0},
}

OBJECTS = {
    "network": {"network": TwoLayers(width=12)},
    "regularizer": {"regularizer": small(0.5)},
    "rule": {"rule": uncertain()},
    "method": {"method": MeanMatching(strength=2.0)},
    "optimizer": {"optimizer": optax.adam(0.05)},
    "protocol": {"protocol": dataclasses.replace(PROTOCOL, max_steps=5)},
}
NAMED = {
    "network": {"network": f"{HERE}:TwoLayers:width=12"},
    "regularizer": {"regularizer": {"name": f"{HERE}:small", "weight": 0.5}},
    "rule": {"filter": BASE["filter"] | {"rule": f"{HERE}:uncertain"}},
    "method": {"method": {"name": f"{HERE}:MeanMatching", "strength": 2.0}},
    "protocol": {"evaluation": BASE["evaluation"] | {"max_steps": 5}},
}


@pytest.fixture(scope="module")
def data():
    loaded = d4a.load_dataset(f"{HERE}:stripes")
    assert loaded.source["name"] == f"{HERE}:stripes"
    return loaded


@pytest.fixture(scope="module")
def plain(data):
    return d4a.distill(data, from_dict(BASE))


@pytest.mark.parametrize("kind", OBJECTS)
def test_a_part_from_outside_makes_a_run_and_is_recorded(data, plain, kind, tmp_path):
    config, parts = from_dict(BASE), OBJECTS[kind]
    calls = iter(range(1, 100))
    # In the second segment, where the filter and the regularizer have had their say.
    with pytest.raises(Interrupted):
        d4a.distill(data, config, tmp_path, lambda: next(calls) == 6, **parts)
    with pytest.raises(ConfigError, match="another configuration"):
        d4a.distill(data, config, tmp_path)
    made = d4a.distill(data, config, tmp_path, **parts)
    undisturbed = d4a.distill(data, config, **parts)
    np.testing.assert_array_equal(made.images, undisturbed.images)
    if kind == "protocol":
        assert made.metadata["protocol"]["max_steps"] == 5
    else:
        assert (made.images != plain.images).any()
    if kind in NAMED:
        named = d4a.distill(data, from_dict(BASE | NAMED[kind]))
        np.testing.assert_array_equal(made.images, named.images)
        assert from_dict(named.metadata["config"]).identity()


def test_a_regularizer_that_needs_no_constant_is_not_skipped(data, plain):
    """Neither in the loss nor in a method that has no place for it."""
    large = Regularizer(lambda g, constants: sum(jnp.sum(x**2) for x in g), weight=5.0)
    made = d4a.distill(data, from_dict(BASE), regularizer=large)
    assert (made.prefix(1).images == plain.prefix(1).images).all()
    assert (made.images != plain.images).any()
    with pytest.raises(ConfigError, match="regularizer.name is an object"):
        d4a.distill(
            data, from_dict(BASE), regularizer=large, method="trajectory_matching"
        )


def test_other_values_of_a_part_are_another_run(data, tmp_path):
    config = from_dict(BASE)
    d4a.distill(data, config, tmp_path, rule=uncertain(), regularizer=small(0.5))
    for parts in (
        {"rule": uncertain(), "regularizer": small(0.25)},
        {"rule": ~uncertain(), "regularizer": small(0.5)},
        {"rule": uncertain()},
    ):
        with pytest.raises(ConfigError, match="parts"):
            d4a.distill(data, config, tmp_path, **parts)


def test_parts_are_registered_under_a_name(data, plain):
    for registry, part in (
        (d4a.networks.NETWORKS, TwoLayers),
        (d4a.regularizers.REGULARIZERS, small),
        (d4a.filters.RULES, uncertain),
        (d4a.methods.METHODS, MeanMatching),
    ):
        name = f"my {registry.kind}"
        registry.register(name, part)
        assert name in registry and registry.name_of(part) == name
        with pytest.raises(ValueError, match="already"):
            registry.register(name, plain)
        registry.unregister(name)
        assert name not in registry


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"network": f"{HERE}:Nothing"}, "names no network that can be imported"),
        ({"method": {"name": f"{HERE}:small"}}, "is no method"),
        ({"regularizer": {"name": "nowhere:x"}}, "names no regularizer"),
        ({"parts": {"rule": {}}}, "parts was given as objects"),
    ],
)
def test_parts_that_are_not_there_are_named(data, values, words):
    with pytest.raises(ConfigError, match=words):
        d4a.distill(data, from_dict(BASE | values))


def test_an_evaluation_takes_a_network_and_a_protocol(data, plain):
    (result,) = d4a.evaluate(plain, data, [f"{HERE}:TwoLayers"], PROTOCOL)
    assert result.steps == 4 and 0 <= result.mean <= 1


# --- a loop of one's own -------------------------------------------------------------


@pytest.mark.parametrize("options", [d4a.methods.GradientMatching(), MeanMatching()])
def test_a_loop_of_ones_own_makes_the_images_of_distill(data, options):
    """For the same keys, through both segments."""
    config = dataclasses.replace(from_dict(BASE), method=options)
    no_filter = dataclasses.replace(config.filter, enabled=False)
    config = dataclasses.replace(config, filter=no_filter)
    wanted = d4a.distill(data, config, regularizer=small(0.5))
    stored, root = [], jax.random.key(0)
    for segment in range(2):
        key = rng.stream(root, "segment", segment, 0)
        setting = d4a.own_loop.make_setting(
            data,
            config.network,
            segment_sizes=(1, 1),
            factor=1,
            augmentation="none",
            batch_real=4,
            inner_iterations=2,
            network_training=config.network_training,
            regularizer=small(0.5),
            has_previous=segment > 0,
        )
        method = options.build(setting)
        previous = np.stack(stored, axis=1) if stored else None
        task = d4a.own_loop.make_task(data, previous=previous)
        optimizer = pixel_optimizer(
            config, pixel_learning_rate(config, 1, SHAPE[0]), CLASSES, data.std
        )
        images = d4a.own_loop.init_images(rng.stream(key, "pixels"), task, 1)
        params, state = {"images": images}, method.init(key, task)
        opt_state = optimizer.init(params)

        @jax.jit
        def step(i, params, state, opt_state):
            clipped = jnp.clip(params["images"], 0.0, 1.0)
            start = i % setting.inner_iterations == 0
            params = {"images": jnp.where(start, clipped, params["images"])}
            batch = d4a.own_loop.draw_batch(method, key, i, task)
            gradient, state, _ = method.update(key, i, state, params, batch)
            updates, opt_state = optimizer.update(gradient, opt_state, params)
            return optax.apply_updates(params, updates), state, opt_state

        for i in range(4):
            params, state, opt_state = step(jnp.int32(i), params, state, opt_state)
        finished = np.round(np.clip(params["images"], 0, 1) * 255).astype(np.uint8)
        stored.append(finished[:, 0])
    found = np.concatenate(stored)
    np.testing.assert_array_equal(found, wanted.images)


def test_a_task_needs_an_image_of_every_class(data):
    with pytest.raises(ValueError, match="no image of class '1'"):
        d4a.own_loop.make_task(data, np.asarray(data.train_labels) != 1)

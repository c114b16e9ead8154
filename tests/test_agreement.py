"""What the comparison with the official code rests on, without that code."""

import jax
import numpy as np
import pytest

from d4a_jax.methods import GradientMatching
from d4a_jax.networks import create_network
from experiments import cli
from experiments.benchmark import official
from experiments.benchmark.one_class import match_class
from experiments.benchmark.versus import official_weights

SPEC, SHAPE = "convnet:depth=2:width=4", (8, 8, 3)


@pytest.fixture(scope="module")
def variables():
    return create_network(SPEC, 3, SHAPE).init(jax.random.key(0))


def test_weights_have_the_official_names_and_layouts(variables):
    weights = official_weights(jax.tree.map(np.asarray, variables["params"]))
    assert {name: array.shape for name, array in weights.items()} == {
        "layers.conv.0.weight": (4, 3, 3, 3),
        "layers.conv.0.bias": (4,),
        "layers.norm.0.weight": (4,),
        "layers.norm.0.bias": (4,),
        "layers.conv.1.weight": (4, 4, 3, 3),
        "layers.conv.1.bias": (4,),
        "layers.norm.1.weight": (4,),
        "layers.norm.1.bias": (4,),
        "classifier.weight": (3, 16),
        "classifier.bias": (3,),
    }


def test_classifier_sees_the_same_features_channels_first(variables):
    params = jax.tree.map(np.asarray, variables["params"])
    features = np.random.default_rng(0).normal(size=(5, 2, 2, 4))
    ours = features.reshape(5, -1) @ params["classifier"]["kernel"]
    weight = official_weights(params)["classifier.weight"]
    theirs = features.transpose(0, 3, 1, 2).reshape(5, -1) @ weight.T
    np.testing.assert_allclose(theirs, ours, rtol=1e-5, atol=1e-6)


def test_gradient_of_one_class_is_that_of_its_loss(variables):
    draw = np.random.default_rng(1)
    real, new, step = (draw.normal(size=(n, *SHAPE)) for n in (4, 2, 2))
    loss_of = lambda images: match_class(
        *(SPEC, GradientMatching(), variables, 1, real, images, "float64")
    )
    _, gradient = loss_of(new)
    ahead, behind = (loss_of(new + sign * 1e-5 * step)[0] for sign in (1, -1))
    assert np.vdot(gradient, step) == pytest.approx((ahead - behind) / 2e-5, rel=1e-6)


def test_a_folder_that_is_no_checkout_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit), cli.plain_user_errors():
        official.check(tmp_path)
    assert "has no condense.py; it must be a checkout of" in capsys.readouterr().err

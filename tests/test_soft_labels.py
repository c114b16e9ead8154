"""Soft labels by stored crops: crops, storage, and training on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax.analysis.methods import load_method
from d4a_jax.artifact import ArtifactError, load_distilled, save_distilled
from d4a_jax.augment.crops import cut_crops, draw_crops
from d4a_jax.config import from_dict
from d4a_jax.data import from_arrays
from d4a_jax.devices.parallel import make_layout
from d4a_jax.ensemble import Ensemble, everything
from d4a_jax.evaluation import training_images
from d4a_jax.networks import create_network
from d4a_jax.selection.baselines import select_images
from d4a_jax.selection.teachers import train_on_real_data
from d4a_jax.soft_labels import with_soft_labels
from d4a_jax.training import Normalization

CLASSES, SHAPE, EPOCHS = 3, (8, 8, 3), 2
CONFIG = from_dict(
    {
        "network": "convnet:width=4",
        "difficulty": {"max_steps": 3},
        "evaluation": {"batch_size": 8},
        "runtime": {"devices": 1},
    }
)


# --- crops ---------------------------------------------------------------------------


def test_crops_stay_inside_and_cover_all_sizes():
    crops = np.asarray(draw_crops(jax.random.key(0), (4000,), 10, 16, flip=True))
    top, left, side, flip = crops.T
    assert crops.dtype == np.int16
    assert (top >= 0).all() and (left >= 0).all()
    assert (top + side).max() == 10 and (left + side).max() == 16
    # The area is uniform from 8 to 100 % of a 10 x 10 square.
    assert side.min() == 3 and side.max() == 10
    np.testing.assert_allclose((side**2).mean(), 54, atol=2)
    np.testing.assert_allclose(flip.mean(), 0.5, atol=0.03)
    assert not draw_crops(jax.random.key(0), (50,), 8, 8)[:, 3].any()


def test_cut_crops_by_hand():
    image = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1) / 16
    crops = np.array([[0, 0, 4, 0], [0, 0, 4, 1], [1, 2, 2, 0]], np.int16)
    images = np.repeat(image, 3, axis=0)
    whole, flipped, _ = np.asarray(cut_crops(images, crops, 4, 4))
    np.testing.assert_allclose(whole, image[0], atol=1e-6)
    np.testing.assert_allclose(flipped, image[0, :, ::-1], atol=1e-6)
    part = np.asarray(cut_crops(images, crops, 2, 2))[2]
    np.testing.assert_allclose(part, image[0, 1:3, 2:4], atol=1e-6)


# --- labels --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def dataset():
    draw = np.random.default_rng(0)
    labels = np.tile(np.arange(CLASSES, dtype=np.int32), 8)
    images = draw.integers(0, 256, (24, *SHAPE), dtype=np.uint8)
    return from_arrays("noise", images, labels, images, labels)


@pytest.fixture(scope="module")
def labelled(dataset):
    distilled = select_images(dataset, "random", 2, factor=2)
    return with_soft_labels(distilled, dataset, EPOCHS, CONFIG, temperature=4.0)


def test_labels_are_what_the_teacher_says_of_the_crops(dataset, labelled):
    ensemble, variables = train_on_real_data(dataset, CONFIG)
    first = jax.tree.map(lambda x: x[0], variables)
    images, _ = labelled.formed()
    for epoch in range(EPOCHS):
        crops = cut_crops(images, labelled.soft_crops[epoch], *SHAPE[:2])
        crops = np.rint(np.asarray(crops) * 255) / 255
        normalized = (crops - dataset.mean) / dataset.std
        logits, _ = ensemble.network.apply(first, normalized.astype(np.float32))
        np.testing.assert_allclose(
            labelled.soft_logits[epoch], logits, rtol=2e-3, atol=2e-2
        )
    assert (labelled.soft_crops[0] != labelled.soft_crops[1]).any()


def test_every_byte_is_counted(labelled):
    formed = 2 * CLASSES * 4
    assert labelled.soft_logits.shape == (EPOCHS, formed, CLASSES)
    assert labelled.label_bytes == EPOCHS * formed * (2 * CLASSES + 8)
    pixels = 2 * CLASSES * np.prod(SHAPE)
    assert labelled.stored_bytes == pixels + labelled.label_bytes
    hard = dataclasses.replace(labelled, soft_logits=None, soft_crops=None)
    assert hard.label_bytes == 0 and hard.stored_bytes == pixels


def test_labels_are_saved_and_verified(labelled, tmp_path):
    save_distilled(tmp_path / "set", labelled, with_gallery=False)
    read = load_distilled(tmp_path / "set")
    np.testing.assert_array_equal(read.soft_logits, labelled.soft_logits)
    np.testing.assert_array_equal(read.soft_crops, labelled.soft_crops)
    content = bytearray((tmp_path / "set" / "soft_crops.npy").read_bytes())
    content[-1] ^= 1
    (tmp_path / "set" / "soft_crops.npy").write_bytes(content)
    with pytest.raises(ArtifactError, match="soft_crops.npy is damaged"):
        load_distilled(tmp_path / "set")


def test_studies_refuse_what_they_would_ignore(dataset, labelled, tmp_path):
    save_distilled(tmp_path / "set", labelled, with_gallery=False)
    with pytest.raises(ValueError, match="soft labels of a teacher"):
        load_method("soft", tmp_path / "set", dataset)


def test_a_prefix_takes_its_own_labels(labelled):
    segments = np.tile(np.array([0, 1], np.int32), CLASSES)
    metadata = labelled.metadata | {"segment_sizes": [1, 1]}
    two = dataclasses.replace(labelled, segments=segments, metadata=metadata)
    first = two.prefix(1)
    # Formed images go tile by tile: the first of each pair of stored images.
    np.testing.assert_array_equal(first.soft_logits, labelled.soft_logits[:, ::2])
    np.testing.assert_array_equal(first.soft_crops, labelled.soft_crops[:, ::2])


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"soft_crops": None}, "together"),
        ({"soft_crops": np.zeros((EPOCHS, 24, 3), np.int16)}, "soft_crops are int16"),
        ({"soft_crops": np.zeros((EPOCHS, 24, 4), np.int32)}, "soft_crops are int32"),
        ({"soft_logits": np.zeros((EPOCHS, 23, 3), np.float16)}, "soft_logits are"),
    ],
)
def test_wrong_labels_are_refused(labelled, changes, message):
    with pytest.raises(ArtifactError, match=message):
        dataclasses.replace(labelled, **changes)


def test_wrong_options_are_refused(dataset, labelled):
    with pytest.raises(ValueError, match="epochs is 0 and temperature"):
        with_soft_labels(labelled, dataset, 0)


def test_training_takes_each_epochs_crops_and_labels(dataset, labelled):
    """Three full-batch steps: epochs 0, 1 and 0 again, against plain SGD."""
    total, temperature = 24, 4.0
    recipe = dataclasses.replace(
        CONFIG.evaluation, batch_size=total, momentum=0.0, weight_decay=0.0
    )
    network = create_network("convnet:width=4", CLASSES, SHAPE)
    normalize = Normalization(dataset.mean, dataset.std)
    ensemble = Ensemble(network, recipe, normalize, 2, make_layout(1), 8)
    training, everyone = training_images(labelled), everything(6, 6, 1)
    start = ensemble.fit(jax.random.key(0), training, everyone, 0)
    found = ensemble.fit(jax.random.key(0), training, everyone, 3)
    images, _ = labelled.formed()

    @jax.jit
    def slope(params, inputs, logits):
        def loss(params):
            out, _ = network.apply({"params": params}, inputs)
            wanted = jax.nn.softmax(logits / temperature)
            scores = jax.nn.log_softmax(out / temperature)
            return -(temperature**2) * jnp.mean(jnp.sum(wanted * scores, -1))

        return jax.grad(loss)(params)

    params = jax.tree.map(lambda x: x[0], start["params"])
    # The rate falls to a fifth after 2/3 and again after 5/6 of three steps.
    for epoch, rate in ((0, 1.0), (1, 1.0), (0, 0.04)):
        crops = cut_crops(images, labelled.soft_crops[epoch], *SHAPE[:2])
        inputs = (crops - jnp.array(dataset.mean)) / jnp.array(dataset.std)
        logits = labelled.soft_logits[epoch].astype(np.float32)
        step = rate * recipe.learning_rate
        gradient = slope(params, inputs, logits)
        params = jax.tree.map(lambda p, g, s=step: p - s * g, params, gradient)
    for x, y in zip(jax.tree.leaves(found["params"]), jax.tree.leaves(params)):
        np.testing.assert_allclose(x[0], y, rtol=2e-3, atol=2e-5)

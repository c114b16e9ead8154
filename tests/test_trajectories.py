"""Expert trajectories: how they are trained, stored, resumed and judged."""

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax.config import ConfigError, from_dict
from d4a_jax.data import from_arrays
from d4a_jax.devices.parallel import make_layout
from d4a_jax.ensemble import Ensemble
from d4a_jax.networks import create_network
from d4a_jax.networks.flattening import flattening
from d4a_jax.trajectories import (
    ExpertStore,
    judge,
    open_experts,
    stored_bytes,
)

EPOCHS, CLASSES, RATE = 3, 2, 0.5


@pytest.fixture(scope="module")
def dataset():
    """Class 0 is red and class 1 is blue, but for one red image of class 1."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 80, (20, 8, 8, 3), dtype=np.uint8)
    labels = np.tile([0, 1], 10)
    images[labels == 0, ..., 0] += 150
    images[labels == 1, ..., 2] += 150
    labels[4] = 1
    return from_arrays("planted", images, labels, images[:4], np.array([0, 1, 0, 1]))


def make_config(**experts):
    settings = {
        "count": 3,
        "epochs": EPOCHS,
        "batch_size": 32,
        "learning_rate": RATE,
        "augmentation": "none",
    }
    network = "convnet:width=4:depth=1"
    return from_dict({"network": network, "experts": settings | experts})


@pytest.fixture(scope="module")
def layout():
    return make_layout(1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("experts")


@pytest.fixture(scope="module")
def experts(dataset, layout, folder):
    return open_experts(dataset, make_config(), layout, folder)


def contents(experts):
    paths = [experts.store.path(e) for e in range(experts.count)]
    return [path.read_bytes() for path in paths]


# --- training ------------------------------------------------------------------------


def test_an_epoch_is_plain_sgd_on_all_images(dataset, experts):
    """A batch holds all images: an epoch is one step against their mean gradient."""
    network = experts.ensemble.network
    images = experts.ensemble.normalize(jnp.asarray(dataset.train_images))

    @jax.jit
    def step(params):
        def loss(params):
            logits, _ = network.apply({"params": params}, images, True)
            chosen = jax.nn.one_hot(dataset.train_labels, CLASSES)
            return -jnp.mean(jnp.sum(jax.nn.log_softmax(logits) * chosen, 1))

        return jax.tree.map(lambda p, g: p - RATE * g, params, jax.grad(loss)(params))

    trajectory = experts.trajectory(1)["params"]
    for epoch in range(EPOCHS):
        before, after = (
            jax.tree.map(lambda x: x[t], trajectory) for t in (epoch, epoch + 1)
        )
        chex.assert_trees_all_close(after, step(before), rtol=1e-4, atol=1e-6)


def test_trajectories_differ_and_go_on(experts):
    flat = np.stack([[experts.store.read(e, t) for t in range(4)] for e in range(3)])
    assert flat.shape == (3, 1 + EPOCHS, experts.store.size)
    changes = np.abs(np.diff(flat, axis=1)).max(2)
    assert (changes > 0).all()
    assert np.abs(flat[0, 0] - flat[1, 0]).max() > 0.01


def test_flattening_puts_the_parameters_first():
    network = create_network("convnet:width=4:depth=1:norm=batch", 2, (8, 8, 3))
    size, unflatten = flattening(network)
    variables = unflatten(jnp.arange(size, dtype=jnp.float32))
    params, stats = (jax.tree.leaves(variables[k]) for k in ("params", "batch_stats"))
    assert len(stats) == 2
    order = np.concatenate([x.ravel() for x in [*params, *stats]])
    np.testing.assert_array_equal(order, np.arange(size))
    assert jax.tree.structure(variables) == jax.tree.structure(
        network.init(jax.random.key(0))
    )


def test_pairs_are_epochs_apart(experts):
    start, target = experts.pairs(np.array([2, 0]), np.array([1, 0]), 2)
    np.testing.assert_array_equal(start[0], experts.store.read(2, 1))
    np.testing.assert_array_equal(target[0], experts.store.read(2, 3))
    np.testing.assert_array_equal(start[1], experts.store.read(0, 0))


# --- resuming and damage -------------------------------------------------------------


def test_intact_experts_are_not_trained_again(dataset, layout, folder, experts):
    def fail(*_):
        raise AssertionError("trained again")

    again = open_experts(dataset, make_config(), layout, folder, fail)
    assert contents(again) == contents(experts)


def test_interrupted_and_grown_stores_end_up_the_same(
    dataset, layout, tmp_path, experts
):
    calls = []

    def interrupt(done, total, figures):
        assert total == 3 * EPOCHS and figures["loss"] > 0
        calls.append(done)
        if done == EPOCHS + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        open_experts(dataset, make_config(), layout, tmp_path, interrupt)
    assert calls == list(range(1, EPOCHS + 2))
    found = sorted(path.name for path in tmp_path.glob("*/*.npy"))
    assert found == ["expert-000.npy"]
    # The one that was finished counts; another count is the same store.
    grown = []
    two = make_config(count=2)
    open_experts(dataset, two, layout, tmp_path, lambda *a: grown.append(a[:2]))
    assert grown == [(1, 3), (2, 3), (3, 3)]
    resumed = open_experts(dataset, make_config(), layout, tmp_path)
    assert contents(resumed) == contents(experts)


def test_a_flipped_bit_is_noticed_and_made_good(
    dataset, layout, tmp_path, experts, caplog
):
    store = ExpertStore(tmp_path, EPOCHS, experts.store.size, "float32")
    for expert in range(3):
        snapshots = [experts.store.read(expert, t) for t in range(1 + EPOCHS)]
        store.write(expert, np.stack(snapshots))
    assert store.missing(3) == []
    path = store.path(1)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert store.missing(3) == [1]
    assert "expert-001.npy is damaged" in caplog.text
    path.unlink()
    store.path(2).with_name("expert-002.npy.sha256").write_bytes(b"\xff")
    assert store.missing(4) == [1, 2, 3]


def test_other_data_or_another_recipe_are_another_store(
    monkeypatch, dataset, layout, folder, experts
):
    monkeypatch.setattr("d4a_jax.trajectories.experts._train", lambda *_: None)
    other = dataclasses.replace(dataset, fingerprint="f" * 64)
    found = [
        open_experts(other, make_config(), layout, folder).digest,
        open_experts(dataset, make_config(learning_rate=0.1), layout, folder).digest,
        open_experts(dataset, make_config(epochs=4), layout, folder).digest,
        experts.digest,
    ]
    assert len(set(found)) == 4
    # What a student does, and the seed of the run, have no part in them.
    same = dataclasses.replace(make_config(), seed=3)
    assert open_experts(dataset, same, layout, folder).digest == experts.digest


# --- size ----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_stored_bytes_are_those_on_the_disk(tmp_path, dtype):
    store = ExpertStore(tmp_path, 5, 7, dtype)
    store.write(0, np.zeros((6, 7)))
    rows = np.load(store.path(0))
    assert rows.nbytes == stored_bytes(1, 5, 7, dtype)
    assert 4 * stored_bytes(1, 5, 7, dtype) == stored_bytes(4, 5, 7, dtype)


def test_bfloat16_keeps_the_start_and_the_differences(tmp_path):
    rng = np.random.default_rng(0)
    moves = rng.normal(0, 1e-3, (9, 500))
    trajectory = np.cumsum([rng.normal(0, 0.1, 500), *moves], axis=0)
    trajectory = trajectory.astype(np.float32)
    store = ExpertStore(tmp_path, 9, 500, "bfloat16")
    store.write(0, trajectory)
    found = np.stack([store.read(0, t) for t in range(10)])
    np.testing.assert_array_equal(found[0], trajectory[0])
    for t in range(8):
        wanted = trajectory[t + 2] - trajectory[t]
        error = np.linalg.norm(found[t + 2] - found[t] - wanted)
        assert 0 < error < 3e-3 * np.linalg.norm(wanted)


def test_experts_are_read_as_they_were_written(tmp_path):
    store = ExpertStore(tmp_path, 1, 4, "float32")
    trajectory = np.arange(8, dtype=np.float32).reshape(2, 4)
    store.write(12, trajectory)
    assert store.path(12).name == "expert-012.npy"
    np.testing.assert_array_equal(store.read(12, 1), trajectory[1])
    store.write(12, trajectory + 1)
    np.testing.assert_array_equal(store.read(12, 1), trajectory[1] + 1)
    with pytest.raises(ValueError, match="epoch is 2; .* 0 to 1"):
        store.read(12, 2)
    with pytest.raises(ValueError, match=r"\(2, 3\).*\(2, 4\)"):
        store.write(12, trajectory[:, :3])


def test_too_large_experts_are_refused_before_anything_is_made(
    dataset, layout, tmp_path
):
    config = make_config(count=100_000, max_gigabytes=0.1)
    with pytest.raises(ConfigError, match="max_gigabytes is 0.1.*100000 experts"):
        open_experts(dataset, config, layout, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_noticed_before_training(monkeypatch, dataset, layout, tmp_path):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(ConfigError, match="data.data_dir"):
        open_experts(dataset, make_config(), layout, tmp_path)


# --- judgement -----------------------------------------------------------------------


def test_judgement_counts_wrong_epochs(monkeypatch, dataset, experts):
    """With planted hits: two of three experts are right on image i from i % 5 on."""
    count = len(dataset.train_labels)
    right = (np.arange(1 + EPOCHS) >= np.arange(count)[:, None] % 5).astype(float)
    calls = iter([right, 0 * right, right])
    monkeypatch.setattr(Ensemble, "predict", lambda *_: next(calls))
    found = judge(dataset, experts)
    never = 1 + EPOCHS
    wrong = np.minimum(np.arange(count) % 5, never)
    np.testing.assert_allclose(found.learned, (2 * wrong + never) / 3, rtol=1e-6)
    np.testing.assert_allclose(found.right, 2 / 3 * right[:, -1], rtol=1e-6)
    again = judge(dataset, experts)
    np.testing.assert_array_equal(again.learned, found.learned)
    (experts.store.directory / "judgement-by-3.npy").unlink()


def test_the_mislabeled_image_is_learned_last(dataset, experts):
    found = judge(dataset, experts)
    assert np.argmax(found.learned) == 4
    assert 0 < found.learned[4] <= 1 + EPOCHS and 0 <= found.right.min()
    assert np.delete(found.right, 4).mean() > 0.9

"""Named random streams and sampling without replacement."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax import rng

KEY = jax.random.key(3)

_sample = jax.jit(rng.sample_without_replacement, static_argnums=(2, 3))


def _bits(key):
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


def test_streams_are_distinct():
    keys = [KEY]
    for name in ("network", "matching", "a", "b", ""):
        keys.append(rng.stream(KEY, name))
        keys += [rng.stream(KEY, name, i) for i in range(4)]
        keys += [
            rng.stream(KEY, name, i, j)
            for i, j in itertools.product(range(3), repeat=2)
        ]
    assert len(set(map(_bits, keys))) == len(keys)


def test_streams_depend_on_the_root_and_not_on_other_streams():
    assert _bits(rng.stream(KEY, "a", 1)) == _bits(rng.stream(KEY, "a", 1))
    assert _bits(rng.stream(KEY, "a")) != _bits(rng.stream(jax.random.key(4), "a"))


def test_traced_indices_give_the_same_keys():
    traced = jax.jit(lambda i, j: jax.random.key_data(rng.stream(KEY, "x", i, j)))
    np.testing.assert_array_equal(
        traced(5, 7), jax.random.key_data(rng.stream(KEY, "x", 5, 7))
    )


@pytest.mark.parametrize("count, size", [(8, 8), (8, 3), (5, 5), (5, 2), (1, 1)])
def test_samples_are_distinct_and_below_the_count(count, size):
    for seed in range(20):
        drawn = _sample(jax.random.key(seed), count, 8, size)
        chex.assert_shape(drawn, (size,))
        assert drawn.dtype == jnp.int32
        assert len(set(drawn.tolist())) == size
        assert 0 <= min(drawn.tolist()) and max(drawn.tolist()) < count


@pytest.mark.parametrize("count, size, capacity", [(3, 8, 8), (3, 20, 4), (1, 5, 8)])
def test_few_are_repeated_evenly(count, size, capacity):
    for seed in range(10):
        drawn = _sample(jax.random.key(seed), count, capacity, size)
        times = np.bincount(drawn, minlength=count)
        assert len(times) == count and times.sum() == size
        assert times.max() - times.min() <= 1
        # In turn: any run of `count` consecutive ones holds every position once.
        assert sorted(drawn[:count].tolist()) == list(range(count))


def test_ordered_pairs_are_uniform():
    count, capacity, draws = 5, 9, 20_000
    keys = jax.random.split(KEY, draws)
    sample = jax.jit(
        jax.vmap(
            lambda key, n: rng.sample_without_replacement(key, n, capacity, 2),
            (0, None),
        )
    )
    pairs = np.asarray(sample(keys, count))
    times = np.bincount(pairs[:, 0] * count + pairs[:, 1], minlength=count**2)
    times = times.reshape(count, count)
    assert (np.diag(times) == 0).all()
    expected = draws / (count * (count - 1))
    off = times[~np.eye(count, dtype=bool)]
    chi_squared = ((off - expected) ** 2 / expected).sum()
    assert chi_squared < 60  # 19 degrees of freedom: beyond the 1 - 4e-6 quantile.


def test_which_one_is_repeated_is_uniform():
    """Four places for three images: each is the repeated one equally often."""
    keys = jax.random.split(KEY, 6000)
    sample = jax.jit(jax.vmap(lambda k: rng.sample_without_replacement(k, 3, 6, 4)))
    last = np.bincount(np.asarray(sample(keys))[:, 3], minlength=3)
    assert np.abs(last - 2000).max() < 5 * np.sqrt(6000 * (1 / 3) * (2 / 3))


def test_traced_count_equals_static_count():
    static = rng.sample_without_replacement(KEY, 6, 10, 4)
    np.testing.assert_array_equal(_sample(KEY, jnp.int32(6), 10, 4), static)

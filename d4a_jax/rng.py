"""Named random streams.

Every random decision is drawn from a key derived from the run's root key, the name
of the stream and the step at which it is drawn. Nothing is split along a loop, so a
run can continue at any step from the root key alone, and adding a stream changes no
other.
"""

import hashlib

import jax


def stream(key: jax.Array, name: str, *indices: int | jax.Array) -> jax.Array:
    """Derives the key of a named stream, optionally at given indices.

    Args:
      key: typed root key.
      name: name of the stream, such as `"network"`; static.
      *indices: integers (possibly traced) folded in one after the other, for example
        a segment and a step.

    Returns:
      A typed key.
    """
    digest = hashlib.sha256(name.encode()).digest()
    key = jax.random.fold_in(key, int.from_bytes(digest[:4], "little"))
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key


def sample_without_replacement(
    key: jax.Array, count: int | jax.Array, capacity: int, size: int
) -> jax.Array:
    """Draws distinct positions below a count that may be traced.

    Args:
      key: typed key.
      count: how many of the `capacity` positions may be drawn, at least 1.
      capacity: static upper bound of `count`.
      size: how many positions to draw, static. Where `count < size` all positions are
        taken and repeated in turn, so that every one occurs almost equally often.

    Returns:
      int32 `[size]` with values in `[0, count)`.
    """
    priority = jax.random.uniform(key, (capacity,))
    valid = jax.numpy.arange(capacity) < count
    priority = jax.numpy.where(valid, priority, -1.0)
    taken = min(size, capacity)
    _, positions = jax.lax.top_k(priority, taken)
    available = jax.numpy.minimum(count, taken)
    return positions[jax.numpy.arange(size) % available].astype(jax.numpy.int32)

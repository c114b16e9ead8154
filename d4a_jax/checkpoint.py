"""Checkpoints of a run: written by orbax, verified by digests of our own.

Orbax restores flipped bits without notice and lists an empty directory as a step, so
every checkpoint carries the SHA-256 of each leaf, and restoring falls back to the
newest step that is intact. With several processes all of them write and read their own
parts. A checkpoint can be read with other devices than it was written with.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from d4a_jax.log import logger
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import keystr
from orbax.checkpoint import v1 as ocp

from d4a_jax.parallel import to_host
from d4a_jax.processes import loss_of


class CheckpointStore:
    """The checkpoints in a directory, newest last.

    Args:
      directory: made where it does not exist.
      keep: how many of the newest checkpoints stay.
    """

    def __init__(self, directory: str | Path, keep: int):
        path = Path(directory).absolute()
        path.mkdir(parents=True, exist_ok=True)
        self._orbax = ocp.training.Checkpointer(
            path,
            preservation_policy=ocp.training.preservation_policies.LatestN(keep),
            cleanup_tmp_directories=True,
        )

    def close(self) -> None:
        """Waits for a checkpoint being written and closes the store."""
        self._orbax.close()

    def save(self, step: int, state: Any, record: dict) -> None:
        """Writes a checkpoint, replacing one of the same step.

        Args:
          step: identifies the checkpoint; the largest intact one is restored.
          state: tree of arrays.
          record: JSON-like; restored before the state, whose shapes it may determine.
        """
        metadata = {"record": record, "leaves": _describe(state)}
        self._orbax.save(step, state, overwrite=True, custom_metadata=metadata)

    def restore(
        self, abstract_state: Callable[[dict], Any]
    ) -> tuple[int, Any, dict] | None:
        """Reads the newest intact checkpoint.

        Args:
          abstract_state: from the record to a tree of `jax.ShapeDtypeStruct`.

        Returns:
          Step, state and record; None where there is no intact checkpoint. Damaged
          ones are named in the log and left alone.
        """
        steps = [checkpoint.step for checkpoint in self._orbax.checkpoints]
        for step in sorted(steps, reverse=True):
            try:
                return step, *self._read(step, abstract_state)
            except Exception as error:  # pylint: disable=broad-except
                # Damage surfaces as nearly any exception of the storage layers, but
                # the loss of another process is no damage.
                lost = loss_of(error)
                if lost:
                    raise lost from error
                logger.warning(
                    "Checkpoint %d is damaged and is left out (%s: %s).",
                    step,
                    type(error).__name__,
                    str(error).splitlines()[0] if str(error) else "no message",
                )
        return None

    def _read(self, step, abstract_state):
        metadata = self._orbax.metadata(step).custom_metadata
        record, leaves = metadata["record"], metadata["leaves"]
        wanted = abstract_state(record)
        stored = jax.tree_util.tree_map_with_path(
            lambda path, leaf: _as_stored(leaf, leaves[keystr(path)]["shape"]), wanted
        )
        state = self._orbax.load(step, stored)
        found = _describe(state)
        wrong = [name for name, leaf in leaves.items() if found.get(name) != leaf]
        if wrong or len(found) != len(leaves):
            raise ValueError(f"SHA-256 of {', '.join(wrong) or 'its leaves'} differs")
        return jax.tree.map(_fit, state, wanted), record


def _describe(state: Any) -> dict[str, dict[str, Any]]:
    """Shape and SHA-256 of every leaf, the same in all layouts and processes.

    The digest is that of the digests of the rows along the leading axis. Every row is
    digested where it lies; what is exchanged between processes are digests.
    """
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    tables = [_row_digests(leaf) for _, leaf in leaves]
    if jax.process_count() > 1:
        # Rows of other processes are zero in each table.
        sizes = np.cumsum([len(table) for table in tables])[:-1]
        gathered = multihost_utils.process_allgather(np.concatenate(tables))
        tables = np.split(gathered.max(0), sizes)
    return {
        keystr(path): {
            "shape": list(np.shape(leaf)),
            "sha256": hashlib.sha256(table.tobytes()).hexdigest(),
        }
        for (path, leaf), table in zip(leaves, tables, strict=True)
    }


def _row_digests(leaf: Any) -> np.ndarray:
    """uint8 `[rows, 32]`, zero for the rows that this process does not hold."""
    parts = [((slice(None),), leaf)]
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        parts = [(shard.index, shard.data) for shard in leaf.addressable_shards]
        if any(data.shape[1:] != leaf.shape[1:] for _, data in parts):
            parts = [((slice(None),), to_host(leaf))]
    table = np.zeros((*np.shape(leaf)[:1], 32), np.uint8).reshape(-1, 32)
    for index, data in parts:
        rows = np.ascontiguousarray(data)
        rows = rows.reshape(len(table[index[:1]]), -1)
        digests = b"".join(hashlib.sha256(row.tobytes()).digest() for row in rows)
        table[index[:1]] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    return table


def _as_stored(leaf: Any, shape: list[int]) -> Any:
    """What to read for a leaf: its classes may have been padded for other devices."""
    if tuple(shape) == leaf.shape or list(shape[1:]) != list(leaf.shape[1:]):
        return leaf
    sharding = leaf.sharding
    if isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec())
    return jax.ShapeDtypeStruct(tuple(shape), leaf.dtype, sharding=sharding)


def _fit(array: Any, wanted: Any) -> Any:
    """Cuts the padding of other devices off, or repeats the last class for ours."""
    if array.shape == wanted.shape:
        return array
    rows = np.minimum(np.arange(wanted.shape[0]), array.shape[0] - 1)
    whole = to_host(array)[rows]
    return jax.make_array_from_callback(
        wanted.shape, wanted.sharding, lambda index: whole[index]
    )

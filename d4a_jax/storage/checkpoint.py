"""Checkpoints of a run: written by orbax, verified by digests of our own.

Orbax restores flipped bits without notice, lists an empty directory as a step and
silently skips a save below the newest step that it sees. So every checkpoint carries
the SHA-256 of each leaf and of its record, restoring falls back to the newest step that
is intact, and damaged ones are put aside.

With several processes all of them write and read their own parts, and a checkpoint is
damaged for all where it is for one. It can be read with other devices than it was
written with.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec
from jax.tree_util import keystr
from orbax.checkpoint import v1 as ocp

from d4a_jax.devices.parallel import to_host
from d4a_jax.devices.processes import any_of, by_main, is_main, loss_of, of_main
from d4a_jax.log import logger
from d4a_jax.storage import fileio
from d4a_jax.storage.errors import (
    drop_unfinished_reads,
    full_disk,
    reason,
    stragglers_held,
)

_POLICIES = ocp.training.preservation_policies
_ASIDE = "damaged"


class CheckpointError(RuntimeError):
    """A checkpoint could not be written, as on a full disk."""


class CheckpointStore:
    """The checkpoints in a directory, newest last.

    Args:
      directory: made where it does not exist. Damaged checkpoints are moved to its
        folder `damaged`.
      keep: how many of the newest checkpoints stay.
      is_milestone: of a step number; the newest milestone stays as well.
    """

    def __init__(
        self,
        directory: str | Path,
        keep: int,
        is_milestone: Callable[[int], bool] = lambda step: False,
    ):
        self._directory = Path(directory).absolute()
        self._directory.mkdir(parents=True, exist_ok=True)
        self._is_milestone = is_milestone
        self._failed = False
        newest = _POLICIES.LatestN(keep)
        milestone = _NewestMilestone(is_milestone)
        self._orbax = ocp.training.Checkpointer(
            self._directory,
            preservation_policy=_POLICIES.AnyPreservationPolicy([newest, milestone]),
            cleanup_tmp_directories=True,
        )

    def close(self) -> None:
        """Closes the store."""
        try:
            self._orbax.close()
        except Exception:  # pylint: disable=broad-except
            # Orbax raises the failure of a save, which `save` reported, again.
            if not self._failed:
                raise

    def save(self, step: int, state: Any, record: dict) -> None:
        """Writes a checkpoint, replacing one of the same step and dropping later ones.

        Args:
          step: identifies the checkpoint; the largest intact one is restored.
          state: tree of arrays.
          record: JSON-like; restored before the state, whose shapes it may determine.

        Raises:
          CheckpointError: it could not be written; earlier ones are untouched.
          ProcessLostError: another process is gone.
        """
        later = [other for other in of_main(self._steps()) if other > step]
        try:
            metadata = {
                "record": record,
                "record_sha256": _digest_of_record(record),
                "leaves": _describe(state),
            }
            for other in later:
                self._orbax.delete(other)
            with stragglers_held(lambda error: bool(full_disk(error))):
                saved = self._orbax.save(
                    step, state, overwrite=True, custom_metadata=metadata
                )
        except Exception as error:
            # A full disk surfaces as nearly any exception of the storage layers.
            self._failed = True
            _raise_if_lost(error)
            full = full_disk(error)
            advice = "free the disk" if full else "mend that"
            raise CheckpointError(
                f"Checkpoint {step} could not be written to {self._directory} "
                f"({full or reason(error)}); {advice} and give the same command again: "
                "it continues from the last checkpoint."
            ) from error
        if not saved:
            raise CheckpointError(
                f"Checkpoint {step} was not written to {self._directory}: the storage "
                "layer declined it."
            )

    def restore(
        self, abstract_state: Callable[[dict], Any], milestone: bool = False
    ) -> tuple[int, Any, dict] | None:
        """Reads the newest intact checkpoint; damaged ones are named and put aside.

        Args:
          abstract_state: from the record to a tree of `jax.ShapeDtypeStruct`.
          milestone: whether only milestones are looked at.

        Returns:
          Step, state and record; None where there is no intact checkpoint.

        Raises:
          ProcessLostError: another process is gone.
        """
        for step in sorted(of_main(self._steps()), reverse=True):
            if milestone and not self._is_milestone(step):
                continue
            try:
                return step, *self._read(step, abstract_state)
            except Exception as error:  # pylint: disable=broad-except
                # Damage surfaces as nearly any exception of the storage layers.
                _raise_if_lost(error)
                problem = reason(error)
            drop_unfinished_reads()
            self._put_aside(step, problem)
        return None

    def _steps(self) -> list[int]:
        """Steps by the names of their directories: orbax does not list all damage."""
        names = [path.name for path in self._directory.iterdir() if path.is_dir()]
        return [int(name) for name in names if name.isdecimal()]

    def _read(self, step, abstract_state):
        """State and record; raises in all processes what is wrong in one of them."""
        loaded, problem = None, None
        try:
            with stragglers_held():
                loaded = self._load(step, abstract_state)
        except Exception as error:  # pylint: disable=broad-except
            _raise_if_lost(error)
            problem = error
        if any_of(problem is not None)[0]:
            raise problem or ValueError("another process cannot read it")
        state, wanted, record, leaves = loaded
        found = _describe(state)
        wrong = [name for name, leaf in leaves.items() if found.get(name) != leaf]
        if wrong or len(found) != len(leaves):
            raise ValueError(f"SHA-256 of {', '.join(wrong) or 'its leaves'} differs")
        return jax.tree.map(_fit, state, wanted), record

    def _load(self, step, abstract_state):
        """State as stored, what is wanted of it, record and digests."""
        metadata = self._orbax.metadata(step).custom_metadata
        record, leaves = metadata["record"], metadata["leaves"]
        if metadata["record_sha256"] != _digest_of_record(record):
            raise ValueError("SHA-256 of its record differs")
        wanted = abstract_state(record)
        stored = jax.tree_util.tree_map_with_path(
            lambda path, leaf: _as_stored(leaf, leaves[keystr(path)]["shape"]), wanted
        )
        with _by_itself():
            state = ocp.load(self._directory / str(step), stored)
        # Orbax restores NumPy leaves in whatever shape it finds.
        _check_shapes(state, stored)
        return state, wanted, record, leaves

    def _put_aside(self, step: int, problem: str) -> None:
        """Moves a checkpoint where it neither counts as one nor hides another."""
        source = self._directory / str(step)
        if is_main():
            logger.warning(
                "Checkpoint %s is damaged and is left out (%s).", source, problem
            )
        by_main(lambda: fileio.put_aside(source, self._directory / _ASIDE))
        self._orbax.reload()


def newest_metadata(directory: str | Path) -> dict[str, Any] | None:
    """What the newest checkpoint with an intact record says; nothing is changed.

    Args:
      directory: of a `CheckpointStore`, which need not exist.

    Returns:
      Its `record`, and under `leaves` the shape of every array, which are not
      verified. None where there is no such checkpoint.
    """
    found = (path for path in Path(directory).glob("*") if path.name.isdecimal())
    for path in sorted(found, key=lambda path: int(path.name), reverse=True):
        try:
            content = json.loads((path / "_CHECKPOINT_METADATA").read_bytes())
            metadata = content["custom_metadata"]
            if metadata["record_sha256"] == _digest_of_record(metadata["record"]):
                return {name: metadata[name] for name in ("record", "leaves")}
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


class _NewestMilestone:
    """Orbax's preservation policy for the newest of some steps."""

    def __init__(self, is_milestone: Callable[[int], bool]):
        self._is_milestone = is_milestone

    def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest = max(filter(self._is_milestone, steps), default=None)
        return [step == newest for step in steps]


def _by_itself() -> ocp.Context:
    """Lets a process read without orbax's barriers.

    Where one fails to read, it never comes to them, and the others wait for minutes.
    """
    context, me = ocp.Context(), jax.process_index()
    context.multiprocessing_options.primary_host = me
    context.multiprocessing_options.active_processes = {me}
    return context


def _check_shapes(state: Any, abstract: Any) -> None:
    kinds = [
        [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
        for tree in (state, abstract)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError("the shapes of its arrays are not those of this run")


def _raise_if_lost(error: Exception) -> None:
    """The loss of another process is no damage and no full disk."""
    lost = loss_of(error)
    if lost:
        raise lost from error


def _digest_of_record(record: dict) -> str:
    return hashlib.sha256(fileio.dump_json(record)).hexdigest()


def _describe(state: Any) -> dict[str, dict[str, Any]]:
    """Shape, dtype and SHA-256 of every leaf, the same in all layouts and processes.

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
            "dtype": str(leaf.dtype),
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
    same = tuple(shape) == leaf.shape or list(shape[1:]) != list(leaf.shape[1:])
    if same or isinstance(leaf, np.ndarray):
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

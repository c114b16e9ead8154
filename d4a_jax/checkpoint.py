"""Checkpoints of a run: written by orbax, verified by digests of our own.

Orbax restores flipped bits without notice, lists an empty directory as a step and
silently skips a save below the newest step that it sees. So every checkpoint carries
the SHA-256 of each leaf and of its record, restoring falls back to the newest step that
is intact, and damaged ones are put aside.
"""

import gc
import hashlib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from d4a_jax import fileio
from d4a_jax.log import logger

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
        """
        metadata = {"record": record, "sha256": _digests(state, record)}
        try:
            for later in filter(lambda other: other > step, self._steps()):
                self._orbax.delete(later)
            saved = self._orbax.save(
                step, state, overwrite=True, custom_metadata=metadata
            )
        except Exception as error:
            # A full disk surfaces as nearly any exception of the storage layers.
            self._failed = True
            raise CheckpointError(
                f"Checkpoint {step} could not be written to {self._directory} "
                f"({_reason(error)}); free the disk and give the same command again: "
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
        """
        for step in sorted(self._steps(), reverse=True):
            if milestone and not self._is_milestone(step):
                continue
            try:
                return step, *self._read(step, abstract_state)
            except Exception as error:  # pylint: disable=broad-except
                # Damage surfaces as nearly any exception of the storage layers.
                reason = _reason(error)
            _drop_unfinished_reads()
            self._put_aside(step, reason)
        return None

    def _steps(self) -> list[int]:
        """Steps by the names of their directories: orbax does not list all damage."""
        names = [path.name for path in self._directory.iterdir() if path.is_dir()]
        return [int(name) for name in names if name.isdecimal()]

    def _read(self, step, abstract_state):
        metadata = self._orbax.metadata(step).custom_metadata
        record, expected = metadata["record"], metadata["sha256"]
        if expected["record"] != _digest_of_record(record):
            raise ValueError("SHA-256 of its record differs")
        abstract = abstract_state(record)
        state = self._orbax.load(step, abstract)
        # Orbax restores NumPy leaves in whatever shape it finds.
        _check_shapes(state, abstract)
        found = _digests(state, record)
        wrong = [name for name in expected if found.get(name) != expected[name]]
        if wrong or len(found) != len(expected):
            raise ValueError(f"SHA-256 of {', '.join(wrong) or 'its leaves'} differs")
        return state, record

    def _put_aside(self, step: int, reason: str) -> None:
        """Moves a checkpoint where it neither counts as one nor hides another."""
        source = self._directory / str(step)
        logger.warning("Checkpoint %s is damaged and is left out (%s).", source, reason)
        fileio.put_aside(source, self._directory / _ASIDE)
        self._orbax.reload()


class _NewestMilestone:
    """Orbax's preservation policy for the newest of some steps."""

    def __init__(self, is_milestone: Callable[[int], bool]):
        self._is_milestone = is_milestone

    def should_preserve(self, checkpoints, *, context) -> Sequence[bool]:
        del context
        steps = [checkpoint.step for checkpoint in checkpoints]
        newest = max(filter(self._is_milestone, steps), default=None)
        return [step == newest for step in steps]


def _check_shapes(state: Any, abstract: Any) -> None:
    kinds = [
        [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
        for tree in (state, abstract)
    ]
    if kinds[0] != kinds[1]:
        raise ValueError("the shapes of its arrays are not those of this run")


def _drop_unfinished_reads() -> None:
    """Collects the coroutines that orbax never awaits where reading fails.

    Each would warn whenever it is collected, which confuses, and in the midst of other
    work even breaks some Python programs.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        gc.collect()


def _reason(error: Exception) -> str:
    """The exception and the first line of its message."""
    lines = str(error).splitlines() or ["no message"]
    return f"{type(error).__name__}: {lines[0].rstrip('.')}"


def _digest_of_record(record: dict) -> str:
    return hashlib.sha256(fileio.dump_json(record)).hexdigest()


def _digests(state: Any, record: dict) -> dict[str, str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    digests = {
        jax.tree_util.keystr(path): fileio.sha256_array(np.asarray(leaf))
        for path, leaf in leaves
    }
    return digests | {"record": _digest_of_record(record)}

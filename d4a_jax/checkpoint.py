"""Checkpoints of a run: written by orbax, verified by digests of our own.

Orbax restores flipped bits without notice and lists an empty directory as a step, so
every checkpoint carries the SHA-256 of each leaf, and restoring falls back to the
newest step that is intact.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from d4a_jax.log import logger
from orbax.checkpoint import v1 as ocp


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
        metadata = {"record": record, "sha256": _digests(state)}
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
                # Damage surfaces as nearly any exception of the storage layers.
                logger.warning(
                    "Checkpoint %d is damaged and is left out (%s: %s).",
                    step,
                    type(error).__name__,
                    str(error).splitlines()[0] if str(error) else "no message",
                )
        return None

    def _read(self, step, abstract_state):
        metadata = self._orbax.metadata(step).custom_metadata
        record = metadata["record"]
        state = self._orbax.load(step, abstract_state(record))
        found = _digests(state)
        wrong = [name for name, digest in metadata["sha256"].items()
                 if found.get(name) != digest]
        if wrong or len(found) != len(metadata["sha256"]):
            raise ValueError(f"SHA-256 of {', '.join(wrong) or 'its leaves'} differs")
        return state, record


def _digests(state: Any) -> dict[str, str]:
    leaves, _ = jax.tree_util.tree_flatten_with_path(state)
    return {
        jax.tree_util.keystr(path): hashlib.sha256(
            np.ascontiguousarray(leaf).tobytes()
        ).hexdigest()
        for path, leaf in leaves
    }

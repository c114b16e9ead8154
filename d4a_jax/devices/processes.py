"""Several processes that make one run: how they meet, agree and notice a loss.

Every process runs the same program on its own devices (JAX's multi-controller model),
so whatever decides which program comes next must be the same everywhere: a stop
signal, a clock, a file that exists. Such things are agreed on here. A single process
agrees with itself at no cost.
"""

import contextlib
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from orbax.checkpoint import multihost

_T = TypeVar("_T")

# A process that is lost without a collective in flight is noticed after this.
_HEARTBEAT_SECONDS = 60
# Data sets are prepared by one process while the others wait.
_PREPARATION_SECONDS = 24 * 3600

# What the errors of collectives and of the coordination service have in common when
# another process is gone.
_SIGNS_OF_LOSS = (
    "gloo",
    "nccl",
    "connection closed",
    "connection reset",
    "connection refused",
    "coordination",
    "heartbeat",
    "barrier",
    "unavailable",
    "deadline_exceeded",
)


class ProcessLostError(RuntimeError):
    """Another process of the run ended or cannot be reached."""


class DisagreementError(ValueError):
    """The processes were started with different arguments or see different data."""


def launched_together(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether a launcher started this process as one of several.

    Known are SLURM's `srun`, Open MPI's `mpirun` and Cloud TPU pod slices, by the
    variables that they set.
    """

    def number(name):
        value = environment.get(name, "")
        return int(value) if value.isdigit() else 1

    workers = environment.get("TPU_WORKER_HOSTNAMES", "").split(",")
    return (
        number("SLURM_STEP_NUM_TASKS") > 1
        or number("OMPI_COMM_WORLD_SIZE") > 1
        or len(workers) > 1
    )


def join(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
) -> None:
    """Meets the other processes; before anything else is done with JAX.

    Without arguments JAX finds them by the launcher's environment.

    Args:
      coordinator: `HOST:PORT` of process 0, the same for all.
      num_processes: how many there are.
      process_id: number of this one, from 0.

    Raises:
      ValueError: only some of the arguments are given, one is out of its range, or
        none is given and JAX knows no launcher.
      ProcessLostError: the others do not come in time.
    """
    _check_arguments(coordinator, num_processes, process_id)
    # Signals are the program's own affair.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            coordinator,
            num_processes,
            process_id,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
        )
        _connect_devices()
    except ValueError as error:
        raise ValueError(
            "No launcher that JAX knows has started this process (Cloud TPU, SLURM, "
            "Open MPI); give --coordinator, --num_processes and --process_id."
        ) from error
    except RuntimeError as error:
        raise ProcessLostError(
            f"The processes did not find each other: {_first_line(error)}"
        ) from error


def _connect_devices():
    """Lets all devices exchange something while all processes are at one place.

    They connect at the first exchange and wait only half a minute for each other, in
    which a process may still compile what another one has already begun.
    """
    mesh = jax.make_mesh((jax.device_count(),), ("all",), (AxisType.Auto,))
    sharding = NamedSharding(mesh, PartitionSpec("all"))
    ones = jax.make_array_from_callback(
        (jax.device_count(),), sharding, lambda index: np.ones(1, np.int32)
    )
    total = jax.jit(jnp.sum).lower(ones).compile()
    _wait("compiled")
    total(ones).block_until_ready()


def _check_arguments(coordinator, num_processes, process_id):
    values = (coordinator, num_processes, process_id)
    if all(value is None for value in values):
        return
    if any(value is None for value in values):
        raise ValueError(
            "--coordinator, --num_processes and --process_id belong together; give "
            "all three, or none under a launcher that JAX knows."
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdigit():
        raise ValueError(
            f"--coordinator is {coordinator!r}; it must be HOST:PORT of process 0."
        )
    if not 0 <= process_id < num_processes:
        raise ValueError(
            f"--process_id is {process_id}; it must be at least 0 and below "
            f"--num_processes = {num_processes}."
        )


def is_main() -> bool:
    """Whether this process logs and writes what is written once."""
    return jax.process_index() == 0


def any_of(*flags: bool) -> tuple[bool, ...]:
    """For each flag, whether it is True in any process."""
    if jax.process_count() == 1:
        return flags
    gathered = multihost_utils.process_allgather(np.array(flags))
    return tuple(map(bool, gathered.any(0)))


def check_same(what: str, text: str) -> None:
    """Makes sure that a text is the same in all processes.

    Raises:
      DisagreementError: in all of them, if it is not.
    """
    if jax.process_count() == 1:
        return
    digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
    gathered = multihost_utils.process_allgather(digest)
    others = np.flatnonzero((gathered != gathered[0]).any(1))
    if len(others):
        raise DisagreementError(
            f"{what} of process {others[0]} is not that of process 0; start all "
            "processes with the same arguments and data."
        )


def main_first(function: Callable[[], _T]) -> _T:
    """Calls a function in process 0 and then in the others, which find what it made."""
    if not is_main():
        _wait("main_first")
    result = function()
    if is_main():
        _wait("main_first")
    return result


def by_main(function: Callable[[], Any]) -> None:
    """Calls a function in process 0; where this returns, it has returned there."""
    if is_main():
        function()
    _wait("by_main")


@contextlib.contextmanager
def held_by_main(context: contextlib.AbstractContextManager) -> Iterator[None]:
    """Enters a context, such as a lock, in process 0 for all processes."""
    with context if is_main() else contextlib.nullcontext():
        _wait("held_by_main")
        yield
        _wait("held_by_main")


def of_main(numbers: Sequence[int]) -> list[int]:
    """The whole numbers (int32) that process 0 gives, however many, in all of them."""
    if jax.process_count() == 1:
        return list(numbers)
    count = multihost_utils.broadcast_one_to_all(np.int32(len(numbers)))
    filled = np.resize(np.array([*numbers, 0], np.int32), int(count))
    return multihost_utils.broadcast_one_to_all(filled).tolist()


def _wait(name: str) -> None:
    if jax.process_count() > 1:
        everyone = set(range(jax.process_count()))
        multihost.sync_global_processes(
            name, timeout=_PREPARATION_SECONDS, processes=everyone
        )


def loss_of(error: BaseException) -> ProcessLostError | None:
    """What an error says about another process, None if nothing."""
    if isinstance(error, ProcessLostError):
        return error
    if jax.process_count() == 1:
        return None
    text = str(error).lower()
    if not any(sign in text for sign in _SIGNS_OF_LOSS):
        return None
    return ProcessLostError(
        f"Process {jax.process_index()} of {jax.process_count()} cannot go on, because "
        f"another process of this run has ended ({_first_line(error)}). Its own output "
        "says why. Start all processes again: they continue from the last checkpoint."
    )


def failed(status: int) -> int:
    """Ends this process with a status at once if it is one of several.

    The ordinary end waits minutes for the others to end as well, which after a failure
    they do not.

    Returns:
      The status, in a single process.
    """
    if jax.process_count() > 1:
        end(status)
    return status


def end(status: int) -> NoReturn:
    """Ends this process with a status at once, waiting for no thread of a library."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _first_line(error: BaseException) -> Any:
    return (str(error).splitlines() or [type(error).__name__])[0]

"""Compiles programs and times them in turns, within a budget of time."""

import dataclasses
import statistics
import sys
import time
from collections.abc import Callable, Mapping

import jax

from d4a_jax.log import logger
from experiments.benchmark.cases import Scale
from experiments.benchmark.ceilings import Ceilings
from experiments.benchmark.pieces import Piece

# What a call takes is guessed from its FLOPs at this share of the matmul ceiling.
_GUESSED_SHARE = 1 / 3


@dataclasses.dataclass
class Row:
    """What was found out about a piece.

    Attributes:
      name: of the piece.
      unit: what one turn is.
      images: images of a turn that go through a network, where that is the figure.
      turns: turns of a timed call.
      flops: counted, of a turn.
      bytes: counted, of a turn.
      compile_seconds: tracing excluded.
      memory_bytes: the program's arguments, results and temporaries, by the compiler.
      seconds: of a turn, from each timed call.
      skipped: why it was not measured; None if it was.
    """

    name: str
    unit: str
    images: int | None = None
    turns: int = 0
    flops: int = 0
    bytes: int = 0
    compile_seconds: float | None = None
    memory_bytes: int | None = None
    seconds: tuple[float, ...] = ()
    skipped: str | None = None

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)


def seconds_of(call: Callable[[], None]) -> float:
    """Time of one call."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(
    calls: Mapping[str, Callable[[], None]], repeats: int, deadline: float
) -> dict[str, list[float]]:
    """Times calls round by round, so that a drifting machine hits all alike.

    Args:
      calls: what to time, already warm.
      repeats: number of rounds.
      deadline: no round but the first begins that would end after it, on the clock of
        `time.perf_counter`.

    Returns:
      Seconds of every call, a list per name.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    longest = 0.0
    for number in range(repeats):
        start = time.perf_counter()
        if number and start + longest > deadline:
            break
        for name, call in calls.items():
            times[name].append(seconds_of(call))
        longest = max(longest, time.perf_counter() - start)
    return times


class Bench:
    """Measures pieces beside the ceilings of the device."""

    def __init__(self, scale: Scale, ceilings: Ceilings, repeats: int):
        self.scale = scale
        self.ceilings = ceilings
        self.repeats = repeats
        times = in_turns(ceilings.calls, 2, float("inf"))
        self._speed = ceilings.speeds({k: min(v) for k, v in times.items()})

    def measure(
        self, pieces: list[Piece], deadline: float
    ) -> tuple[list[Row], dict[str, float], dict[str, Callable[[], None]]]:
        """Compiles all pieces, then times them in turns.

        Args:
          pieces: what to measure.
          deadline: a piece is skipped that is likely to end after it.

        Returns:
          A row per piece, the medians of the ceilings in FLOP/s and B/s over the same
          rounds, and the calls of the pieces, to be timed again.
        """
        rows, calls, reserved = [], {}, 0.0
        for piece in pieces:
            logger.info("  %s", piece.name)
            row = Row(piece.name, piece.unit, piece.images)
            rows.append(row)
            try:
                call = self._make_ready(row, piece, deadline - reserved)
                if call:
                    reserved += seconds_of(call)
                    calls[piece.name] = call
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                row.skipped = "out of memory"
        times = in_turns(calls | self.ceilings.calls, self.repeats, deadline)
        for row in rows:
            row.seconds = tuple(t / row.turns for t in times.get(row.name, ()))
        medians = {name: statistics.median(times[name]) for name in self.ceilings.calls}
        return rows, self.ceilings.speeds(medians), calls

    def _make_ready(self, row, piece, deadline):
        """Fills in what is known before timing; returns the call, None if skipped."""
        if time.perf_counter() > deadline:
            row.skipped = "budget"
            return None
        turns, program = 1, piece.trace(1)
        speed = self._speed[self.ceilings.matmul] * _GUESSED_SHARE
        guess = max(program.work.flops / speed, 1e-6)
        if piece.can_repeat:
            wanted = int(self.scale.call_seconds / guess)
            turns = max(1, min(wanted, self.scale.max_steps))
        row.flops, row.bytes, row.turns = *program.work, turns
        if time.perf_counter() + 2 * guess * turns > deadline:
            row.skipped = f"budget: one {piece.unit} may take {guess:.0f} s"
            return None
        if turns > 1:
            program = piece.trace(turns)
        start = time.perf_counter()
        compiled = program.traced.lower().compile()
        row.compile_seconds = time.perf_counter() - start
        row.memory_bytes, needed = program_memory(compiled)
        free = _free_memory()
        if free is not None and needed > free:
            row.skipped = f"memory: {needed / 1e9:.1f} GB, free {free / 1e9:.1f} GB"
            return None
        return program.start(compiled)


def program_memory(compiled) -> tuple[int, int]:
    """Bytes that the program uses, and those that its call will newly allocate."""
    stats = compiled.memory_analysis()
    new = stats.output_size_in_bytes - stats.alias_size_in_bytes
    new += stats.temp_size_in_bytes
    return stats.argument_size_in_bytes + new, new


def _free_memory() -> int | None:
    """Free bytes of the device, or of the host for a CPU; None where unknown."""
    stats = jax.devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats["bytes_in_use"]
    try:
        with open("/proc/meminfo", encoding="ascii") as file:
            fields = dict(line.split(":") for line in file)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None


def peak_memory() -> dict[str, int]:
    """Peaks of this process so far: on the host and, where known, on the device."""
    peaks = {}
    try:
        import resource  # Not on Windows.

        unit = 1 if sys.platform == "darwin" else 1024
        usage = resource.getrusage(resource.RUSAGE_SELF)
        peaks["resident_bytes"] = usage.ru_maxrss * unit
    except ImportError:
        pass
    stats = jax.devices()[0].memory_stats()
    if stats and "peak_bytes_in_use" in stats:
        peaks["device_bytes"] = stats["peak_bytes_in_use"]
    return peaks

"""Measures how fast this library runs on this machine.

    python experiments/bench.py --output=bench.json
    python experiments/bench.py --cases=cifar10_ipc10 --against=PATH

For settings of the literature, on random images of their shapes (no data set is
needed): a matching step on all classes, an iteration of the inner loop (matching and
training of the network), a pass of the filter over the real images, training for the
evaluation, compilation and memory; with the FLOPs and bytes counted from the shapes and
their shares of what a large matrix product and a large copy reach in the same rounds.
On a CPU two classes and 256 real images of each are measured; `--classes` changes that.

`--against=PATH` takes a checkout of the official IDC code
(github.com/snu-mllab/Efficient-Dataset-Condensation) and times its functions on the
same images and weights, in turns with this library's.

`--grouped` also measures the matching step with the grouped convolutions that
`jax.vmap` makes of kernels of their own. It differs from the library's where classes
are batched: on accelerators, or with `--class_chunk=2` and more.
"""

import dataclasses
import os
import sys
import time
from pathlib import Path

_STARTED = time.perf_counter()
_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import jax  # noqa: E402
from absl import app, flags  # noqa: E402

from d4a_jax.config import Config, ConfigError  # noqa: E402
from d4a_jax.log import logger  # noqa: E402
from d4a_jax.storage.environment import environment  # noqa: E402
from d4a_jax.storage.fileio import write_json_atomic  # noqa: E402
from experiments import cli  # noqa: E402
from experiments.benchmark import cases, measure, official, table, versus  # noqa: E402
from experiments.benchmark.ceilings import Ceilings  # noqa: E402
from experiments.benchmark.pieces import Subject  # noqa: E402

_CASES = flags.DEFINE_list("cases", None, f"Of {', '.join(cases.CASES)}; all.")
_AGAINST = flags.DEFINE_string("against", None, "Checkout of the official IDC code.")
_OUTPUT = flags.DEFINE_string("output", None, "JSON file to write.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.", lower_bound=1)
_CLASSES = flags.DEFINE_integer("classes", None, "Most classes measured.", 1)
_MINUTES = flags.DEFINE_float("budget_minutes", 8.0, "Time for everything.", 0.0)
_DTYPE = flags.DEFINE_enum(
    "compute_dtype", "float32", ["float32", "bfloat16"], "Inside the networks."
)
_GROUPED = flags.DEFINE_bool("grouped", False, "Also with grouped convolutions.")
_CHUNK = flags.DEFINE_integer("class_chunk", 0, "Classes at once; 0 lets it choose.", 0)


@dataclasses.dataclass(frozen=True)
class Options:
    """How cases are measured; see the flags of the same names."""

    scale: cases.Scale
    repeats: int = 5
    compute_dtype: str = "float32"
    class_chunk: int = 0
    against: str | None = None
    grouped: bool = False


@dataclasses.dataclass
class Result:
    """Everything found out about a case.

    Attributes:
      case: it.
      measured: the part of it that was measured.
      config: configuration of the measured part.
      setup_seconds: until its data and first state were on the device.
      rows: figures per piece; empty if there was no time at all.
      speeds: ceilings in the same rounds, FLOP/s and B/s.
      peaks: memory of the process so far.
      comparisons: against the official code.
      gradient_difference: relative, from the official code's pixel gradient.
    """

    case: cases.Case
    measured: cases.Case
    config: Config
    setup_seconds: float = 0.0
    rows: list[measure.Row] = dataclasses.field(default_factory=list)
    speeds: dict[str, float] = dataclasses.field(default_factory=dict)
    peaks: dict[str, int] = dataclasses.field(default_factory=dict)
    comparisons: list[versus.Comparison] = dataclasses.field(default_factory=list)
    gradient_difference: float | None = None


def measure_case(
    case: cases.Case, options: Options, ceilings: Ceilings, deadline: float
) -> Result:
    """Measures one case until a deadline on the clock of `time.perf_counter`."""
    start = time.perf_counter()
    measured = cases.shrink(case, options.scale)
    config = cases.configuration(
        measured, options.scale, options.compute_dtype, options.class_chunk
    )
    logger.info("%s, %.0f s", case.name, deadline - start)
    result = Result(case, measured, config)
    subject = Subject(measured, config)
    result.setup_seconds = time.perf_counter() - start
    bench = measure.Bench(options.scale, ceilings, options.repeats)
    until = deadline
    if options.against:
        until -= (deadline - time.perf_counter()) / 2
    result.rows, result.speeds, calls = bench.measure(
        subject.pieces(options.grouped), until
    )
    if options.against:
        result.comparisons, result.gradient_difference = versus.compare(
            options.against, subject, result.rows, calls, options.repeats, deadline
        )
    result.peaks = measure.peak_memory()
    return result


def measure_all(
    chosen: list[cases.Case], options: Options, deadline: float
) -> tuple[list[Result], str]:
    """Measures cases one after the other, each in its share of the time.

    Returns:
      The results, and the name of the ceiling that counts for FLOPs.
    """
    ceilings = Ceilings(options.scale, options.compute_dtype)
    results = []
    for number, case in enumerate(chosen):
        now = time.perf_counter()
        share = max(0.0, deadline - now) / (len(chosen) - number)
        results.append(measure_case(case, options, ceilings, now + share))
    return results, ceilings.matmul


def show(results: list[Result], matmul: str) -> str:
    """The tables and what one must know to read them."""
    lines, versus_lines, notes = [], [], []
    for result in results:
        case, measured = result.case, result.measured
        lines += table.rows(case, measured, result.rows, result.speeds, matmul)
        versus_lines += table.versus_rows(case, measured, result.comparisons)
        notes.append(_note(result))
    parts = [table.text(table.HEADER, lines), "\n".join(notes)]
    parts.append(
        f"Time: the median of up to {_REPEATS.default} or --repeats rounds over all "
        "rows. FLOPs: convolutions and matrix products, by their shapes; bytes: what "
        f"they must read and write. Shares: of {matmul} and copy in the same rounds. "
        "≈: in proportion to the classes, not measured. Memory: of the program, by the "
        "compiler."
    )
    if versus_lines:
        parts.append("Official code / this library, in turns:")
        parts.append(table.text(table.VERSUS_HEADER, versus_lines))
    return "\n\n".join(parts)


def _note(result: Result) -> str:
    case, peaks = result.case, result.peaks
    shape = f"{case.side} x {case.side}, {case.images_per_class} images per class"
    facts = [
        f"{case.title}, {shape}; {result.measured.real_per_class} real ones measured",
        f"set up in {table.duration(result.setup_seconds)}",
        table.ceilings(result.speeds),
    ]
    facts += [f"peak {k.split('_')[0]} {v / 1e9:.2f} GB" for k, v in peaks.items()]
    whole = _schedule(result)
    if whole:
        facts.append(
            f"all {result.config.steps_per_segment:,} iterations ≈ "
            f"{table.duration(whole)}"
        )
    if result.gradient_difference is not None:
        facts.append(
            f"pixel gradient against the official {result.gradient_difference:.1e}"
        )
    return f"{case.name}: {'; '.join(facts)}."


def _schedule(result: Result) -> float | None:
    """Seconds of all matching steps of the setting, in proportion."""
    row = next((r for r in result.rows if r.name == "iteration"), None)
    if row is None:
        return None
    classes = result.measured.classes, result.case.classes
    step = table.all_classes(row, result.rows, *classes)
    return step and step * result.config.steps_per_segment


def report(results: list[Result], matmul: str) -> dict:
    """Everything as plain values for the JSON file."""
    return {
        "environment": environment(),
        "ceiling_for_flops": matmul,
        "cases": [_case_report(result, matmul) for result in results],
    }


def _case_report(result, matmul):
    classes = result.measured.classes, result.case.classes
    rows = []
    for row in result.rows:
        values = dataclasses.asdict(row)
        if row.seconds:
            of_matmul, of_copy = table.shares(row, result.speeds, matmul)
            whole = table.all_classes(row, result.rows, *classes)
            values |= {
                "median_seconds": row.median,
                "share_of_matmul": of_matmul,
                "share_of_copy": of_copy,
                "all_classes_seconds": whole,
                "all_classes_extrapolated": whole is not None
                and classes[0] != classes[1],
            }
        rows.append(values)
    versus_rows = []
    for item in result.comparisons:
        values = dataclasses.asdict(item)
        if not item.skipped:
            ratios = {"of_medians": item.ratio_of_medians, "of_turns": item.ratios}
            values["official_over_this"] = ratios
        versus_rows.append(values)
    return {
        "case": result.case._asdict(),
        "measured": result.measured._asdict(),
        "config": result.config.to_dict(),
        "setup_seconds": result.setup_seconds,
        "ceilings_per_second": result.speeds,
        "peak_memory_so_far": result.peaks,
        "rows": rows,
        "against_official": versus_rows,
        "gradient_difference": result.gradient_difference,
    }


def _options() -> Options:
    on_cpu = jax.default_backend() == "cpu"
    scale = cases.ON_CPU if on_cpu else cases.ON_ACCELERATOR
    if _CLASSES.value:
        scale = scale._replace(classes=_CLASSES.value)
    values = (scale, _REPEATS.value, _DTYPE.value, _CHUNK.value, _AGAINST.value)
    return Options(*values, grouped=_GROUPED.value)


def _check_output() -> None:
    path = _OUTPUT.value
    if path and not Path(path).absolute().parent.is_dir():
        raise ConfigError([f"--output is {path!r}, whose folder does not exist."])


def main(unused_argv) -> None:
    """Runs the command."""
    cli.set_up_logging()
    # A program from the cache would make compilation look free.
    jax.config.update("jax_enable_compilation_cache", False)
    with cli.plain_user_errors():
        chosen = cases.find(_CASES.value)
        _check_output()
        if _AGAINST.value:
            official.check(_AGAINST.value)
            # PyTorch needs a part of the GPU's memory, which JAX takes as a whole.
            os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    options = _options()
    startup = time.perf_counter() - _STARTED
    deadline = _STARTED + 60 * _MINUTES.value
    results, matmul = measure_all(chosen, options, deadline)
    total = time.perf_counter() - _STARTED
    print(show(results, matmul))
    print(
        f"\n{jax.devices()[0].device_kind}; start-up {table.duration(startup)}, "
        f"everything {table.duration(total)}."
    )
    if _OUTPUT.value:
        times = {"startup_seconds": startup, "total_seconds": total}
        write_json_atomic(_OUTPUT.value, report(results, matmul) | times)
        logger.info("Written to %s", _OUTPUT.value)


def _parse(argv):
    with cli.plain_user_errors():
        cli.parse_flags(argv)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

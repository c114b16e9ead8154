"""Measures how the cost grows: with the set's size, the classes, devices and real data.

    python experiments/scaling.py --output=scaling

Writes `scaling.json` and `scaling.png` into the folder. On random images:

    reading    images on the host, read at random rows, against their number
    segments   a matching step of the last segment against all images per class
    classes    a matching step against the classes
    placement  a matching step with real images on the devices and on the host, where
               they are memory-mapped, against the bytes that it draws
    real       the filter's pass, and training for the evaluation, against real images
    devices    a matching step against the devices (on a CPU eight made-up ones, which
               share its cores)

Nothing is augmented or mixed. Seconds are medians over rounds; in a round every point
of a curve has its turn. Memory is that of the program on a device, by the compiler:
arguments, results, temporaries.
"""

import os
import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)
# Counts on a CPU alone, and only before JAX starts.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import jax  # noqa: E402
from absl import app, flags  # noqa: E402

from d4a_jax.config import ConfigError  # noqa: E402
from d4a_jax.storage.environment import environment  # noqa: E402
from d4a_jax.storage.fileio import write_json_atomic  # noqa: E402
from experiments import cli  # noqa: E402
from experiments.benchmark import curves  # noqa: E402
from experiments.benchmark.table import duration  # noqa: E402

_OUTPUT = flags.DEFINE_string("output", "scaling", "Folder for the results.")
_CURVES = flags.DEFINE_list("curves", None, f"Of {', '.join(curves.CURVES)}; all.")
_REPEATS = flags.DEFINE_integer("repeats", 5, "Rounds.", lower_bound=1)


def show(results: list[curves.Result]) -> str:
    """A table of all points."""
    header = ["curve", "x", "value", "time", "memory"]
    rows = []
    for result in results:
        for line in result.lines:
            for x, seconds, memory in zip(line.x, line.seconds, line.memory_bytes):
                size = f"{memory / 1e6:,.1f} MB" if memory else "-"
                values = [f"{x:,g}", duration(seconds), size]
                rows.append([line.label, result.x_label, *values])
    return cli.markdown_table(header, rows)


def main(unused_argv) -> None:
    """Runs the command."""
    cli.set_up_logging()
    cli.keep_compiled_programs()
    with cli.plain_user_errors():
        names = _CURVES.value or list(curves.CURVES)
        wrong = [name for name in names if name not in curves.CURVES]
        if wrong:
            known = ", ".join(curves.CURVES)
            raise ConfigError([f"There is no curve {wrong[0]!r}; there are {known}."])
    scale = curves.ON_CPU if jax.default_backend() == "cpu" else curves.ON_ACCELERATOR
    folder = Path(_OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    results = []
    for name in names:
        results.append(curves.measure(name, scale, _REPEATS.value))
        report = {"scale": scale._asdict(), "curves": [r.to_dict() for r in results]}
        write_json_atomic(folder / "scaling.json", environment() | report)
        curves.draw(results, folder / "scaling.png")
    print(show(results))


def _parse(argv):
    with cli.plain_user_errors():
        cli.parse_flags(argv)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

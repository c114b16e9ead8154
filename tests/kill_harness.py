"""Kills a real run again and again and compares what it makes with an undisturbed run.

    python tests/kill_harness.py --kills=56 --folder=/tmp/kills

Every attempt gives the same command (`experiments/run.py --config=configs/folder.py`
on a few tiny images) in a process of its own. The process reports the phases that it
enters; the harness waits for the next phase of its list, then for a random part of the
time that this phase takes, and sends SIGKILL (mostly), SIGTERM or SIGINT. When the list
has been gone through once, the command is left alone, and its distilled set must have
the very bytes of the undisturbed one, its metrics the same records. Then a new run
begins, until there were as many kills as asked for; lastly, exports are killed.

Exits with 1 and says why where anything differs, a process ends by an error of its own,
or a phase was never hit.
"""

import argparse
import collections
import contextlib
import functools
import json
import os
import random
import select
import shutil
import signal
import sys
import time
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(_ROOT))

import numpy as np  # noqa: E402
from PIL import Image  # noqa: E402

PHASES = (
    "data preparation",
    "range test",
    "first compile",
    "inner loop",
    "checkpoint",
    "evaluation",
    "filter pass",
    "writing the set",
)
# A process that was told to stop may also be just through.
_GOOD_ENDS = {
    signal.SIGKILL: {-signal.SIGKILL, 0},
    signal.SIGTERM: {128 + signal.SIGTERM, 0},
    signal.SIGINT: {128 + signal.SIGINT, 0},
}
_SIGNALS = (signal.SIGKILL,) * 4 + (signal.SIGTERM, signal.SIGINT)


def make_images(folder: Path) -> None:
    """Three classes of 8 x 8 images, whose colors differ."""
    rng = np.random.default_rng(0)
    for label, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, 120, (8, 8, 3))
            pixels[..., label] += 100
            picture = Image.fromarray(pixels.astype(np.uint8))
            picture.save(folder / name / f"{number}.png")


def command(images: Path, workdir: Path, data_dir: Path) -> list[str]:
    """The command line of every attempt: each phase, on little."""
    return [
        "run.py",
        "--config=configs/folder.py:smoke",
        f"--workdir={workdir}",
        f"--config.data.path={images}",
        f"--config.data.data_dir={data_dir}",
        "--config.network=convnet:width=4:depth=2",
        "--config.regularizer.name=none",
        "--config.filter.guard=False",
        "--config.filter.min_per_class=4",
        "--config.evaluation.max_steps=4",
        "--config.runtime.checkpoint_seconds=0",
        "--config.runtime.devices=1",
    ]


def report_phases(report) -> None:
    """Makes this process report when it enters and leaves its phases."""
    from d4a_jax.data import cache
    from d4a_jax.distillation import loop, range_test, run, stages
    from d4a_jax.metrics import journal
    from d4a_jax.storage.checkpoint import CheckpointStore

    def watch(owner, name, phase):
        function = getattr(owner, name)

        @functools.wraps(function)
        def watched(*arguments, **options):
            report(f"+{phase}")
            try:
                return function(*arguments, **options)
            finally:
                report(f"-{phase}")

        setattr(owner, name, watched)

    watch(cache, "write_cache", "data preparation")
    watch(run.Run, "programs", "first compile")
    watch(range_test, "range_test", "range test")
    watch(journal.Journal, "write", "inner loop")
    watch(CheckpointStore, "save", "checkpoint")
    watch(stages, "train_on_prefix", "evaluation")
    watch(stages, "filter_real_data", "filter pass")
    watch(loop, "save_distilled", "writing the set")


class Attempt:
    """One process with the command, forked from this one to spare the imports."""

    def __init__(self, work, log: Path):
        """Starts `work(report)`; what it prints is appended to `log`."""
        receiver, sender = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(receiver)
            status = 70
            try:
                output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
                os.dup2(output, 1)
                os.dup2(output, 2)
                report = lambda text: os.write(sender, f"{text}\n".encode())
                status = _status(work, report)
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
        os.close(sender)
        self._pipe = receiver
        self.times: list[tuple[float, str]] = []

    def wait_for(self, phase: str) -> bool:
        """Whether the process enters a phase before it ends."""
        while self._read():
            if any(text == f"+{phase}" for _, text in self.times):
                return True
        return False

    def kill(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def end(self) -> int:
        """Waits for the end; the exit status, or the negative signal."""
        while self._read():
            pass
        os.close(self._pipe)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def last_phase(self) -> str:
        """The phase that was going on when the process ended."""
        going = [text[1:] for _, text in self.times]
        return going[-1] if going else "start"

    def _read(self) -> bool:
        select.select([self._pipe], [], [])
        data = os.read(self._pipe, 1 << 16)
        now = time.monotonic()
        self.times += [(now, text) for text in data.decode().split("\n") if text]
        return bool(data)


def _status(work, report) -> int:
    try:
        work(report)
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else bool(stop.code)
    except BaseException:
        import traceback

        traceback.print_exc()
        return 70
    return 0


def run_command(arguments: list[str], cache: Path, report) -> None:
    """`experiments/run.py` in this process."""
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(cache)
    from absl import app

    from experiments import config_flag, run

    report_phases(report)
    app.run(run.main, argv=arguments, flags_parser=config_flag.parse_all)


def durations(times: list[tuple[float, str]]) -> dict[str, float]:
    """Longest seconds of each phase in an undisturbed run."""
    longest: dict[str, float] = collections.defaultdict(float)
    entered: dict[str, float] = {}
    for at, text in times:
        if text[0] == "+":
            entered[text[1:]] = at
        else:
            longest[text[1:]] = max(longest[text[1:]], at - entered[text[1:]])
    return longest


def contents(workdir: Path) -> dict[str, bytes]:
    """Everything of a run that must not depend on what happened to it."""
    names = sorted((workdir / "distilled").iterdir()) + sorted(
        (workdir / "filter").glob("*.npy")
    )
    names.append(workdir / "learning_rate.json")
    files = {str(path.relative_to(workdir)): path.read_bytes() for path in names}
    records = [
        {key: value for key, value in json.loads(line).items() if key != "time"}
        for line in (workdir / "metrics.jsonl").read_text().splitlines()
    ]
    return files | {"metrics.jsonl without times": json.dumps(records).encode()}


def differing(workdir: Path, expected: dict[str, bytes]) -> list[str]:
    found = contents(workdir)
    return [
        name
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    ]


class Harness:
    """The folder of the experiment, its counts and its complaints."""

    def __init__(self, folder: Path, seed: int):
        self.folder, self.random = folder, random.Random(seed)
        self.hit: collections.Counter = collections.Counter()
        self.ends: collections.Counter = collections.Counter()
        self.problems: list[str] = []
        self.runs = 0
        self.log = folder / "log.txt"
        self.cache = folder / "compiled"
        make_images(folder / "images")

    @property
    def kills(self) -> int:
        return sum(self.hit.values())

    def attempt(self, name: str, cache: Path | None = None) -> Attempt:
        arguments = command(
            self.folder / "images", self.folder / name / "run", self.folder / name
        )
        return Attempt(
            lambda report: run_command(arguments, cache or self.cache, report), self.log
        )

    def undisturbed(self) -> None:
        """Makes the reference; its second go, compiled, measures the phases."""
        for name in ("cold", "reference"):
            attempt = self.attempt(name)
            status = attempt.end()
            if status:
                raise SystemExit(f"The undisturbed run failed; see {self.log}.")
        self.seconds = durations(attempt.times)
        self.expected = contents(self.folder / "reference" / "run")
        if differing(self.folder / "cold" / "run", self.expected):
            self.problems.append("two undisturbed runs differ")

    def disturbed(self, most: int) -> None:
        """One run, killed once in each phase, unless there were enough kills."""
        self.runs += 1
        name = f"run-{self.runs}"
        for place, phase in enumerate(PHASES):
            if self.kills >= most:
                break
            cold = phase == "first compile"
            cache = self.folder / f"compiled-{self.runs}-{place}" if cold else None
            attempt = self.attempt(name, cache)
            if attempt.wait_for(phase):
                length = 2.0 if cold else 1.2 * self.seconds.get(phase, 0.0)
                time.sleep(self.random.random() * length)
            number = self.random.choice(_SIGNALS)
            attempt.kill(number)
            status = attempt.end()
            self.record(name, attempt, number, status)
            if not status:
                break
        status = self.attempt(name).end()
        if status:
            self.problems.append(f"{name}: the last attempt ended with {status}")
        elif wrong := differing(self.folder / name / "run", self.expected):
            self.problems.append(f"{name}: {', '.join(wrong)} differ")
        else:
            shutil.rmtree(self.folder / name)
        for leftover in self.folder.glob("compiled-*"):
            shutil.rmtree(leftover)

    def record(self, name: str, attempt: Attempt, number: int, status: int) -> None:
        number = signal.Signals(number)
        if status not in _GOOD_ENDS[number]:
            self.problems.append(f"{name}: {number.name} ended with status {status}")
        if status:
            self.hit[attempt.last_phase()] += 1
            self.ends[number.name] += 1
        print(f"{name}: {number.name} in {attempt.last_phase()}: {status}", flush=True)

    def exports(self, kills: int) -> None:
        """Kills exports of the reference; what is there is whole, or is not there."""
        from d4a_jax import artifact, export

        source = artifact.load_distilled(self.folder / "reference" / "run/distilled")
        for number in range(kills):
            kind = ("imagefolder", "huggingface", "npz")[number % 3]
            whole, output = (self.folder / f"{n}-{kind}" for n in ("whole", "export"))
            if not whole.exists():
                started = time.monotonic()
                export.export_distilled(source, whole, kind)
                self.seconds[kind] = time.monotonic() - started

            def work(report):
                report("+export")
                export.export_distilled(source, output, kind)

            attempt = Attempt(work, self.log)
            attempt.wait_for("export")
            time.sleep(self.random.random() * self.seconds[kind])
            attempt.kill(signal.SIGKILL)
            self.record(f"export {kind}", attempt, signal.SIGKILL, attempt.end())
            if not output.exists():
                export.export_distilled(source, output, kind)
            if _tree(output) != _tree(whole):
                self.problems.append(f"an export to {kind} is not whole")
            shutil.rmtree(output) if output.is_dir() else output.unlink()


def _tree(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*"))
    return {
        p.relative_to(path).as_posix(): p.read_bytes() for p in files if p.is_file()
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=56)
    parser.add_argument("--exports", type=int, default=6)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, required=True, help="a new directory")
    options = parser.parse_args()
    options.folder.mkdir(parents=True)
    import experiments.run  # noqa: F401  (once, for all forked processes)

    harness = Harness(options.folder.absolute(), options.seed)
    harness.undisturbed()
    while harness.kills < options.kills:
        harness.disturbed(options.kills)
    kills = harness.kills
    harness.exports(options.exports)
    counts = ", ".join(f"{phase} {n}" for phase, n in harness.hit.most_common())
    print(f"{kills} kills of {harness.runs} runs, {harness.kills - kills} of exports")
    if options.kills >= 2 * len(PHASES):
        missed = [phase for phase in PHASES if not harness.hit[phase]]
        harness.problems += [f"nothing was killed in {phase}" for phase in missed]
    print(f"phases: {counts}\nsignals: {dict(harness.ends)}")
    for problem in harness.problems:
        print(f"WRONG: {problem} (see {harness.folder})")
    return bool(harness.problems)


if __name__ == "__main__":
    sys.exit(main())

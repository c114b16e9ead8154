"""What a run survives: damage, full and read-only disks, divergence, kills.

Most tests use a method that costs nothing to compile: its gradient is noise. The
kills of whole runs, in every phase, are in `kill_harness.py`.
"""

import dataclasses
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax import rng
from d4a_jax.artifact import load_distilled, same_distilled
from d4a_jax.config import ConfigError, from_dict
from d4a_jax.data import from_arrays
from d4a_jax.distillation import DivergenceError, Interrupted, distill
from d4a_jax.methods import Method, MethodOptions
from d4a_jax.metrics import MetricsError, read_metrics
from d4a_jax.storage.fileio import WorkdirLock
from d4a_jax.storage.workdir import Workdir

ROOT = Path(__file__).resolve().parent.parent
STEPS = 12
pytestmark = pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")


def make_config(**changes):
    return from_dict(
        {
            "network": "convnet:width=4",
            "synthetic": {"images_per_class": 2, "segments": 2, "factor": 1},
            "matching": {
                "outer_iterations": STEPS,
                "inner_iterations": 1,
                "learning_rate": 0.1,
            },
            "filter": {"enabled": False},
            "evaluation": {"enabled": False},
            "runtime": {"devices": 1, "checkpoint_seconds": 0.0},
        }
        | changes
    )


@pytest.fixture(scope="module")
def dataset():
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), np.uint8)
    labels = np.arange(12) % 3
    names = ["ant", "bee", "cow"]
    return from_arrays("insects", images, labels, images, labels, names)


@dataclasses.dataclass(frozen=True)
class Noise(MethodOptions):
    """A method of random gradients that turn NaN in some steps and attempts."""

    bad_steps: tuple[int, ...] = (-1,)
    bad_classes: tuple[int, ...] = (1,)
    attempts: tuple[int, ...] = (0,)

    def build(self, setting):
        def update(key, step, state, params, batch):
            pixels = params["images"]
            gradient = jax.random.normal(jax.random.fold_in(key, step), pixels.shape)
            root = jax.random.key(0)
            known = [
                rng.stream(root, "segment", 0, attempt) for attempt in self.attempts
            ]
            same = [
                (jax.random.key_data(k) == jax.random.key_data(key)).all()
                for k in known
            ]
            bad = jnp.isin(step, jnp.array(self.bad_steps)) & jnp.array(same).any()
            of_class = jnp.isin(jnp.arange(len(pixels)), jnp.array(self.bad_classes))
            hole = jnp.where(bad & of_class, jnp.nan, 0.0)
            gradient = gradient + hole[:, None, None, None, None]
            loss = jnp.mean(gradient**2)
            return {"images": gradient}, state, {"matching_loss": loss}

        return Method(lambda key, task: (), lambda key, step, task: None, update)


def noisy(config=None, **options):
    """A run's configuration with that method."""
    return dataclasses.replace(config or make_config(), method=Noise(**options))


def go(dataset, directory, config=noisy(), **arguments):
    """A run in a directory, as the command does it."""
    with Workdir(directory, config) as workdir:
        workdir.record(dataset)
        return distill(dataset, config, directory, **arguments)


def matching_steps(directory):
    return [r["step"] for r in read_metrics(directory) if r["phase"] == "matching"]


# Divergence.


@pytest.mark.parametrize(
    ("classes", "subject"),
    [
        ([1], "class 'bee' is"),
        ([0, 2], "classes 'ant', 'cow' are"),
        ([0, 1, 2], "all 3 classes are"),
    ],
)
def test_divergence_names_step_class_and_rate_and_saves_nothing(
    dataset, tmp_path, classes, subject
):
    config = noisy(
        bad_steps=(4,), bad_classes=tuple(classes), attempts=tuple(range(9))
    )
    with pytest.raises(DivergenceError) as caught:
        go(dataset, tmp_path, config)
    # (1 image / 10) * (8 / 32)**2 * 0.1
    assert str(caught.value).startswith(
        f"Segment 1 diverged in step 5: {subject} not finite at the pixel learning "
        "rate 0.000625 (matching.learning_rate 0.1). A smaller"
    )
    assert not (tmp_path / "distilled").exists()


def test_a_run_that_diverged_goes_on_with_other_random_numbers(
    dataset, tmp_path, caplog
):
    with caplog.at_level("INFO", "d4a_jax"):
        result = go(dataset, tmp_path, noisy(bad_steps=(7,)))
    assert len(re.findall("diverged in step 8: class 'bee'", caplog.text)) == 1
    assert matching_steps(tmp_path) == list(range(1, 2 * STEPS + 1))
    assert same_distilled(load_distilled(tmp_path / "distilled"), result)
    assert not same_distilled(distill(dataset, noisy()), result)


@pytest.mark.parametrize("seconds", [0.0, 1000.0])
@pytest.mark.parametrize("stop_after", [3, 7, 9, 15])
def test_divergence_and_interruption_together_change_nothing(
    dataset, tmp_path, stop_after, seconds
):
    """The step to go back to does not depend on when checkpoints were written."""
    bad = {"bad_steps": (7, 9), "attempts": (0, 1)}
    rarely = noisy(
        make_config(runtime={"devices": 1, "checkpoint_seconds": 1000.0}), **bad
    )
    undisturbed = go(dataset, tmp_path / "a", rarely)
    often = noisy(
        make_config(runtime={"devices": 1, "checkpoint_seconds": seconds}), **bad
    )
    questions = iter(range(1000))
    with pytest.raises(Interrupted):
        go(
            dataset,
            tmp_path / "b",
            often,
            should_stop=lambda: next(questions) + 1 >= stop_after,
        )
    assert same_distilled(go(dataset, tmp_path / "b", often), undisturbed)


# Damage.


def files(directory):
    return sorted(path for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("complete", [True, False])
def test_damage_anywhere_is_named_or_without_consequence(
    dataset, tmp_path, complete
):
    """Every kind of file that a run leaves: a flipped bit, a cut, empty, missing.

    Of a checkpoint's many files a few; `test_checkpoint.py` goes through all of them.
    """
    expected = distill(dataset, noisy())
    whole, directory = tmp_path / "whole", tmp_path / "damaged"
    if complete:
        go(dataset, whole)
    else:
        questions = iter(range(1000))
        with pytest.raises(Interrupted):
            go(dataset, whole, should_stop=lambda: next(questions) + 1 >= STEPS + 5)
    names = [path.relative_to(whole) for path in files(whole)]
    newest = str(max(int(n.parts[1]) for n in names if n.parts[0] == "checkpoints"))
    names = [n for n in names if n.parts[0] != "checkpoints" or n.parts[1] == newest]
    random, refused = np.random.default_rng(int(complete)), set()
    of_checkpoint = [name for name in names if name.parts[0] == "checkpoints"]
    left_out = random.permutation(len(of_checkpoint))[4:]
    names = [n for n in names if n not in [of_checkpoint[i] for i in left_out]]
    for number, name in enumerate(names):
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(whole, directory)
        path = directory / name
        content = bytearray(path.read_bytes())
        kind = ("flip", "cut", "empty", "missing")[(number + random.integers(2)) % 4]
        if kind == "missing":
            path.unlink()
        elif kind == "flip" and content:
            content[random.integers(len(content))] ^= 1 << random.integers(8)
            path.write_bytes(content)
        else:
            place = random.integers(len(content)) if content and kind == "cut" else 0
            path.write_bytes(content[:place])
        try:
            result = go(dataset, directory)
        except (ConfigError, MetricsError) as error:
            assert name.name in str(error) or str(directory) in str(error)
            refused.add(name.name)
            continue
        assert same_distilled(result, expected), (name, kind)
        found = load_distilled(directory / "distilled")
        assert same_distilled(found, expected), (name, kind)
    assert refused <= {"config.json", "metrics.jsonl"}


def test_leftovers_of_killed_writers_are_removed(dataset, tmp_path):
    go(dataset, tmp_path)
    (tmp_path / ".distilled.1-ab.tmp").mkdir()
    (tmp_path / ".config.json.1-ab.tmp").write_text("")
    go(dataset, tmp_path)
    assert not list(tmp_path.glob(".*.tmp"))


def test_a_set_that_was_not_written_in_time_is_written_by_the_next_start(
    dataset, tmp_path
):
    """A kill between the last checkpoint and the set that belongs to it."""
    expected = go(dataset, tmp_path)
    shutil.rmtree(tmp_path / "distilled")
    go(dataset, tmp_path)
    assert same_distilled(load_distilled(tmp_path / "distilled"), expected)


# Disks and other processes, by the command itself.


def command(*arguments, prefix=()):
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    script = ROOT / "experiments" / "run.py"
    return subprocess.run(
        [*prefix, sys.executable, script, "--config=configs/digits.py:smoke"]
        + [str(argument) for argument in arguments],
        capture_output=True,
        check=False,
        cwd=ROOT,
        env=environment,
        text=True,
        timeout=900,
    )


def test_a_second_process_is_refused_with_the_first_ones_pid_and_host(tmp_path):
    with WorkdirLock(tmp_path):
        done = command(f"--workdir={tmp_path}")
    who = f"process {os.getpid()} on {socket.gethostname()}"
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert str(tmp_path) in done.stderr and who in done.stderr


@pytest.fixture
def own_mounts():
    """Command that runs a shell which may mount; skips where that is forbidden."""
    prefix = ["unshare", "--map-root-user", "--mount", "sh", "-c"]
    try:
        probe = "mount -t tmpfs tmpfs /mnt"
        subprocess.run([*prefix, probe], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs unshare and the permission to mount")
    return [*prefix, 'set -e; eval "$0"; exec "$@"']


def test_a_read_only_workdir_is_refused(tmp_path, own_mounts):
    mount = f"mount -t tmpfs -o ro tmpfs {tmp_path}"
    done = command(f"--workdir={tmp_path}", prefix=[*own_mounts, mount])
    assert done.returncode == 2 and "Read-only file system" in done.stderr
    assert str(tmp_path) in done.stderr and done.stderr.count("\n") == 1


def test_a_full_disk_makes_a_sentence_and_no_traces(tmp_path, own_mounts):
    """On disks that fill up at every moment of a save."""
    program = f"""
import subprocess, sys, time
import numpy as np
from d4a_jax.storage.checkpoint import CheckpointError, CheckpointStore
from experiments import cli
cli.set_up_logging()
disk, state = {str(tmp_path)!r}, {{f"leaf {{i}}": np.arange(500) for i in range(20)}}
for size in [8, 12, 16, 20, 24, 48, 80, 90, 100, 110]:
    options = ["-t", "tmpfs", "-o", f"size={{size}}k", "tmpfs", disk]
    subprocess.run(["mount", *options], check=True)
    store = CheckpointStore(disk + "/checkpoints", 2)
    try:
        [store.save(step, state, {{}}) for step in range(9)]
    except CheckpointError as error:
        print(error)
    time.sleep(0.3)
    store.close()
    subprocess.run(["umount", "--lazy", disk], check=True)
"""
    prefix = [*own_mounts, "true", sys.executable, "-c", program]
    done = subprocess.run(prefix, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    sentence = r"^Checkpoint \d could not be written to .*No space left .* continues"
    assert len(re.findall(sentence, done.stdout, re.M)) == 10, done.stdout


@pytest.mark.slow
def test_a_run_continues_after_a_full_disk(tmp_path):
    """On ever larger disks, each of which fills up at another moment."""
    program = f"""
import subprocess, sys
disk, sizes = {str(tmp_path / "disk")!r}, [40, 200, 65536]
mount = lambda *options: subprocess.run(["mount", *options, disk], check=True)
mount("-t", "tmpfs", "-o", "size=20k", "tmpfs")
for size in sizes:
    mount("-o", f"remount,size={{size}}k")
    done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
    print(size, done.returncode, "Traceback" in done.stderr, done.stderr[-600:])
subprocess.run(["cp", "-r", disk + "/run/distilled", {str(tmp_path)!r}], check=True)
"""
    (tmp_path / "disk").mkdir()
    arguments = [f"--config.data.data_dir={tmp_path}", "--config.seed=1"]
    prefix = ["unshare", "--map-root-user", "--mount", sys.executable, "-c", program]
    done = command(f"--workdir={tmp_path / 'disk/run'}", *arguments, prefix=prefix)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("needs unshare and the permission to mount")
    assert done.returncode == 0, done.stdout + done.stderr
    ends = re.findall(r"^(\d+) (\d+) (True|False)", done.stdout, re.M)
    assert ends[-1] == ("65536", "0", "False"), done.stdout
    assert ends[0][1] in ("1", "2"), done.stdout
    assert all(end[2] == "False" for end in ends), done.stdout
    assert "same command" in done.stdout
    undisturbed = command(f"--workdir={tmp_path / 'run'}", *arguments)
    assert undisturbed.returncode == 0, undisturbed.stderr
    for path in files(tmp_path / "run" / "distilled"):
        assert path.read_bytes() == (tmp_path / "distilled" / path.name).read_bytes()


@pytest.mark.slow
def test_kills_at_random_moments_leave_the_result_as_it_was(tmp_path):
    """A few kills; `python tests/kill_harness.py --kills=56` is the whole test."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    harness = [sys.executable, ROOT / "tests" / "kill_harness.py"]
    options = ["--kills=6", "--exports=2", f"--folder={tmp_path / 'kills'}"]
    done = subprocess.run(
        [*harness, *options], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 kills of" in done.stdout

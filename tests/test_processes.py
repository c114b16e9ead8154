"""Several processes make one run: the same result, and an end where one is lost."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import jax
import numpy as np
import pytest
from processes_worker import make_dataset

from d4a_jax import config as configs
from d4a_jax.artifact import load_distilled
from d4a_jax.devices import processes
from d4a_jax.distillation import distill
from d4a_jax.metrics import read_metrics

WORKER = Path(__file__).with_name("processes_worker.py")
_PLAIN = {"augmentation": "none", "cutmix_probability": 0.0}
VALUES = {
    "network": "convnet:width=2:depth=1",
    "synthetic": {"images_per_class": 2, "segments": 2, "factor": 1},
    "matching": {
        "batch_real": 3,
        "learning_rate": 1.0,
        "augmentation": "none",
        "outer_iterations": 2,
        "inner_iterations": 2,
    },
    "network_training": {"images_per_step": 8, "batch_size": 8, **_PLAIN},
    "filter": {"networks": 2, "min_per_class": 2},
    "regularizer": {"name": "anchor"},
    "evaluation": {"repeats": 2, "max_steps": 3, "batch_size": 4, **_PLAIN},
    "runtime": {"checkpoint_seconds": 0.0},
}
# Its only segment is the first one of VALUES.
SHORT = VALUES | {
    "synthetic": {"images_per_class": 1, "segments": 1, "factor": 1},
    "evaluation": {"enabled": False},
}


def start(
    count, devices, workdir, values=VALUES, killed=None, dies_after=None, worker=WORKER
):
    """Starts processes with so many devices each; `killed` dies of a signal."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    flag = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flag}
    started = []
    for number in range(count):
        join = {
            "coordinator": f"localhost:{port}",
            "num_processes": count,
            "process_id": number,
        }
        options = {"config": values, "workdir": str(workdir), "join": join}
        if number == killed:
            options["dies_after"] = dies_after
        started.append(
            subprocess.Popen(
                [sys.executable, str(worker), json.dumps(options)],
                env=environment,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    return started


def finish(started, seconds):
    """Status and error output of each, all within a time."""
    try:
        errors = [process.communicate(timeout=seconds)[1] for process in started]
        return [process.returncode for process in started], errors
    finally:
        for process in started:
            process.kill()


# Trajectories, with labels that are learned together with the images.
LABELS = SHORT | {
    "matching": SHORT["matching"] | {"steps": "joint"},
    "regularizer": {"name": "none"},
    "experts": {"count": 2, "epochs": 3, "batch_size": 6},
    "method": {
        "name": "trajectory_matching",
        "max_start_epoch": 2,
        "expert_epochs": 1,
        "student_steps": 2,
        "label_learning_rate": 1.0,
    },
}


@pytest.fixture(scope="module")
def single():
    """The same in one process, on as many devices."""
    if jax.device_count() < 4:
        pytest.skip("needs 4 (fake) devices")
    values = VALUES | {"runtime": {"devices": 4}}
    return distill(make_dataset(), configs.from_dict(values))


@pytest.mark.multiprocess
def test_two_processes_resume_after_a_loss_to_the_result_of_one(single, tmp_path):
    statuses, errors = finish(start(2, 2, tmp_path, killed=1, dies_after=3), 600)
    assert statuses == [75, -9], errors[0]
    assert "another process of this run has ended" in errors[0]
    assert not (tmp_path / "distilled").exists()

    statuses, errors = finish(start(2, 2, tmp_path), 600)
    assert statuses == [0, 0], errors
    assert "continuing after step 2 of segment 1" in errors[0]
    # One process speaks, and writes every figure once.
    assert "test accuracy" in errors[0] and "test accuracy" not in errors[1]
    records = read_metrics(tmp_path)
    steps = [r["step"] for r in records if r["phase"] == "matching"]
    assert steps == list(range(1, 9))
    assert [r["phase"] for r in records].count("filter") == 1
    result = load_distilled(tmp_path / "distilled")
    np.testing.assert_array_equal(result.images, single.images)
    assert result.metadata["history"] == single.metadata["history"]


@pytest.mark.multiprocess
def test_four_processes_give_the_result_of_one(single, tmp_path):
    statuses, errors = finish(start(4, 1, tmp_path, SHORT), 900)
    assert statuses == [0, 0, 0, 0], errors
    result = load_distilled(tmp_path / "distilled")
    np.testing.assert_array_equal(result.images, single.prefix(1).images)


@pytest.mark.multiprocess
def test_labels_that_two_processes_learn_are_those_of_one(tmp_path):
    if jax.device_count() < 2:
        pytest.skip("needs 2 (fake) devices")
    values = LABELS | {"data": {"data_dir": str(tmp_path / "two")}}
    statuses, errors = finish(start(2, 1, tmp_path / "run", values), 900)
    assert statuses == [0, 0], errors
    result = load_distilled(tmp_path / "run" / "distilled")
    alone = {"data": {"data_dir": str(tmp_path / "one")}, "runtime": {"devices": 2}}
    expected = distill(make_dataset(), configs.from_dict(LABELS | alone))
    np.testing.assert_array_equal(result.images, expected.images)
    np.testing.assert_array_equal(result.label_logits, expected.label_logits)


@pytest.mark.multiprocess
def test_what_one_process_cannot_read_is_left_out_by_all(tmp_path):
    """Within seconds: the others once waited for it at a barrier of orbax."""
    worker = WORKER.with_name("checkpoints_worker.py")
    statuses, errors = finish(start(2, 2, tmp_path, worker=worker), 240)
    assert statuses == [0, 0], errors
    for step in (2, 3):
        assert f"{tmp_path / str(step)} is damaged" in errors[0]
    assert "is damaged" not in errors[1]
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["1", "2", "damaged"]
    assert sorted(path.name for path in (tmp_path / "damaged").iterdir()) == ["2", "3"]


@pytest.mark.parametrize(
    ("environment", "several"),
    [
        ({}, False),
        ({"SLURM_STEP_NUM_TASKS": "1"}, False),
        # A batch script that runs a command by itself, without `srun`.
        ({"SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, False),
        ({"SLURM_STEP_NUM_TASKS": "8"}, True),
        ({"OMPI_COMM_WORLD_SIZE": "1"}, False),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, True),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, False),
        ({"TPU_WORKER_HOSTNAMES": "host-0,host-1"}, True),
    ],
)
def test_launchers_are_known_by_their_environment(environment, several):
    assert processes.launched_together(environment) is several


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1", 2, None), "belong together"),
        ((None, 2, 1), "belong together"),
        (("host", 2, 1), "--coordinator is 'host'; it must be HOST:PORT"),
        (("host:http", 2, 1), "must be HOST:PORT"),
        (("host:1", 2, 2), "--process_id is 2; .* below --num_processes = 2"),
    ],
)
def test_arguments_are_checked_before_anyone_is_waited_for(arguments, message):
    with pytest.raises(ValueError, match=message):
        processes.join(*arguments)


def test_a_single_process_agrees_with_itself():
    assert processes.is_main()
    assert processes.any_of(True, False) == (True, False)
    assert processes.main_first(lambda: 7) == 7
    assert processes.of_main([3, 1]) == [3, 1]
    done = []
    processes.by_main(lambda: done.append(1))
    with processes.held_by_main(contextlib.closing(BytesIO())):
        done.append(2)
    assert done == [1, 2]
    processes.check_same("The configuration", "text")
    assert processes.loss_of(RuntimeError("Gloo: connection closed by peer")) is None
    assert processes.failed(2) == 2

"""The commands, as a user gives them."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from d4a_jax.artifact import load_distilled
from d4a_jax.config import ConfigError
from d4a_jax.metrics import read_metrics
from experiments import cli, config_flag

ROOT = Path(__file__).resolve().parent.parent
SMOKE = "--config=configs/digits.py:smoke"


def start(script, *arguments, cwd=ROOT):
    """Starts a command on one CPU device."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    return subprocess.Popen(
        [sys.executable, str(cwd / script), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command(script, *arguments, cwd=ROOT):
    """Status, output and error output of a command."""
    process = start(script, *arguments, cwd=cwd)
    output, errors = process.communicate(timeout=900)
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole run, from the root of the repository; its directory and its output."""
    folder = tmp_path_factory.mktemp("run")
    flags = (SMOKE, f"--workdir={folder / 'w'}", f"--config.data.data_dir={folder}")
    status, output, errors = command("experiments/run.py", *flags)
    assert status == 0, errors
    return folder, flags, output, errors


def test_run_says_what_it_does_and_how_good_it_is(run):
    folder, _, output, errors = run
    assert "digits" in output and "2 classes" in output
    assert "2 images per class in 2 segment(s) of 1, 1" in output
    rows = re.findall(r"^\| (\d) +\| +([\d.]+) ± [\d.]+ \|", output, re.M)
    history = load_distilled(folder / "w" / "distilled").metadata["history"]
    assert rows == [
        (str(entry["images_per_class"]), f"{entry['evaluation']['top1']:.2f}")
        for entry in history
    ]
    assert f"The distilled set: {folder / 'w' / 'distilled'}" in output
    assert re.search(r"^\d\d:\d\d:\d\d filter: ", errors, re.M)
    assert "Traceback" not in errors


def test_run_leaves_everything_behind(run):
    folder = run[0] / "w"
    described = json.loads((folder / "config.json").read_text())
    assert described["config"]["data"]["name"] == "digits"
    assert described["overrides"] == {"data.data_dir": str(run[0])}
    assert described["versions"]["jax"] and described["devices"] == ["cpu: cpu"]
    phases = [record["phase"] for record in read_metrics(folder)]
    assert phases.count("matching") == 8
    assert phases.count("evaluation") == 2 and phases.count("filter") == 1
    assert (folder / "distilled" / "gallery.png").stat().st_size > 0
    assert "Matched against (real)" in (folder / "report.html").read_text()


def test_the_same_command_elsewhere_finds_the_run_complete(run):
    folder, flags, output, _ = run
    before = (folder / "w" / "metrics.jsonl").read_bytes()
    status, again, errors = command("run.py", *flags, cwd=ROOT / "experiments")
    assert status == 0 and "this run is complete" in errors
    assert re.findall(r"^\|.*", again, re.M) == re.findall(r"^\|.*", output, re.M)
    assert (folder / "w" / "metrics.jsonl").read_bytes() == before


def test_another_configuration_is_refused_but_not_another_layout(run):
    _, flags, _, _ = run
    changes = ("--config.seed=7", "--config.method.distance=l1")
    layout = "--config.runtime.predict_batch=100"
    status, output, errors = command("experiments/run.py", *flags, *changes, layout)
    assert status == cli.USER_ERROR and not output
    first, *keys = errors.splitlines()
    assert "another configuration" in first
    assert [key.strip() for key in keys] == [
        "method.distance is 'l1' now and was 'mse' there.",
        "seed is 7 now and was 0 there.",
    ]


def test_evaluate_trains_any_networks_on_the_result(run):
    folder, _, _, _ = run
    status, output, errors = command(
        "experiments/evaluate.py",
        f"--artifact={folder / 'w' / 'distilled'}",
        "--networks=convnet:width=8,convnet:width=4:norm=none",
        "--segments=1",
        "--max_steps=4",
        "--repeats=3",
        f"--output={folder / 'out' / 'report.json'}",
    )
    assert status == 0, errors
    report = json.loads((folder / "out" / "report.json").read_text())
    assert report["protocol"]["max_steps"] == 4
    assert report["protocol"]["augmentation"] == "color_crop_scale_rotate"
    assert (report["images"], report["segments"]) == (2, 1)
    for row, network in zip(report["results"], ("width=8", "width=4:norm=none")):
        assert row["network"] == f"convnet:{network}"
        assert len(row["top1_each"]) == 3 and row["steps"] == 4
        accuracies = 100 * np.array(row["top1_each"])
        mean, std = accuracies.mean(), accuracies.std(ddof=1)
        assert row["top1"] == pytest.approx(mean)
        assert f"| {mean:.2f} ± {std:.2f} |" in re.sub(" +", " ", output)


def test_evaluate_names_what_is_wrong(run, tmp_path):
    artifact = f"--artifact={run[0] / 'w' / 'distilled'}"
    for arguments, words in (
        (["--artifact=/nowhere"], ["/nowhere/metadata.json cannot be read"]),
        ([artifact, "--networks=convnt,resnt18"], ["'convnt'", "'resnt18'"]),
    ):
        status, _, errors = command("experiments/evaluate.py", *arguments)
        assert status == cli.USER_ERROR and "Traceback" not in errors
        assert len(errors.splitlines()) == len(words)
        assert all(word in errors for word in words)


def test_a_terminated_run_continues(tmp_path):
    flags = (
        SMOKE,
        f"--workdir={tmp_path / 'w'}",
        f"--config.data.data_dir={tmp_path}",
        "--config.matching.outer_iterations=50000",
    )
    steps = []
    for _ in range(2):
        process = start("experiments/run.py", *flags)
        before = len(records(tmp_path / "w"))
        try:
            wait_for(lambda: len(records(tmp_path / "w")) > max(before, 3), process)
            process.send_signal(signal.SIGTERM)
            output, errors = process.communicate(timeout=300)
        finally:
            process.kill()
        assert process.returncode == 128 + signal.SIGTERM, errors
        assert "the same command continues" in output and "Traceback" not in errors
        steps.append([record["step"] for record in records(tmp_path / "w")])
    # The second one went on where the first one stopped.
    assert f"continuing after step {steps[0][-1]} of segment 1" in errors
    assert steps[1][: len(steps[0])] == steps[0]
    assert steps[1] == list(range(1, len(steps[1]) + 1))


def records(folder):
    return read_metrics(folder) if (folder / "metrics.jsonl").exists() else []


def wait_for(condition, process, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < end
        time.sleep(0.1)


def test_errors_end_the_command_with_one_sentence_each(tmp_path):
    status, output, errors = command(
        ROOT / "experiments" / "run.py",
        "--config.data.name=cifar11",
        f"--workdir={tmp_path}",
        cwd=tmp_path,
    )
    assert status == cli.USER_ERROR and not output
    assert errors.count("\n") == 1 and "'cifar11'" in errors and "cifar10" in errors
    assert not (tmp_path / "config.json").exists()


def problem_of(*arguments):
    with pytest.raises(ConfigError) as caught:
        config_flag.parse(["run.py", *arguments])
    return "\n".join(caught.value.problems)


def parse(*arguments):
    return config_flag.parse(["run.py", *arguments])


@pytest.mark.parametrize("folder", [ROOT, ROOT / "experiments", ROOT / "tests"])
def test_configurations_are_found_from_anywhere(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for spelling in (["--config=configs/tin50.py"], ["--config", "configs/tin50.py"]):
        choice, rest = parse(*spelling, "--workdir", "x")
        assert choice.name == "tin50" and choice.config.data.name == "tiny_imagenet"
        assert rest == ["run.py", "--workdir", "x"]


def test_a_file_beside_the_user_comes_first(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "tin50.py").write_text(
        "from experiments.configs import base\n"
        "def get_config():\n"
        "  config = base.get_config()\n"
        "  config.seed = 11\n"
        "  return config\n"
    )
    monkeypatch.chdir(tmp_path)
    assert parse("--config=configs/tin50.py")[0].config.seed == 11


def test_default_is_the_digits():
    choice, _ = parse()
    assert choice.name == "digits" and choice.config.data.name == "digits"
    assert parse(SMOKE)[0].name == "digits-smoke"


def test_missing_configuration_names_both_paths_and_similar_files(monkeypatch):
    monkeypatch.chdir(ROOT)
    found = problem_of("--config=configs/tin5.py")
    assert str(ROOT / "configs/tin5.py") in found
    assert str(ROOT / "experiments/configs/tin5.py") in found
    assert "tin50.py" in found and "base.py" not in found


def test_overrides_keep_their_types():
    choice, rest = parse(
        "--config.seed=3",
        SMOKE,
        "--config.matching.learning_rate=2",
        "--config.network_training.learning_rate",
        "3",
        "--config.synthetic.segments=(1,1)",
        "--config.data.classes=2",
        "--config.evaluation.max_steps=None",
        "--config.data.path=12",
        "--noconfig.filter.guard",
    )
    assert rest == ["run.py"]
    assert choice.config.seed == 3
    assert choice.config.matching.learning_rate == 2.0
    assert choice.config.network_training.learning_rate == 3.0
    assert choice.config.synthetic.segments == (1, 1)
    assert choice.config.data.classes == 2 and choice.config.data.path == "12"
    assert choice.config.evaluation.max_steps is None
    assert choice.config.filter.guard is False
    assert choice.overrides["synthetic.segments"] == (1, 1)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.seed=abc", "seed is 'abc'; it must be a whole number."),
        ("--config.seed=1.5", "seed is 1.5; it must be a whole number."),
        (
            "--config.filter.guard=7",
            "filter.guard is 7; it must be True or False.",
        ),
        (
            "--config.data.size=big",
            "data.size is 'big'; it must be a whole number or None.",
        ),
        (
            "--config.matching.learning_rat=1",
            "matching.learning_rat is not an option; the nearest one is "
            "'matching.learning_rate'.",
        ),
        ("--config.filter=3", "filter is a section; its options are filter.enabled,"),
        ("--config=", "--config needs the name of a configuration file."),
        ("--config", "--config needs the name of a configuration file."),
        (
            "--config=configs/digits.py:tiny",
            "'tiny' is not an argument of this configuration; the only one is 'smoke'",
        ),
    ],
)
def test_wrong_arguments(argument, message):
    assert problem_of(argument).startswith(message)


def test_several_wrong_values_are_named_together():
    found = problem_of("--config.filter.networks=0", "--config.method.distance=l3")
    assert len(found.splitlines()) == 2
    assert problem_of("--config.a=1", "--config.b.c=2").count("is not an option") == 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("x = (", ["line 1", "SyntaxError"]),
        ("pass", ["get_config"]),
        ("def get_config():\n  return 3", ["returns a int", "ConfigDict"]),
        (
            "from experiments.configs import base\n\ndef get_config():\n"
            "  config = base.get_config()\n  config.matching.batch_rel = 3\n",
            ["line 5", "batch_real"],
        ),
    ],
)
def test_configuration_files_that_fail(tmp_path, content, words):
    path = tmp_path / "mine.py"
    path.write_text(content)
    found = problem_of(f"--config={path}")
    assert str(path) in found and all(word in found for word in words), found


def test_markdown_table_lines_up():
    assert cli.markdown_table(["a", "bb"], [["ccc", "1"], ["d", "1234"]]) == (
        "| a   |   bb |\n| --- | ---: |\n| ccc |    1 |\n| d   | 1234 |"
    )

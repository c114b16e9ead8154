"""The commands analyze.py and report.py on distilled sets from anywhere."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from d4a_jax.analysis.document import load_analysis
from d4a_jax.artifact import save_distilled
from d4a_jax.data import load_dataset
from d4a_jax.selection.baselines import random_images
from experiments import cli

ROOT = Path(__file__).resolve().parent.parent


def command(script, *arguments):
    """Status, output and error output of a command on one CPU device."""
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run(
        [sys.executable, str(ROOT / "experiments" / script), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture(scope="module")
def analyzed(tmp_path_factory):
    """Two plain sets without a configuration or a run around them, analyzed."""
    folder = tmp_path_factory.mktemp("analyze")
    dataset = load_dataset("digits")
    for seed in (0, 1):
        drawn = random_images(dataset, (1, 1), seed=seed)
        save_distilled(folder / f"set-{seed}", drawn, with_gallery=False)
    flags = (
        f"--artifacts={folder}/set-*",
        "--labels=Mine",
        "--network=convnet:width=4:depth=1",
        "--architectures=convnet:width=4:depth=1:norm=none",
        "--max_steps=3",
        "--full_max_steps=3",
        "--repeats=2",
        "--difficulty_epochs=1",
        "--difficulty_networks=1",
        "--random",
        "--full",
        f"--data_dir={folder}",
        f"--output={folder / 'analysis'}",
    )
    status, output, errors = command("analyze.py", *flags)
    assert status == 0, errors
    return folder, flags, output, errors


def test_plain_sets_are_analyzed(analyzed):
    folder, _, output, errors = analyzed
    analysis = load_analysis(folder / "analysis")
    rows = {row["name"]: row for row in analysis["rows"]}
    assert list(rows) == [
        "Mine, 1 per class",
        "Mine, 2 per class",
        "Random images, 1 per class",
        "Random images, 2 per class",
        "All real images",
    ]
    assert rows["Mine, 2 per class"]["distillations"] == 2
    assert rows["Mine, 2 per class"]["networks"] == 4
    assert len(rows["All real images"]["train_by_segment"]["mean"]) == 10
    assert {entry["label"] for entry in analysis["architectures"]} == {
        "Mine",
        "Random images",
    }
    assert analysis["reference"]["network"] == "convnet:width=4:depth=1"
    assert len(list((folder / "difficulty").glob("*.npz"))) == 1
    assert "9/10" in errors and "minutes on 1 × cpu" in output
    for name in ("accuracy", "difficulty-train", "difficulty-test", "architectures"):
        assert (folder / "analysis" / f"{name}.png").exists()
        assert (folder / "analysis" / f"{name}.csv").exists()


def test_the_same_command_trains_nothing_again(analyzed):
    folder, flags, output, _ = analyzed
    before = json.loads((folder / "analysis" / "analysis.json").read_bytes())
    status, again, errors = command("analyze.py", *flags)
    assert status == 0
    assert "trained" not in errors and errors.count("found") == 10
    table = [line for line in output.splitlines() if line.startswith("|")]
    assert [line for line in again.splitlines() if line.startswith("|")] == table
    assert json.loads((folder / "analysis" / "analysis.json").read_bytes()) == before


def test_a_report_about_a_plain_set(analyzed):
    folder, *_ = analyzed
    status, output, errors = command(
        "report.py",
        f"--workdir={folder / 'set-0'}",
        f"--analysis={folder / 'analysis'}",
        f"--output={folder / 'page'}",
        f"--data_dir={folder}",
    )
    assert status == 0, errors
    assert str(folder / "page" / "report.html") in output
    text = (folder / "page" / "report.html").read_text()
    assert "Matched against (real)" in text
    assert "distillations where a method was distilled several times" in text
    assert (folder / "page" / "report" / "accuracy.csv").exists()


@pytest.mark.parametrize(
    "script, arguments, words",
    [
        ("analyze.py", ["--artifacts={0}/none-*"], "nothing matches"),
        ("analyze.py", ["--artifacts={0}/set-0", "--architectures=vgg"], "vgg11"),
        ("report.py", ["--workdir={0}/none"], "none"),
    ],
)
def test_mistakes_are_named(analyzed, script, arguments, words):
    folder, *_ = analyzed
    arguments = [argument.format(folder) for argument in arguments]
    output = f"--output={folder / 'mistakes'}"
    network = ["--network=convnet:width=4:depth=1"] * (script == "analyze.py")
    data = f"--data_dir={folder}"
    status, _, errors = command(script, *arguments, *network, output, data)
    assert status == cli.USER_ERROR
    assert words in errors and "Traceback" not in errors

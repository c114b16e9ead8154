"""What importing the library costs, and what it must not bring along."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

import d4a_jax

ROOT = Path(__file__).resolve().parent.parent


def modules_after(statement):
    """Names of the modules that are loaded after a statement in a fresh process."""
    code = f"{statement}\nimport sys\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    heavy = {"jax", "flax", "numpy", "orbax", "tensorflow", "tensorflow_datasets"}
    assert not heavy & modules_after("import d4a_jax")


def test_distilling_and_evaluating_need_no_tensorflow():
    names = ", ".join(name for name in d4a_jax.__all__ if name != "__version__")
    statement = (
        f"from d4a_jax import {names}\n"
        "import experiments.run, experiments.evaluate\n"
        "dataset = load_dataset('digits')"
    )
    assert not {"tensorflow", "tensorflow_datasets"} & modules_after(statement)


@pytest.mark.parametrize("name", d4a_jax.__all__)
def test_every_public_name_exists(name):
    assert getattr(d4a_jax, name) is not None
    assert name in dir(d4a_jax)


def test_other_names_do_not():
    with pytest.raises(AttributeError, match="'distil'"):
        d4a_jax.distil


def test_requirements_hold_every_dependency():
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    needed = setup["options"]["install_requires"].split()
    needed += setup["options.extras_require"]["dev"].split()
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    assert set(needed) == {line for line in lines if not line.startswith("#")}

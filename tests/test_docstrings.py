"""The examples of README and of the package's docstrings, run as they stand.

Doctests and all code that uses `d4a_jax` are run. What the code asks for is made small:
its data sets, beyond the digits, are tiny arrays of the same name, and its networks
take a step or two. Lines for other tools are run by `test_readme`.
"""

import ast
import doctest
import importlib
import re
import textwrap
from pathlib import Path

import numpy as np
import pytest

import d4a_jax
from d4a_jax.config import from_dict
from d4a_jax.regularizers import REGULARIZERS

ROOT = Path(__file__).resolve().parent.parent
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts): path
    for path in sorted((ROOT / "d4a_jax").rglob("*.py"))
}
FILES = {name.removesuffix(".__init__"): path for name, path in FILES.items()}

SMALL = {
    "network": "convnet:width=4:depth=1",
    "synthetic": {"images_per_class": 2, "factor": 1},
    "matching": {"outer_iterations": 1, "inner_iterations": 1, "batch_real": 8},
    "network_training": {"images_per_step": 0},
    "difficulty": {"networks": 1, "epochs": 1, "folds": 2},
    "evaluation": {"repeats": 1, "max_steps": 2},
    "runtime": {"devices": 1},
}


def readme_blocks():
    """Python code of README by the section that it stands in."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    sections = re.split(r"^(?=## )", text, flags=re.M)
    return [
        (section.splitlines()[0].strip("# "), code)
        for section in sections
        for code in re.findall(r"^```python\n(.*?)^```", section, re.S | re.M)
    ]


def indented_blocks(docstring):
    """The indented paragraphs of a docstring that are Python and use the package."""
    blocks = re.findall(r"(?:^(?: {4}.*)?\n)+", docstring + "\n", re.M)
    return [code for block in blocks if uses_package(code := textwrap.dedent(block))]


def uses_package(code):
    try:
        ast.parse(code)
    except SyntaxError:
        return False
    return re.search(r"\bd4a_jax\.|\bimport d4a_jax\b", code) is not None


def docstring_blocks():
    """(where it stands, code) of the indented code of all docstrings."""
    found = []
    for module, path in FILES.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node) or ""
                name = getattr(node, "name", "")
                place = f"{module}:{name}".rstrip(":")
                found += [(place, code) for code in indented_blocks(text)]
    return found


BLOCKS = readme_blocks() + docstring_blocks()
WITH_DOCTESTS = [name for name, path in FILES.items() if ">>> " in path.read_text()]


def tiny(name, size=None, classes=None):
    """Noise in ten classes of a data set's name."""
    assert name in d4a_jax.dataset_names() and size is None and classes is None
    draw = np.random.default_rng(0)
    split = lambda n: (
        draw.integers(0, 256, (10 * n, 8, 8, 3), dtype=np.uint8),
        np.tile(np.arange(10), n),
    )
    return d4a_jax.from_arrays(name, *split(12), *split(2))


def small(config):
    """The configuration with networks and steps of `SMALL`."""
    values = config.to_dict()
    for name, changes in SMALL.items():
        is_section = isinstance(changes, dict)
        values[name] = values[name] | changes if is_section else changes
    values["synthetic"]["segments"] = min(2, values["synthetic"]["segments"])
    return from_dict(values)


@pytest.fixture
def small_size(tmp_path, monkeypatch):
    """A folder to work in, where data sets and configurations are small."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("D4A_DATA_DIR", str(tmp_path / "data"))
    load, make = d4a_jax.load_dataset, d4a_jax.default_config
    read = d4a_jax.config_from_dict
    choose = lambda name, **options: (load if name == "digits" else tiny)(
        name, **options
    )
    default = lambda dataset: small(make(dataset))
    monkeypatch.setattr(d4a_jax, "load_dataset", choose)
    monkeypatch.setattr(d4a_jax, "config_from_dict", lambda x: small(read(x)))
    monkeypatch.setattr(REGULARIZERS, "_parts", dict(REGULARIZERS._parts))
    # Functions that get no configuration take this one.
    for module in ("d4a_jax", "d4a_jax.difficulty", "d4a_jax.distillation.loop"):
        monkeypatch.setattr(f"{module}.default_config", default)
    return tmp_path


def test_all_examples_are_found():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    count = text.count("```python")
    assert [place for place, _ in BLOCKS][:count] == ["Your own method"]
    assert {"d4a_jax", "d4a_jax.registry"} <= {place for place, _ in BLOCKS}
    assert "d4a_jax.flips" in WITH_DOCTESTS
    # An example without a prompt would be run by nothing.
    for name, path in FILES.items():
        for rest in re.split(r"^ *Examples?:\n", path.read_text(), flags=re.M)[1:]:
            assert rest.lstrip().startswith(">>> "), name


@pytest.mark.parametrize("place, code", BLOCKS, ids=[place for place, _ in BLOCKS])
def test_the_code_runs(place, code, small_size, capsys):
    found = {}
    exec(compile(code, place, "exec"), found)
    if "print(d4a_jax.evaluate" in code:
        assert "Evaluation(network='convnet" in capsys.readouterr().out
    if "mine" in found:
        assert REGULARIZERS["mine"](2.0).weight == 1.0
    if "distilled" in found:
        workdir = re.search(r'"(runs/\w+)"', code)[1]
        kept = d4a_jax.load_distilled(small_size / workdir / "distilled")
        np.testing.assert_array_equal(kept.images, found["distilled"].images)
        assert kept.num_classes == 10


@pytest.mark.parametrize("name", WITH_DOCTESTS)
def test_the_doctests_of_a_module_hold(name):
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted and not result.failed


def test_code_that_is_wrong_is_noticed(small_size):
    """Of the package's docstring as it was: flips of digits are refused."""
    dataset = d4a_jax.load_dataset("digits")
    config = d4a_jax.config_from_dict({"synthetic": {"images_per_class": 2}})
    with pytest.raises(d4a_jax.ConfigError, match="without 'flip'"):
        d4a_jax.distill(dataset, config, "runs/mine")
    assert not (small_size / "runs").exists()

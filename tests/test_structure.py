"""The structure that the folders promise: no circles, no method outside its room."""

import ast
from pathlib import Path

import d4a_jax
from d4a_jax.config.renamed import SURROGATES
from d4a_jax.methods import METHODS

ROOT = Path(d4a_jax.__file__).resolve().parent


def modules():
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT), ast.parse(path.read_text(encoding="utf-8"))


def imported(tree):
    """Packages and modules at the top of the library that a module needs at once."""
    for node in tree.body:
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "d4a_jax" and len(parts) > 1:
                yield parts[1]


def test_packages_import_in_one_direction():
    needs = {}
    for path, tree in modules():
        own = path.parts[0].removesuffix(".py")
        needs.setdefault(own, set()).update(set(imported(tree)) - {own})
    del needs["__init__"]
    order = []
    while needs:
        free = sorted(name for name, others in needs.items() if not others & {*needs})
        assert free, f"these import each other: {sorted(needs)}"
        order += free
        needs = {name: others for name, others in needs.items() if name not in free}
    # The science is below the configuration and the loop, and knows neither.
    place = order.index
    assert place("methods") < place("config") < place("distillation")
    assert place("regularizers") < place("methods") and place("filters") < place("config")


def test_no_method_is_named_outside_its_room():
    """Only `renamed` knows the names, because old files have others."""
    names = {*METHODS, *SURROGATES} - {"gradient", "distribution", "trajectory"}
    found = [
        (str(path), node.value)
        for path, tree in modules()
        if path.parts[0] != "methods" and path.name != "renamed.py"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in names
    ]
    assert not found


def test_the_science_knows_no_devices():
    """Only types and gathers of real images are shared with the layout."""
    for path, tree in modules():
        if path.parts[0] in ("methods", "matching", "augment", "networks"):
            assert "devices" not in {*imported(tree)}, path

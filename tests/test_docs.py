"""The pages of the site, checked without building it; `.ci/run` builds it."""

import importlib
import importlib.util
import inspect
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import d4a_jax
from d4a_jax.config import Config
from d4a_jax.methods import METHODS
from d4a_jax.regularizers import Constants

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def read(page):
    return (DOCS / page).read_text(encoding="utf-8")


def toctree_entries(text):
    """The pages that the tables of contents of a page name."""
    trees = re.findall(r"```\{toctree\}\n(.*?)```", text, re.S)
    lines = "\n".join(trees).splitlines()
    return [line.strip() for line in lines if line.strip() and line[0] != ":"]


def terms():
    """The words of the glossary and their definitions, in the order of the page."""
    text = read("glossary.md").split("```{glossary}\n")[1].split("```")[0]
    return re.findall(r"^(\w[^\n]*)\n((?:  [^\n]+\n)+)", text, re.M)


def test_every_page_is_linked_once_from_the_first_page():
    entries = toctree_entries(read("index.md"))
    assert sorted(entries) == sorted({p.stem for p in PAGES} - {"index"})


def test_the_readme_names_every_written_page():
    """All but those that the site alone can show, which README counts up."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)]+)\)", text)
    assert all((ROOT / link).is_file() for link in links)
    generated = {"api", "changelog", "configuration", "glossary", "index", "results"}
    linked = {Path(link).stem for link in links if link.startswith("docs/")}
    assert linked == {page.stem for page in PAGES} - generated


def test_links_between_pages_lead_somewhere():
    for page in PAGES:
        for name in re.findall(r"\{doc\}`([^`]+)`", page.read_text(encoding="utf-8")):
            assert (DOCS / f"{name}.md").is_file(), (page.name, name)


def test_references_to_the_code_lead_somewhere():
    """Sphinx would leave a reference without a target as plain text."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for kind, target in re.findall(r"\{py:(\w+)\}`(?:[^`<]*<)?([\w.]+)>?`", text):
            where = (page.name, target)
            if kind == "mod":
                assert importlib.util.find_spec(target), where
            else:
                module, _, name = target.rpartition(".")
                assert hasattr(importlib.import_module(module), name), where
        for target in re.findall(r"automodule:: ([\w.]+)", text):
            assert importlib.util.find_spec(target), (page.name, target)


def test_every_public_name_stands_on_the_reference_where_it_is_defined():
    rows = re.findall(r"`d4a_jax\.(\w+)(?: <([\w.]+)>)?` \|", read("api.md"))
    names = [name for name, _ in rows]
    assert sorted(names) == sorted(d4a_jax.__all__)
    assert names == sorted(names)
    for name, target in rows:
        part = getattr(d4a_jax, name)
        if not inspect.ismodule(part) and name != "__version__":
            assert target == f"{part.__module__}.{part.__qualname__}"


def test_glossary_words_are_unique_sorted_and_in_a_module():
    found = terms()
    words = [word for word, _ in found]
    assert len(words) > 50
    assert words == sorted(words)
    assert len({word.lower().rstrip("s") for word in words}) == len(words)
    for word, definition in found:
        assert re.search(r"\{py:mod\}`d4a_jax[\w.]+`\.\n$", definition), word


@pytest.fixture
def extension(monkeypatch):
    """The extension that writes the reference of the configuration."""
    pytest.importorskip("sphinx", reason="the site is built with Sphinx")
    monkeypatch.syspath_prepend(DOCS / "_ext")
    return importlib.import_module("options_reference")


def test_the_reference_has_every_option_with_its_default_and_range(extension):
    text = "\n".join(extension.reference())
    options = set(re.findall(r"^\| `([\w.]+)` \|", text, re.M))
    expected = set()
    for section, values in Config().to_dict().items():
        if section != "method":
            own = values if isinstance(values, dict) else None
            expected |= {f"{section}.{name}" for name in own} if own else {section}
    for name in METHODS:
        expected |= {f"method.{option}" for option in vars(METHODS[name]())}
    assert options == expected
    factor = "| `synthetic.factor` | `2` | whole number; at least 1 and at most 8 |"
    assert factor in text
    assert "| `experts.storage_dtype` | `'float32'` | `float32`, `bfloat16` |" in text
    rate = "| `matching.learning_rate` | `0.005` | number, None; above 0 |"
    assert rate in text


def test_the_page_on_own_parts_runs(tmp_path, monkeypatch):
    """Its blocks are one file, as it says: parts are found again in their module."""
    text = read("own-parts.md")
    blocks = re.findall(r"<!-- run -->\n```python\n(.*?)```", text, re.S)
    assert len(blocks) == 5
    (tmp_path / "own_parts_page.py").write_text("\n\n".join(blocks), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    page = importlib.import_module("own_parts_page")
    try:
        config = page.distilled.metadata["config"]
        assert config["method"] == {
            "name": "own_parts_page:MeanFeatures",
            "power": 2.0,
        }
        assert config["network"] == "own_parts_page:TwoLayers:width=8"
        assert config["parts"].keys() == {"rule", "optimizer"}
        assert page.images.shape == (80, 8, 8, 1)
        gradient, previous = (np.full(3, 2.0),), (np.ones(3),)
        constants = Constants(None, previous_share=0.5, previous=previous)
        assert page.same_length().term(gradient, constants) == 81.0
    finally:
        del sys.modules["own_parts_page"]

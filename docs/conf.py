"""Builds the site: `python -m sphinx -W --keep-going -b html docs build/docs`.

The pages are Markdown. Docstrings give the API reference, and the dataclasses of the
configuration its reference (`_ext/options_reference.py`). No network is needed.
"""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(_ROOT), str(_ROOT / "docs" / "_ext")]

import d4a_jax  # noqa: E402

project = "D4A-JAX"
author = "The D4A-JAX authors"
release = version = d4a_jax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "docstrings",
    "options_reference",
]
exclude_patterns = ["_ext", "api/modules.rst"]

html_theme = "furo"
html_title = f"D4A-JAX {version}"

# Single backticks in docstrings name objects, or mark other code.
default_role = "py:obj"

# One page for each package, written to `api/` before every build.
apidoc_modules = [
    {
        "path": "../d4a_jax",
        "destination": "api",
        "module_first": True,
        "automodule_options": {"members", "show-inheritance"},
    }
]
# A page documents an object where it is defined, not where it is imported.
autodoc_default_options = {"ignore-module-all": True}
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

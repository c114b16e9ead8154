"""`analysis.json`: the figures of a study as plain values."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

_FORMAT = "d4a_jax.analysis"
SCHEMA_VERSION = 1


def make_document(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as values that JSON has, marked with the format; NaN becomes None."""
    return {"format": _FORMAT, "schema_version": SCHEMA_VERSION} | _plain(dict(figures))


def load_analysis(directory: str | Path) -> dict[str, Any]:
    """Reads `analysis.json`.

    Args:
      directory: where it lies, or the file itself.

    Raises:
      ValueError: there is none, or it is something else.
    """
    path = Path(directory)
    path = path / "analysis.json" if path.is_dir() else path
    try:
        document = json.loads(path.read_bytes())
        known = document["format"] == _FORMAT
        known = known and document["schema_version"] == SCHEMA_VERSION
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no analysis that can be read: {error}.") from error
    if not known:
        raise ValueError(f"{path} is no analysis of schema version {SCHEMA_VERSION}.")
    return document


def _plain(value):
    """JSON's types; NaN becomes None."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray):
        return _plain(value.tolist())
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value

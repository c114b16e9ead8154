"""What a result may depend on besides its configuration: software and devices."""

import contextlib
import importlib.metadata
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import jax

from d4a_jax import __version__

_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "numpy",
    "tensorflow-datasets",
    "pillow",
)


def environment() -> dict[str, Any]:
    """What a result may depend on besides its configuration: software and devices."""
    return {
        "versions": _versions(),
        "devices": [f"{d.platform}: {d.device_kind}" for d in jax.devices()],
        "processes": jax.process_count(),
        "git_revision": _git_revision(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "d4a_jax": __version__}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _git_revision() -> str | None:
    """The commit of this library's checkout, `-dirty` where it was edited since."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    describe = ["describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        result = subprocess.run(
            ["git", "-C", str(root), *describe],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()

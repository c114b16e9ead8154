"""What all tests share: eight CPU devices, quick compilation and the data folders."""

import os
from pathlib import Path

# All must be known before JAX is imported, which the first test module does.
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
_CACHE = Path(__file__).resolve().parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")

# The tests compile much and compute little: unoptimized programs halve their time.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import pytest  # noqa: E402


@pytest.fixture(scope="session")
def manual_dir() -> Path:
    """Folder with real archives; tests that need one skip where there is none."""
    path = os.environ.get("D4A_MANUAL_DIR")
    if not path or not Path(path).is_dir():
        pytest.skip("D4A_MANUAL_DIR does not name a folder with data sets")
    return Path(path)


# The longest first, so that no worker is left alone with one of them at the end.
_LONGEST = (
    "test_configs",
    "test_faults",
    "test_processes",
    "test_notebooks",
    "test_distillation",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keeps a module's tests, which share fixtures, on one worker of pytest-xdist.

    Tests with an `xdist_group` of their own go anywhere.
    """
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
    for item in items:
        if not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))

"""What fits on a device: the images of a data set, items that are worked on at once."""

import math
import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var
from jax.sharding import Mesh

from d4a_jax.devices.processes import any_of

# Images may take a quarter of a device. Items that are worked on at once may take a
# third by `peak_bytes`, which leaves out what compilers add: layouts with padding and
# copies made programs up to twice as large.
_SHARE_OF_IMAGES = 1 / 4
SHARE_OF_ITEMS = 1 / 3


def device_memory(mesh: Mesh) -> float:
    """Bytes of a device; devices on the CPU share those of the host."""
    local = mesh.local_devices
    stats = local[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"]
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return math.inf  # Unknown, as on Windows: everything is held to fit.
    return whole / len(local)


def exceeds_memory(mesh: Mesh, size: int, budget_gb: float | None) -> bool:
    """Whether images are too large for each device, the same in all processes.

    Args:
      mesh: the devices.
      size: bytes on a device.
      budget_gb: what images may take there, in 1e9 bytes; None for a quarter of its
        memory, which leaves room for networks and batches.
    """
    whole = device_memory(mesh) * _SHARE_OF_IMAGES
    return any_of(size > (whole if budget_gb is None else budget_gb * 1e9))[0]


def memory_for_items(mesh: Mesh) -> float:
    """Bytes that items may take by `peak_bytes` that a device works on at once."""
    return device_memory(mesh) * SHARE_OF_ITEMS


def items_that_fit(
    function: Callable[[jax.Array], Any], count: int, memory: float
) -> int:
    """How many of some items can be worked on at once, at least one.

    Args:
      function: of the indices `[m]` of m items; pure, and only traced here.
      count: number of items.
      memory: bytes, see `memory_for_items`.
    """
    if count == 1 or math.isinf(memory):
        return count
    two = jax.make_jaxpr(function)(jnp.arange(2))
    return max(1, min(count, int(2 * memory // max(1, peak_bytes(two)))))


def peak_bytes(program: ClosedJaxpr | Jaxpr) -> int:
    """Most bytes that a program's own arrays take at a time, in the order it is written.

    Arguments and constants are left out. Compilers fuse, which takes less, and pad and
    copy, which takes more.
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    last = {}
    for number, equation in enumerate(jaxpr.eqns):
        last |= {v: number for v in equation.invars if not isinstance(v, Literal)}
    last |= {v: len(jaxpr.eqns) for v in jaxpr.outvars if not isinstance(v, Literal)}
    living, peak = {}, 0
    for number, equation in enumerate(jaxpr.eqns):
        living |= {v: array_bytes(v) for v in equation.outvars}
        inside = max(map(peak_bytes, nested_programs(equation)), default=0)
        peak = max(peak, sum(living.values()) + inside)
        living = {v: size for v, size in living.items() if last.get(v, -1) > number}
    return peak


def nested_programs(equation: JaxprEqn) -> list[ClosedJaxpr | Jaxpr]:
    """The programs inside an equation: branches, bodies of loops, called functions."""
    leaves = jax.tree.leaves(equation.params)
    return [leaf for leaf in leaves if isinstance(leaf, (ClosedJaxpr, Jaxpr))]


def array_bytes(variable: Var) -> int:
    """Bytes of the array that a variable of a program stands for."""
    return variable.aval.size * variable.aval.dtype.itemsize

"""What the device can do: the speed of a large matrix product and of a large copy."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from experiments.benchmark.cases import Scale

# Products or copies of a call: the device's queue stays filled.
_IN_A_CALL = 2


class Ceilings:
    """The calls that measure them, to be timed together with the programs.

    Attributes:
      matmul: name of the product in the networks' precision.
      calls: name -> function that works and waits.
      amounts: name -> FLOPs (`matmul ...`) or bytes (`copy`) of a call.
    """

    def __init__(self, scale: Scale, compute_dtype: str):
        self.matmul = f"matmul {compute_dtype}"
        self.calls: dict[str, Callable[[], None]] = {}
        self.amounts: dict[str, int] = {}
        kinds = {self.matmul: (compute_dtype, None)}
        if jax.default_backend() != "cpu":
            # Products of float32 arrays are rounded to TF32 unless told otherwise.
            kinds["matmul float32"] = ("float32", None)
            kinds["matmul float32 (highest precision)"] = ("float32", "highest")
            kinds["matmul bfloat16"] = ("bfloat16", None)
        for name, (dtype, precision) in kinds.items():
            self.calls[name] = _matmul_call(scale.matmul_side, dtype, precision)
            self.amounts[name] = _IN_A_CALL * 2 * scale.matmul_side**3
        self.calls["copy"] = _copy_call(scale.copy_floats)
        self.amounts["copy"] = _IN_A_CALL * 2 * 4 * scale.copy_floats
        for call in self.calls.values():
            call()

    def speeds(self, seconds: dict[str, float]) -> dict[str, float]:
        """FLOP/s and B/s from the times of the calls."""
        return {name: self.amounts[name] / seconds[name] for name in self.calls}


def _matmul_call(side, dtype, precision):
    left, right = jax.random.normal(jax.random.key(0), (2, side, side), dtype)
    # Keeps the size of the entries from product to product.
    right = right * jnp.asarray(side**-0.5, dtype)
    product = jax.jit(functools.partial(jnp.dot, precision=precision))

    def call():
        result = left
        for _ in range(_IN_A_CALL):
            result = product(result, right)
        jax.block_until_ready(result)

    return call


def _copy_call(length):
    array = jnp.zeros(length)
    # In place: a new array would be paid for twice on a host, page by page.
    advance = jax.jit(lambda x: x + 1, donate_argnums=0)

    def call():
        nonlocal array
        for _ in range(_IN_A_CALL):
            array = advance(array)
        jax.block_until_ready(array)

    return call

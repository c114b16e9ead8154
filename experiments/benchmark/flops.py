"""Work of a program, counted from the shapes in its jaxpr.

XLA's own analysis counts the body of a loop once, whatever its number of turns. Here a
loop counts as often as it turns, and only what a roofline needs is counted:

* FLOPs: two for every multiplication with an addition in convolutions and matrix
  products, the multiplications by padding included and those by the zeros that a
  dilated input has between its pixels left out. Norms, activations, augmentation,
  distances and optimizers are not counted.
* Bytes: every array that convolutions and matrix products read is moved once in each
  execution of the loop body it stands in, in whatever slices they read it, and what
  they write is moved once. Everything between them counts as fused. No program moves
  less; all move more.
"""

import math
from typing import NamedTuple

from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal, Var

from d4a_jax.devices.memory import array_bytes, nested_programs

# These rearrange or copy the elements of their first operand.
_REARRANGING = {
    "broadcast_in_dim",
    "convert_element_type",
    "copy",
    "dynamic_slice",
    "pad",
    "reshape",
    "rev",
    "slice",
    "squeeze",
    "transpose",
}


class Work(NamedTuple):
    """FLOPs and bytes, as described above."""

    flops: int = 0
    bytes: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.flops + other.flops, self.bytes + other.bytes)

    def times(self, count: int) -> "Work":
        """The work of `count` executions."""
        return Work(self.flops * count, self.bytes * count)


def count(program: ClosedJaxpr | Jaxpr, while_turns: int | None = None) -> Work:
    """Counts the work of one execution of a program.

    Args:
      program: from `jax.make_jaxpr(function)(*arguments)` or `Traced.jaxpr`.
      while_turns: turns of every while loop with work in it. Only the caller knows
        them: a jaxpr holds the number of turns of a scan, not of a while loop.

    Returns:
      The work; of several branches, that of the one with most FLOPs.

    Raises:
      ValueError: a while loop has work in it and its turns are not given.
    """
    jaxpr = program.jaxpr if isinstance(program, ClosedJaxpr) else program
    origins: dict[Var, Var] = {}
    read: dict[Var, int] = {}
    total = Work()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in _REARRANGING:
            source = equation.invars[0]
            if not isinstance(source, Literal):
                origins[equation.outvars[0]] = origins.get(source, source)
        elif name in _FLOPS:
            total += Work(_FLOPS[name](equation), array_bytes(equation.outvars[0]))
            operands = (v for v in equation.invars[:2] if not isinstance(v, Literal))
            for origin in (origins.get(v, v) for v in operands):
                read[origin] = array_bytes(origin)
        else:
            total += _nested(equation, while_turns)
    return total + Work(0, sum(read.values()))


def _nested(equation: JaxprEqn, while_turns: int | None) -> Work:
    """Work of the programs inside an equation."""
    name, params = equation.primitive.name, equation.params
    parts = [count(program, while_turns) for program in nested_programs(equation)]
    if name == "cond":
        return max(parts, key=lambda work: work.flops)
    work = sum(parts, Work())
    if name == "scan":
        return work.times(params["length"])
    if name == "shard_map":
        return work.times(params["mesh"].size)
    if name == "while" and work.flops:
        if while_turns is None:
            raise ValueError("the program has a while loop of unknown length.")
        return work.times(while_turns)
    return work


def _convolution_flops(equation: JaxprEqn) -> int:
    params = equation.params
    kernel, spec = equation.invars[1].aval.shape, params["dimension_numbers"].rhs_spec
    # The kernel's second dimension holds the input channels of one group.
    taps = math.prod(kernel[dimension] for dimension in spec[1:])
    skipped = math.prod(params["lhs_dilation"])
    return 2 * equation.outvars[0].aval.size * taps // skipped


def _conv2d_flops(equation: JaxprEqn) -> int:
    """Of `d4a_jax.convolution.conv2d`."""
    kernel = equation.invars[1].aval.shape
    return 2 * equation.outvars[0].aval.size * math.prod(kernel[:3])


def _input_gradient_flops(equation: JaxprEqn) -> int:
    """Of its input gradient, which sums over the other channels."""
    kernel, stride = equation.invars[1].aval.shape, equation.params["stride"]
    taps = math.prod(kernel[:2]) * kernel[3]
    return 2 * equation.outvars[0].aval.size * taps // stride**2


def _kernel_gradient_flops(equation: JaxprEqn) -> int:
    """Of its kernel gradient, which sums over images and places."""
    places = math.prod(equation.invars[1].aval.shape[:3])
    return 2 * equation.outvars[0].aval.size * places


def _product_flops(equation: JaxprEqn) -> int:
    (contracted, _), _ = equation.params["dimension_numbers"]
    shape = equation.invars[0].aval.shape
    length = math.prod(shape[dimension] for dimension in contracted)
    return 2 * equation.outvars[0].aval.size * length


_FLOPS = {
    "conv2d": _conv2d_flops,
    "conv2d_input_gradient": _input_gradient_flops,
    "conv2d_kernel_gradient": _kernel_gradient_flops,
    "conv_general_dilated": _convolution_flops,
    "dot_general": _product_flops,
}

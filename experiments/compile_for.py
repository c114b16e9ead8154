"""Compiles the inner loop for a device that is not here: what it needs and moves.

    python experiments/compile_for.py --target=h100 --cases=cifar10_ipc10
    python experiments/compile_for.py --target=v5e --devices=4 --cases=tiny_imagenet_ipc10

For settings of the literature (those of `bench.py`): the memory of a matching step on
all classes by the compiler's account; for GPUs the kernels that a step launches, the
bytes between them, and the time that these take at the full bandwidth; the same of an
iteration, which trains the network as well. Nothing is run. The device's compiler
must be installed, by `pip install 'jax[cuda12]'` or `'jax[tpu]'`; neither needs the
device.
"""

import dataclasses
import functools
import os
import sys
import time
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

# There is no device to choose the fastest matrix product on, and none to be asked.
os.environ["XLA_FLAGS"] = " ".join(
    (
        os.environ.get("XLA_FLAGS", ""),
        "--xla_gpu_autotune_level=0 --xla_gpu_enable_triton_gemm=false",
    )
)
os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from absl import app, flags  # noqa: E402
from jax.sharding import Mesh, NamedSharding  # noqa: E402
from jax.sharding import PartitionSpec as P  # noqa: E402

from d4a_jax.config import Config, ConfigError  # noqa: E402
from d4a_jax.devices.memory import SHARE_OF_ITEMS  # noqa: E402
from d4a_jax.devices.parallel import AXIS, Layout  # noqa: E402
from d4a_jax.distillation.run import Run, prepare  # noqa: E402
from d4a_jax.distillation.run_state import (  # noqa: E402
    empty_state,
    segment_key,
    segment_task,
)
from d4a_jax.metrics.journal import Journal  # noqa: E402
from experiments import cli  # noqa: E402
from experiments.benchmark import cases, kernels  # noqa: E402
from experiments.benchmark.targets import TARGETS, Target, mesh_of  # noqa: E402

_TARGET = flags.DEFINE_enum("target", "h100", list(TARGETS), "Kind of device.")
_DEVICES = flags.DEFINE_integer("devices", 1, "How many of them.", 1)
_CASES = flags.DEFINE_list(
    "cases", ["cifar10_ipc10"], f"Of {', '.join(cases.CASES)}.", **cli.SHARED
)
_CHUNK = flags.DEFINE_integer(
    "class_chunk", 0, "Classes at once; 0 for as many as fit.", 0, **cli.SHARED
)
_DTYPE = flags.DEFINE_enum(
    "compute_dtype",
    "float32",
    ["float32", "bfloat16"],
    "Inside the networks.",
    **cli.SHARED,
)

# Real images of each class: what a step draws; all of them change no program.
_REAL_PER_CLASS = 64

_HEADER = [
    "case",
    "program",
    "memory (GB)",
    "kernels",
    "moved (GB)",
    "ms at full bandwidth",
    "compilation (s)",
]


def lowered(run: Run, config: Config, layout: Layout) -> jax.stages.Lowered:
    """One step of a run with another configuration and layout, by its shapes alone."""
    size = config.segment_sizes[0]
    state = empty_state(run)
    key, task = segment_key(run, state), segment_task(run, state)
    segment = jax.eval_shape(run.programs(size, False)[0], key, task)
    there = dataclasses.replace(run, config=config, layout=layout)
    advance = there.programs(size, False)[1]
    copied = functools.partial(_elsewhere, layout, None)
    spread = functools.partial(_elsewhere, layout, len(task.previous))
    state = segment._replace(
        params=spread(segment.params),
        opt_state=spread(segment.opt_state),
        method=copied(segment.method),
    )
    key, first = copied((key, jnp.int32(1)))
    return advance.lower(key, first, steps=1, state=state, task=spread(task))


def _elsewhere(layout: Layout, classes: int | None, tree):
    """Shapes of arrays on the devices of a layout; those of all classes are spread."""

    def one(array):
        shape, dtype, spec = jnp.shape(array), jnp.result_type(array), P()
        if shape[:1] == (classes,):
            shape, spec = (layout.padded(classes), *shape[1:]), P(AXIS)
        sharding = NamedSharding(layout.mesh, spec)
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    return jax.tree.map(one, tree)


def rows_of(
    case: cases.Case, target: Target, mesh: Mesh, compute_dtype: str, class_chunk: int
) -> list[list[str]]:
    """Table rows of a case: the matching step and the whole iteration."""
    case = case._replace(real_per_class=_REAL_PER_CLASS)
    scale = cases.ON_ACCELERATOR
    config = cases.configuration(case, scale, compute_dtype, class_chunk)
    layout = Layout(mesh, class_chunk, target.memory * SHARE_OF_ITEMS)
    run = prepare(config, cases.random_images(case), Journal(None, speaks=False), None)
    training = dataclasses.replace(config.network_training, images_per_step=0)
    matching = dataclasses.replace(config, network_training=training)
    rows = []
    for name, chosen in (("matching", matching), ("iteration", config)):
        program = lowered(run, chosen, layout)
        begun = time.perf_counter()
        compiled = program.compile()
        seconds = time.perf_counter() - begun
        memory = compiled.memory_analysis().temp_size_in_bytes
        counted = _counted(compiled, target.bandwidth)
        figures = [f"{memory / 1e9:.2f}", *counted, f"{seconds:.0f}"]
        rows.append([case.title, name, *figures])
    return rows


def _counted(compiled: jax.stages.Compiled, bandwidth: float | None) -> list[str]:
    if bandwidth is None:
        return ["-"] * 3
    moved = kernels.count(compiled.as_text())
    milliseconds = 1e3 * moved.bytes / bandwidth
    return [f"{moved.kernels:,}", f"{moved.bytes / 1e9:.1f}", f"{milliseconds:.1f}"]


def _mesh(target: Target) -> Mesh:
    try:
        return mesh_of(target, _DEVICES.value)
    except ValueError as error:
        raise ConfigError([str(error)]) from None
    except RuntimeError as error:
        sentence = (
            f"--target={_TARGET.value}: no compiler for it answers ({error}); it comes "
            f"with pip install '{target.package}'."
        )
        raise ConfigError([sentence]) from None


def main(unused_argv) -> None:
    """Runs the command."""
    cli.set_up_logging()
    with cli.plain_user_errors():
        target, rows = TARGETS[_TARGET.value], []
        chosen = cases.find(_CASES.value)
        mesh = _mesh(target)
        for case in chosen:
            rows.extend(rows_of(case, target, mesh, _DTYPE.value, _CHUNK.value))
        print(cli.markdown_table(_HEADER, rows))


def _parse(argv):
    with cli.plain_user_errors():
        cli.parse_flags(argv)


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

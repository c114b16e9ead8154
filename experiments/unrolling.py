"""Measures memory and time of a student's steps in trajectory matching.

    python experiments/unrolling.py --config=configs/cifar10_mtt.py --steps=10,20,40

For each number of steps: the scratch memory of the compiled pixel gradient (from the
compiler's own account), as the library computes it and by reverse-mode differentiation
of the whole loop, which keeps every activation as the published code does; and, with
`--repeats`, the time of the first one. Images and experts are random.
"""

import functools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import optax  # noqa: E402
from absl import app, flags  # noqa: E402

from d4a_jax.augment import siamese_augment  # noqa: E402
from d4a_jax.config import Config  # noqa: E402
from d4a_jax.matching import Unrolled, trajectory_loss, unroll  # noqa: E402
from d4a_jax.networks import Network, create_network  # noqa: E402
from experiments import cli, config_flag  # noqa: E402

_STEPS = flags.DEFINE_list("steps", ["10", "20", "40"], "Numbers of student steps.")
_SIDE = flags.DEFINE_integer("side", 32, "Height and width of the images.", 4)
_CLASSES = flags.DEFINE_integer("classes", 10, "Number of classes.", 2)
_REPEATS = flags.DEFINE_integer("repeats", 0, "Timed gradients; 0 only compiles.", 0)

Gradient = Callable[..., Unrolled]


def whole_loop(step_loss, start, target, step_size, images, rows) -> Unrolled:
    """What `unroll` returns, by reverse-mode differentiation of the whole loop."""

    def loss(images, step_size):
        def one(params, step):
            index, chosen = step
            gradient = jax.grad(step_loss)(params, images[chosen], index)
            return optax.tree.add_scale(params, -step_size, gradient), None

        end, _ = jax.lax.scan(one, start, (jnp.arange(len(rows)), rows))
        return trajectory_loss(end, start, target)

    value, gradients = jax.value_and_grad(loss, (0, 1))(images, step_size)
    return Unrolled(value, *gradients)


def program(method: Gradient, network: Network, config: Config) -> Callable:
    """A student's gradient as a function of arrays alone."""

    def gradient(start, target, images, labels, rows):
        def step_loss(params, batch, index):
            key = jax.random.fold_in(jax.random.key(0), index)
            strategy = config.matching.augmentation
            batch = siamese_augment(key, batch, strategy, shared=False)
            logits, _ = network.apply({"params": params}, batch, True)
            losses = optax.softmax_cross_entropy_with_integer_labels(
                logits, labels[rows[index]]
            )
            return jnp.mean(losses)

        size = jnp.float32(config.method.step_size)
        return method(step_loss, start, target, size, images, rows)

    return jax.jit(gradient)


def arguments(network: Network, config: Config, steps: int, side: int):
    """Random experts and images, and batches that visit the images in turn."""
    keys = jax.random.split(jax.random.key(1), 3)
    start, target = (network.init(key)["params"] for key in keys[:2])
    count = network.num_classes * config.synthetic.images_per_class
    images = jax.random.normal(keys[2], (count, side, side, 3))
    size = min(config.method.batch_syn or count, count)
    rows = jnp.arange(steps * size).reshape(steps, size) % count
    return start, target, images, jnp.arange(count) % network.num_classes, rows


def measure(config: Config, steps: int, side: int, classes: int, repeats: int):
    """Megabytes of both ways, and seconds of the library's (None if not timed)."""
    dtype = jnp.dtype(config.runtime.compute_dtype)
    network = create_network(config.network, classes, (side, side, 3), dtype)
    build = functools.partial(arguments, network, config, steps, side)
    shapes = jax.eval_shape(build)
    compiled = {
        method: program(method, network, config).lower(*shapes).compile()
        for method in (unroll, whole_loop)
    }
    sizes = [c.memory_analysis().temp_size_in_bytes / 1e6 for c in compiled.values()]
    times = []
    values = build() if repeats else ()
    for _ in range(repeats and repeats + 1):
        begun = time.perf_counter()
        jax.block_until_ready(compiled[unroll](*values))
        times.append(time.perf_counter() - begun)
    return (*sizes, statistics.median(times[1:]) if repeats else None)


def table(config: Config, steps: list[int], *size: int) -> str:
    """Measures all numbers of steps; a Markdown table."""
    header = ["student steps", "MB", "MB, whole loop", "seconds"]
    rows = []
    for number in steps:
        ours, whole, seconds = measure(config, number, *size)
        shown = f"{seconds:.2f}" if seconds is not None else "-"
        rows.append([str(number), f"{ours:,.0f}", f"{whole:,.0f}", shown])
    return cli.markdown_table(header, rows)


def main(choice: config_flag.Choice) -> None:
    """Runs the command."""
    cli.set_up_logging()
    cli.keep_compiled_programs()
    steps = [int(number) for number in _STEPS.value]
    size = (_SIDE.value, _CLASSES.value, _REPEATS.value)
    print(table(choice.config, steps, *size))


if __name__ == "__main__":
    app.run(main, flags_parser=config_flag.parse_all)

"""Curves of the cost: what is varied, how a point is measured, and their plot."""

import dataclasses
import os
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from d4a_jax import filters
from d4a_jax.config import from_dict
from d4a_jax.devices.streaming import HostReader
from d4a_jax.distillation.run import Run, prepare
from d4a_jax.distillation.run_state import (
    begin_segment,
    empty_state,
    segment_key,
    segment_task,
)
from d4a_jax.ensemble import TrainingImages, everything
from d4a_jax.log import logger
from d4a_jax.metrics.journal import Journal
from experiments.benchmark.cases import Case, random_images
from experiments.benchmark.measure import in_turns, program_memory


class Scale(NamedTuple):
    """How large the points are.

    Attributes:
      network: specification.
      side: height and width of the images.
      classes: where they are not varied.
      real_per_class: the same of real images.
      batch_real: real images of a class and step.
      segment: images per class of a segment.
      steps: matching steps of a timed call; SGD steps of an evaluation.
      growth: factors of what is varied.
    """

    network: str
    side: int
    classes: int
    real_per_class: int
    batch_real: int
    segment: int
    steps: int
    growth: tuple[int, ...]


ON_CPU = Scale("convnet:width=16:depth=1", 16, 2, 64, 16, 2, 2, (1, 2, 4))
ON_ACCELERATOR = Scale("convnet", 32, 10, 500, 64, 10, 20, (1, 2, 4, 8))

# What takes long to compile and belongs to no curve.
_PLAIN = {"augmentation": "none", "cutmix_probability": 0.0}
# ImageNet's usual size.
_LARGE = (224, 224, 3)


class Point(NamedTuple):
    """A compiled program: a call of it, the turns of a call and its memory in bytes."""

    call: Callable[[], None]
    turns: int
    memory_bytes: int


@dataclasses.dataclass
class Line:
    """Measured points: x, median seconds of a turn and bytes on a device."""

    label: str
    x: list[float]
    seconds: list[float]
    memory_bytes: list[int]


@dataclasses.dataclass
class Result:
    """The lines of a curve, and what x is."""

    name: str
    x_label: str
    lines: list[Line]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return dataclasses.asdict(self)


def _run(scale: Scale, mapped: str | None = None, **changes: Any) -> Run:
    """A run on random images, memory-mapped from a file where one is named."""
    values = {"devices": 1, "segments": 1, "image_memory_gb": None} | changes
    scale = scale._replace(**{k: v for k, v in values.items() if k in scale._fields})
    case = Case("", "", scale.side, scale.classes, scale.real_per_class, 0, {})
    dataset = random_images(case)
    if mapped:
        np.save(mapped, dataset.train_images)
        images = np.load(mapped, mmap_mode="r")
        dataset = dataclasses.replace(dataset, train_images=images)
    config = from_dict(
        {
            "network": scale.network,
            "synthetic": {
                "images_per_class": scale.segment * values["segments"],
                "segments": values["segments"],
            },
            "matching": {
                "batch_real": scale.batch_real,
                "batch_syn_max": 4 * scale.segment,
                "augmentation": "none",
            },
            "network_training": {"images_per_step": 64, **_PLAIN},
            "regularizer": {"name": "union"},
            "evaluation": {"repeats": 1, **_PLAIN},
            "runtime": {
                "devices": values["devices"],
                "image_memory_gb": values["image_memory_gb"],
            },
        }
    )
    return prepare(config, dataset, Journal(None), None)


def _step(scale: Scale, run: Run) -> Point:
    """Steps of the last segment; all the others are already there."""
    sizes = run.config.segment_sizes
    state = begin_segment(run, empty_state(run)._replace(stage=len(sizes) - 1))
    task, key = segment_task(run, state), segment_key(run, state)
    _, advance = run.programs(sizes[-1], state.stage > 0)
    read_ahead = run.read_ahead(state.stage > 0)
    # Images that are read ahead are those of a call.
    steps = 1 if run.streams else scale.steps
    trace = advance.trace(key, 0, steps=steps, state=state.segment, task=task)
    compiled = trace.lower().compile()
    segment, step = state.segment, 1

    def call():
        nonlocal segment, step
        read_ahead(key, step, steps, task)
        segment, metrics = compiled(key, step, state=segment, task=task)
        jax.block_until_ready((segment, metrics))
        step += steps

    return Point(call, steps, program_memory(compiled)[0])


def _filter(run: Run) -> Point:
    """A pass over all real images."""
    keys = jax.random.split(run.key, run.config.filter.networks)
    variables = jax.vmap(run.ensemble.network.init)(keys)
    data = run.data
    labels = jnp.broadcast_to(data.labels[:, None], data.images.shape[:2])

    def classify(variables, images, labels):
        return run.ensemble.predict(variables, images, labels, filters.verdict)

    arguments = (variables, data.images, labels)
    compiled = jax.jit(classify).lower(*arguments).compile()
    memory = program_memory(compiled)[0]
    return Point(lambda: jax.block_until_ready(compiled(*arguments)), 1, memory)


def _evaluation(scale: Scale, run: Run) -> Point:
    """Training on the synthetic images, which knows nothing of the real ones."""
    count = scale.segment * scale.classes
    images = np.zeros((count, *run.dataset.image_shape), np.uint8)
    training = TrainingImages(images, np.arange(count, dtype=np.int32) % scale.classes)
    subsets = everything(count, count, 1)

    def call():
        fit = run.ensemble.fit(run.key, training, subsets, scale.steps, None)
        jax.block_until_ready(fit)

    return Point(call, 1, 0)


_Points = dict[str, list[tuple[float, Point]]]


def _segments(scale: Scale, folder: Path) -> _Points:
    """At least two segments: the first one has nothing to regularize on."""
    points = []
    for factor in scale.growth:
        segments = 2 * factor
        run = _run(scale, segments=segments)
        points.append((scale.segment * segments, _step(scale, run)))
    return {"matching step": points}


def _classes(scale: Scale, folder: Path) -> _Points:
    counts = [scale.classes * factor for factor in scale.growth]
    make = lambda n: _step(scale._replace(classes=n), _run(scale, classes=n))
    return {"matching step": [(n, make(n)) for n in counts]}


def _devices(scale: Scale, folder: Path) -> _Points:
    counts = [n for n in (1, 2, 8) if n <= jax.local_device_count()]
    make = lambda n: _step(scale, _run(scale, classes=8, devices=n))
    return {"matching step, 8 classes": [(n, make(n)) for n in counts]}


def _real(scale: Scale, folder: Path) -> _Points:
    lines: _Points = {"filter pass": [], "evaluation training": []}
    for factor in scale.growth:
        per_class = scale.real_per_class * factor
        run = _run(scale, real_per_class=per_class)
        count = per_class * scale.classes
        lines["filter pass"].append((count, _filter(run)))
        lines["evaluation training"].append((count, _evaluation(scale, run)))
    return lines


def _placement(scale: Scale, folder: Path) -> _Points:
    lines: _Points = {"on the device": [], "on the host": []}
    for factor in scale.growth[:2]:
        for label, budget in (("on the device", None), ("on the host", 0.0)):
            batch = scale.batch_real * factor
            run = _run(
                scale,
                str(folder / f"{factor}.npy"),
                batch_real=batch,
                image_memory_gb=budget,
            )
            size = (scale.classes * batch + 64) * 3 * scale.side**2
            lines[label].append((size / 1e6, _step(scale, run)))
    return lines


def _reading(scale: Scale, folder: Path) -> _Points:
    """Rows drawn at random, 64 of a class, from a file in the cache or on the disk."""
    path, total = folder / "images.npy", 1024
    rng = np.random.default_rng(0)
    np.save(path, rng.integers(0, 256, (total, *_LARGE), np.uint8))
    os.sync()

    def reads(classes, forget):
        rows = rng.integers(0, total, (classes, 64), np.int32)

        def call():
            if forget:
                _drop_from_cache(path)
            HostReader(np.load(path, mmap_mode="r")).gather(rows)

        return Point(call, 1, 0)

    counts = (1, 4, 16)
    kinds = {"file in the page cache": False}
    if hasattr(os, "posix_fadvise"):
        kinds["file on the disk"] = True
    return {
        label: [(64 * n, reads(n, forget)) for n in counts]
        for label, forget in kinds.items()
    }


def _drop_from_cache(path):
    with open(path, "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


CURVES = {
    "reading": ("images of 224 x 224 pixels read", _reading),
    "segments": ("images per class in all segments", _segments),
    "classes": ("classes", _classes),
    "placement": ("MB of real images drawn in a step", _placement),
    "real": ("real images", _real),
    "devices": ("devices", _devices),
}


def measure(name: str, scale: Scale, repeats: int) -> Result:
    """Measures one of `CURVES` in rounds."""
    logger.info("%s", name)
    x_label, make = CURVES[name]
    with tempfile.TemporaryDirectory() as folder:
        lines = make(scale, Path(folder))
        calls = {
            (label, x): point.call
            for label, points in lines.items()
            for x, point in points
        }
        for call in calls.values():
            call()
        times = in_turns(calls, repeats, float("inf"))
    return Result(
        name,
        x_label,
        [
            Line(
                label,
                [x for x, _ in points],
                [statistics.median(times[label, x]) / p.turns for x, p in points],
                [point.memory_bytes for _, point in points],
            )
            for label, points in lines.items()
        ],
    )


def draw(results: list[Result], path: Path) -> None:
    """Draws time, and below it memory where it is known, against x."""
    figure = Figure(figsize=(3.6 * len(results), 5.6), layout="constrained")
    axes = figure.subplots(2, len(results), squeeze=False)
    for (top, bottom), result in zip(axes.T, results, strict=True):
        for line in result.lines:
            top.plot(line.x, [1e3 * s for s in line.seconds], "o-", label=line.label)
            if any(line.memory_bytes):
                bottom.plot(line.x, [size / 1e6 for size in line.memory_bytes], "o-")
        _finish(top, result.x_label, "time, ms")
        _finish(bottom, result.x_label, "memory on a device, MB")
        top.legend(fontsize="small")
    figure.savefig(path, dpi=120)


def _finish(axis: Axes, x_label: str, y_label: str) -> None:
    """From zero on, with room above, so that flat lines look flat."""
    if not axis.lines:
        axis.set_axis_off()
        return
    axis.set(xlabel=x_label, ylabel=y_label)
    axis.set_xlim(0, 1.1 * max(max(line.get_xdata()) for line in axis.lines))
    axis.set_ylim(0, 1.3 * max(max(line.get_ydata()) for line in axis.lines))
    axis.grid(alpha=0.3)

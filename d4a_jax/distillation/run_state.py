"""How far a run has come, and its way to the disk and back."""

import importlib.metadata
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.artifact import DistilledDataset
from d4a_jax.devices.parallel import spread
from d4a_jax.distillation import divergence, former
from d4a_jax.distillation.run import Run
from d4a_jax.distillation.segments import SegmentState, begin
from d4a_jax.methods import Task
from d4a_jax.real_data import make_pool
from d4a_jax.storage.checkpoint import CheckpointStore
from d4a_jax.storage.identity import run_identity


class RunState(NamedTuple):
    """The state of a run; all of it is in a checkpoint.

    Attributes:
      stage: number of the segment in the making; the number of segments when done.
      step: matching steps that it has taken.
      attempt: how often it was started over because the matching loss diverged.
      segment: its state on the devices; None when done.
      finished: uint8 `[C, images per class, h, w, c]`, filled by finished segments.
      kept: bool `[C, m]`, the real images that the segment is matched to.
      easy: bool `[C, m]`, what the filter's networks got right, False at first.
      history: figures of every finished segment.
      finished_labels: float16 `[C, images per class, factor**2, C]`, filled with the
        label logits that finished segments learned; None where labels are hard.
    """

    stage: int
    step: int
    attempt: int
    segment: SegmentState | None
    finished: np.ndarray
    kept: np.ndarray
    easy: np.ndarray
    history: tuple[dict[str, Any], ...]
    finished_labels: np.ndarray | None = None


def segment_key(run: Run, state: RunState) -> jax.Array:
    """The key of all randomness in the making of a segment."""
    return rng.stream(run.key, "segment", state.stage, state.attempt)


def first_task(run: Run) -> Task:
    """What the first segment is matched to."""
    return segment_task(run, empty_state(run))


def segment_task(run: Run, state: RunState) -> Task:
    """What the segment of a stage is matched to."""
    sizes = run.config.segment_sizes
    places = max(1, sum(sizes) - sizes[-1])
    logits = state.finished_labels
    if logits is not None:
        logits = spread(run.layout, logits[:, :places])
    return Task(
        run.data,
        make_pool(state.kept, run.layout),
        spread(run.layout, state.finished[:, :places]),
        jnp.int32(sum(sizes[: state.stage])),
        run.beginning(state.kept, sizes[state.stage]),
        jnp.int32(run.epoch_shift(state.kept)),
        previous_labels=logits,
    )


def begin_segment(run: Run, state: RunState) -> RunState:
    """The state before the first step of the segment of a stage."""
    method = run.method(state.stage > 0)
    segment = begin(_init(run, state), method, *_place(run, state))
    return state._replace(step=0, segment=segment)


def _init(run, state):
    return run.programs(run.config.segment_sizes[state.stage], state.stage > 0)[0]


def _place(run, state):
    return segment_key(run, state), segment_task(run, state)


def first_state(run: Run) -> RunState:
    """The state before the first step of the first segment."""
    return begin_segment(run, empty_state(run))


def empty_state(run: Run) -> RunState:
    """The beginning: every real image is kept, nothing is finished or in the making."""
    shape = (run.dataset.num_classes, run.config.synthetic.images_per_class)
    finished = np.zeros((*shape, *run.dataset.image_shape), np.uint8)
    valid = run.index.valid
    easy = np.zeros_like(valid)
    labels = None
    if run.config.method.learns_labels:
        tiles = run.config.synthetic.factor**2
        labels = np.zeros((*shape, tiles, run.dataset.num_classes), np.float16)
    return RunState(0, 0, 0, None, finished, valid, easy, (), labels)


def open_store(run: Run) -> CheckpointStore | None:
    """The run's checkpoints, where it has a directory."""
    if run.workdir is None:
        return None
    every, steps = divergence.rollback_interval(run), run.config.steps_per_segment
    return CheckpointStore(
        run.workdir / "checkpoints",
        run.config.runtime.keep_checkpoints,
        is_milestone=lambda number: number % (steps + 1) % every == 0,
    )


def save(run: Run, state: RunState, store: CheckpointStore | None) -> None:
    """Writes a checkpoint, where the run has a store."""
    if store is None:
        return
    record = {
        "stage": state.stage,
        "step": state.step,
        "attempt": state.attempt,
        "history": list(state.history),
        "metrics_lines": run.journal.lines,
        "identity": run_identity(run.config, run.dataset),
        "format": former.FORMAT,
    }
    run.journal.sync()
    number = state.stage * (run.config.steps_per_segment + 1) + state.step
    store.save(number, _arrays(state), record)


def restore(
    run: Run, store: CheckpointStore | None, milestone: bool = False
) -> RunState | None:
    """The state of the newest intact checkpoint; None where there is none.

    Args:
      run: the run.
      store: from `open_store`.
      milestone: whether to go back to the newest multiple of
        `divergence.rollback_interval` steps.
    """
    if store is None:
        return None
    found = store.restore(lambda record: _abstract(run, record), milestone)
    if found is None:
        run.journal.rewind(0)
        return None
    _, arrays, record = found
    run.journal.rewind(record["metrics_lines"])
    if "segment" in arrays and former.is_former(record):
        like = _abstract_segment(run, record["stage"])
        arrays |= {"segment": former.from_former(arrays["segment"], like)}
    return RunState(
        record["stage"],
        record["step"],
        record["attempt"],
        history=tuple(record["history"]),
        **({"segment": None} | arrays),
    )


def _arrays(state: RunState) -> dict:
    """What a checkpoint holds; a complete run has no segment in the making."""
    names = ("finished", "kept", "easy", "segment", "finished_labels")
    arrays = {name: getattr(state, name) for name in names}
    return {name: array for name, array in arrays.items() if array is not None}


def _abstract(run: Run, record: dict) -> dict:
    """Shapes and shardings of a checkpoint; segments may differ in size."""
    arrays, stage = _arrays(empty_state(run)), record["stage"]
    if stage < len(run.config.segment_sizes):
        segment = _abstract_segment(run, stage)
        if former.is_former(record):
            optimizer = run.pixel_optimizer(run.config.segment_sizes[stage])
            segment = former.to_former(segment, optimizer)
        arrays["segment"] = segment
    return jax.tree.map(_abstract_leaf, arrays)


def _abstract_segment(run: Run, stage: int) -> SegmentState:
    """Shapes and shardings of the segment of a stage.

    Without its first labels, for which experts would be asked in vain.
    """
    state = empty_state(run)._replace(stage=stage)
    return jax.tree.map(_abstract_leaf, _init(run, state)(*_place(run, state)))


def _abstract_leaf(leaf):
    """Host arrays stand for themselves; orbax takes no shape without a sharding."""
    if isinstance(leaf, (np.ndarray, jax.ShapeDtypeStruct)):
        return leaf
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)


def distilled_so_far(run: Run, state: RunState) -> DistilledDataset:
    """The finished segments as a distilled set, segment by segment, class by class."""
    sizes = run.config.segment_sizes[: state.stage]
    classes = run.dataset.num_classes
    images, labels, segments = [], [], []
    for segment, size in enumerate(sizes):
        first = sum(sizes[:segment])
        part = state.finished[:, first : first + size]
        images.append(part.reshape(-1, *part.shape[2:]))
        labels.append(np.repeat(np.arange(classes, dtype=np.int32), size))
        segments.append(np.full(classes * size, segment, np.int32))
    parts = (np.concatenate(part) for part in (images, labels, segments))
    logits = _learned_labels(state, sizes)
    return DistilledDataset(*parts, _metadata(run, state, sizes), label_logits=logits)


def _learned_labels(state, sizes):
    """Label logits of the finished segments in the order of `formed`, or None."""
    if state.finished_labels is None:
        return None
    ends = np.cumsum(sizes)[:-1]
    parts = np.split(state.finished_labels[:, : sum(sizes)], ends, axis=1)
    logits = np.concatenate([part.reshape(-1, *part.shape[2:]) for part in parts])
    return logits.swapaxes(0, 1).reshape(-1, logits.shape[-1])


def _metadata(run, state, sizes):
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    return {
        "dataset": run.dataset.name,
        "dataset_fingerprint": run.dataset.fingerprint,
        "source": run.dataset.source,
        "class_names": list(run.dataset.class_names),
        "mean": list(run.dataset.mean),
        "std": list(run.dataset.std),
        "flip": run.dataset.flip,
        "pixel_range": run.dataset.pixel_range and list(run.dataset.pixel_range),
        "factor": run.config.synthetic.factor,
        "images_per_class": sum(sizes),
        "segment_sizes": list(sizes),
        "protocol": run.config.to_dict()["evaluation"],
        "config": run.config.identity(),
        "seed": run.config.seed,
        "history": list(state.history),
        "versions": {name: importlib.metadata.version(name) for name in packages},
    }

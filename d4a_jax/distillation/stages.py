"""Between two segments: networks trained on the prefix are tested, and they filter."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import filtering, rng
from d4a_jax.data.statistics import chunks
from d4a_jax.devices.parallel import to_host
from d4a_jax.distillation.run import Run
from d4a_jax.distillation.run_state import RunState
from d4a_jax.distillation.segments import finish
from d4a_jax.ensemble import TrainingImages, everything
from d4a_jax.selection import beginnings
from d4a_jax.storage.fileio import save_sealed_array

# Share of pixels at an end of their range from which on a learning rate is too large.
_SATURATED = 0.5


def warn_of_short_classes(run: Run) -> None:
    """Says before a run which classes have too few images to begin a segment with."""
    synthetic = run.config.synthetic
    if synthetic.init == "noise":
        return
    needed = max(run.config.segment_sizes) * synthetic.factor**2
    names = run.dataset.class_names
    short = beginnings.describe_short_classes(run.index.counts, names, needed)
    if short:
        run.journal.warn("%s The copies get a little noise.", short)


def freeze(run: Run, state: RunState) -> RunState:
    """Adds the segment to the finished ones, as it will be stored."""
    sizes = run.config.segment_sizes
    first, last = sum(sizes[: state.stage]), sum(sizes[: state.stage + 1])
    pixels = to_host(finish(state.segment.params["images"]))
    finished = state.finished.copy()
    finished[:, first:last] = pixels[: run.dataset.num_classes]
    state = state._replace(finished=finished)
    if state.finished_labels is None:
        return state
    learned = run.method(state.stage > 0).learned["labels"]
    logits = to_host(learned.stored(state.segment.params["labels"]))
    labels = state.finished_labels.copy()
    labels[:, first:last] = logits[: run.dataset.num_classes]
    return state._replace(finished_labels=labels)


def find_saturation(run: Run, state: RunState) -> dict[str, Any]:
    """Says when most pixels of the finished segment are 0 or 255.

    Real images may be so as well, as handwriting is; only what goes beyond counts.

    Returns:
      `saturated`, the share of such pixels, where more than half of those pixels are
      at an end that are not in the real images; else nothing.
    """
    sizes = run.config.segment_sizes
    first, last = sum(sizes[: state.stage]), sum(sizes[: state.stage + 1])
    share = _saturation(state.finished[:, first:last])
    if share <= _SATURATED:
        return {}
    real = _saturation(run.dataset.train_images)
    if share - real <= _SATURATED * (1 - real):
        return {}
    run.journal.warn(
        "%.0f %% of the pixels of segment %d are 0 or 255: the learning rate of the "
        "pixels (matching.learning_rate) is likely too large.",
        100 * share,
        state.stage + 1,
    )
    return {"saturated": share}


def _saturation(images: np.ndarray) -> float:
    """Share of the pixels of uint8 images that are 0 or 255."""
    found = sum(
        np.count_nonzero((chunk == 0) | (chunk == 255)) for chunk in chunks(images)
    )
    return found / images.size


def train_on_prefix(run: Run, state: RunState, networks: int) -> dict:
    """Trains networks from scratch on S_1 ... S_k, k being the state's stage.

    They serve the evaluation of the prefix and the filter alike.

    Returns:
      Their variables, stacked.
    """
    # Position-major, so that a prefix is the beginning of the array and its length is
    # no part of the compiled program.
    images = state.finished.swapaxes(0, 1)
    places, classes = images.shape[:2]
    logits = state.finished_labels
    if logits is not None:
        # Of formed images, tile by tile.
        logits = logits.transpose(2, 1, 0, 3).reshape(-1, classes)
    training = TrainingImages(
        images.reshape(-1, *images.shape[2:]),
        np.tile(np.arange(classes, dtype=np.int32), places),
        label_logits=logits,
    )
    per_class, steps = _prefix(run, state)
    label = f"{networks} networks on {per_class} images per class"
    with run.journal.progress(label, steps) as bar:
        return run.ensemble.fit(
            rng.stream(run.key, "prefix", state.stage),
            training,
            everything(per_class * classes, places * classes, networks),
            steps,
            run.watch(lambda done, _, figures: bar.update(done, **figures)),
        )


def evaluation_repeats(run: Run, state: RunState) -> int:
    """How many networks test the prefix that ends with the state's segment."""
    settings = run.config.evaluation
    if not settings.enabled:
        return 0
    is_last = state.stage + 1 == len(run.config.segment_sizes)
    return settings.repeats if is_last else settings.prefix_repeats or settings.repeats


def test_prefix(run: Run, state: RunState, variables: dict) -> dict[str, Any]:
    """Test accuracy of networks trained on the prefix, recorded and returned."""
    per_class, steps = _prefix(run, state)
    repeats = evaluation_repeats(run, state)
    result = run.judge.test(run.ensemble, variables, repeats, steps)
    figures = result.summary()
    _record(run, state, figures, "evaluation")
    run.journal.say(
        "%d images per class: test accuracy %.2f ± %.2f %% (%d networks, last step)",
        per_class,
        figures["top1"],
        figures["top1_std"],
        repeats,
    )
    return figures | {"network": result.network, "top1_each": list(result.top1)}


def filter_real_data(
    run: Run, state: RunState, variables: dict
) -> tuple[RunState, dict[str, Any]]:
    """Classifies the whole real set and keeps what is hard for the next segment.

    Returns:
      The state with `kept` and `easy` of the next stage, and the filter's figures.
    """
    settings, classes = run.config.filter, run.dataset.num_classes
    ensemble = jax.tree.map(lambda x: x[: settings.networks], variables)
    shape = run.data.images.shape[:2]
    labels = jnp.broadcast_to(run.data.labels[:, None], shape)
    result = run.ensemble.predict(ensemble, run.data.images, labels, filtering.verdict)
    to_classes, valid = run.index.to_classes, run.index.valid
    selection = filtering.select(
        filtering.Verdict(*(x[:classes] for x in to_host(result))),
        valid,
        settings,
        settings.min_per_class or run.config.matching.batch_real,
        state.kept,
        to_classes(run.difficulty.train.learnable) if settings.guard else None,
        to_classes(run.difficulty.train.loss) if settings.keep_easiest < 1.0 else None,
    )
    before = state.easy if state.stage else None
    figures = filtering.describe(selection, valid, before)
    scalars = {k: v for k, v in figures.items() if not isinstance(v, list)}
    _record(run, state, scalars, "filter")
    run.journal.say(
        "filter: %.1f %% of the real images are right, %.1f %% are kept",
        100 * figures["real_accuracy"],
        100 * figures["kept"],
    )
    if run.output:
        _save_selection(run, state, selection)
    return state._replace(kept=selection.kept, easy=selection.easy), figures


def _prefix(run, state):
    """Images per class of the prefix and the SGD steps of a training on it."""
    per_class = sum(run.config.segment_sizes[: state.stage + 1])
    settings = run.config.evaluation
    count = per_class * run.dataset.num_classes
    steps = run.ensemble.total_steps(count, settings.epochs, settings.max_steps)
    return per_class, steps


def _record(run, state, figures, phase):
    at = (state.stage + 1) * run.config.steps_per_segment
    run.journal.write(at, figures, phase=phase, segment=state.stage)


def _save_selection(run, state, selection):
    """Keeps what was kept and what was easy, in the data set's order, for analysis."""
    directory = run.output / "filter"
    directory.mkdir(exist_ok=True)
    for name in ("kept", "easy"):
        rows = run.index.to_rows(getattr(selection, name))
        save_sealed_array(directory / f"{name}-after-{state.stage + 1}.npy", rows)

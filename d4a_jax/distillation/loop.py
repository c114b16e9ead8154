"""D4A: distillation in segments, each aligned with what is still difficult.

    for every segment k:
        match the pixels of S_k to the real images that the filter kept
        freeze S_k as it will be stored
        train networks from scratch on S_1 ... S_k: their test accuracy is reported,
        and what they still get wrong of the real set is kept for segment k + 1

One segment and no regularizer is IDC. This module is the loop on the host; each idea
of the paper stands in a module of its own: `segments`, `methods`, `regularizers`,
`filtering`, `ensemble`, `evaluation`.
"""

import contextlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from d4a_jax.artifact import (
    ArtifactError,
    DistilledDataset,
    load_distilled,
    same_distilled,
    save_distilled,
)
from d4a_jax.config import Config, validate
from d4a_jax.data import Dataset
from d4a_jax.devices.processes import any_of, check_same, is_main
from d4a_jax.distillation import divergence, stages
from d4a_jax.distillation.assemble import assemble
from d4a_jax.distillation.divergence import DivergenceError
from d4a_jax.distillation.range_test import with_learning_rate
from d4a_jax.distillation.run import Interrupted, Run, check_fit, prepare
from d4a_jax.distillation.run_state import (
    RunState,
    begin_segment,
    distilled_so_far,
    first_state,
    open_store,
    restore,
    save,
    segment_key,
    segment_task,
)
from d4a_jax.distillation.segments import DIVERGED
from d4a_jax.flips import default_config
from d4a_jax.metrics.journal import Journal
from d4a_jax.storage.checkpoint import CheckpointStore
from d4a_jax.storage.fileio import put_aside
from d4a_jax.storage.identity import claim


def distill(
    dataset: Dataset,
    config: Config | None = None,
    workdir: str | Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    **parts: Any,
) -> DistilledDataset:
    """Distills a data set by D4A.

    Args:
      dataset: real images, from `load_dataset` or `from_arrays`.
      config: the run; by default `default_config` of the data. Of `config.data` only
        `data_dir` is read, where difficulty measures are kept; its name, path,
        size and classes are recorded as those of `dataset`.
      workdir: where checkpoints, metrics and the distilled set go. A run that was
        interrupted there continues, with the result of an undisturbed one; a directory
        is that of one configuration and data set. None keeps everything in memory.
      should_stop: asked after every call of a compiled program; True saves a
        checkpoint and ends the run by `Interrupted`.
      **parts: `method`, `network`, `regularizer`, `rule`, `optimizer` and `protocol`, as
        objects or names in the place of those of `config`; see `assemble`. They are
        recorded, and a run with others in the same directory is refused.

    With several processes (see `processes`) all call this alike, with one working
    directory that all can reach; each returns the whole set.

    Returns:
      The distilled set; its metadata holds the configuration and, under `history`,
      the test accuracy of every prefix S_1 ... S_k and the filter's figures.

    Raises:
      ConfigError: if the configuration is wrong, does not fit the data, or the working
        directory holds the run of another configuration or on other data, where
        nothing is changed.
      DisagreementError: if the processes have different configurations or data.
      DivergenceError: if the matching loss does not stay finite.
      Interrupted: if `should_stop` said so.
    """
    config = validate(assemble(config or default_config(dataset), **parts))
    unnamed = {"name": dataset.name, "path": None, "size": None, "classes": None}
    config = config.of_data(dataset.source or unnamed)
    check_fit(config, dataset)
    check_same("The configuration", repr(config.identity()))
    check_same("The data set", dataset.fingerprint)
    workdir = Path(workdir) if workdir else None
    if workdir:
        claim(workdir, config, dataset)
    with contextlib.ExitStack() as stack:
        # All processes write the checkpoints together; the rest is written by one.
        journal = Journal(workdir if is_main() else None, speaks=is_main())
        stack.callback(journal.close)
        run = prepare(config, dataset, journal, workdir, should_stop)
        stages.warn_of_short_classes(run)
        run = with_learning_rate(run)
        store = open_store(run)
        if store:
            stack.callback(store.close)
        state = _resume(run, store) or first_state(run)
        _publish(run, state)
        while state.stage < len(config.segment_sizes):
            state = _make_segment(run, state, store)
            state = _next_stage(run, state)
            save(run, state, store)
            _publish(run, state)
        return distilled_so_far(run, state)


def _resume(run: Run, store: CheckpointStore | None) -> RunState | None:
    state = restore(run, store)
    if state is None:
        return None
    if state.stage == len(run.config.segment_sizes):
        run.journal.say("this run is complete")
    else:
        where = (state.step, state.stage + 1)
        run.journal.say("continuing after step %d of segment %d", *where)
    return state


def _make_segment(
    run: Run,
    state: RunState,
    store: CheckpointStore | None,
) -> RunState:
    """Takes the remaining matching steps of a segment, with checkpoints."""
    total, sizes = run.config.steps_per_segment, run.config.segment_sizes
    _, advance = run.programs(sizes[state.stage], state.stage > 0)
    task, per_call = segment_task(run, state), divergence.steps_per_call(run)
    read_ahead = run.read_ahead(state.stage > 0)
    milestone = divergence.rollback_interval(run)
    saved = time.monotonic()
    label = f"segment {state.stage + 1} of {len(sizes)}"
    with run.journal.progress(label, total, state.step) as bar:
        while state.step < total:
            key = segment_key(run, state)
            # Calls of another length may have brought the run here.
            steps = per_call - state.step % per_call
            read_ahead(key, state.step, steps, task)
            segment, metrics = advance(
                key, state.step, steps=steps, state=state.segment, task=task
            )
            if advice := divergence.find(run, state.stage, state.step, metrics):
                state = _retry(run, state, store, advice)
                continue
            del metrics[DIVERGED]
            figures = {name: float(values.mean()) for name, values in metrics.items()}
            state = state._replace(segment=segment, step=state.step + steps)
            bar.update(state.step, **figures)
            at = state.stage * total + state.step
            run.journal.write(at, figures, phase="matching", segment=state.stage)
            due = time.monotonic() - saved >= run.config.runtime.checkpoint_seconds
            due, stop = any_of(due, run.should_stop())
            if due or stop or state.step % milestone == 0 or state.step == total:
                save(run, state, store)
                saved = time.monotonic()
            if stop:
                raise Interrupted
    return state


def _retry(
    run: Run, state: RunState, store: CheckpointStore | None, advice: str
) -> RunState:
    """Goes back to the last milestone with another random stream, a few times."""
    attempt = state.attempt + 1
    if attempt > divergence.MAX_ATTEMPTS:
        raise DivergenceError(advice)
    run.journal.say("%s Going back to the last checkpoint before.", advice)
    restored = restore(run, store, milestone=True)
    if restored is not None and restored.stage == state.stage:
        return restored._replace(attempt=attempt)
    return begin_segment(run, state._replace(attempt=attempt))


def _publish(run: Run, state: RunState) -> None:
    """Makes sure that the distilled set so far is on the disk, intact."""
    if run.output is None or not state.stage:
        return
    path, distilled = run.output / "distilled", distilled_so_far(run, state)
    try:
        if same_distilled(load_distilled(path), distilled):
            return
    except ArtifactError as error:
        if path.exists():
            run.journal.say("%s It is put aside and written again.", error)
            put_aside(path, run.output / "damaged")
    save_distilled(path, distilled)


def _next_stage(run: Run, state: RunState) -> RunState:
    """Freezes a segment, tests the prefix, filters, and begins the next segment."""
    config = run.config
    state = stages.freeze(run, state)
    is_last = state.stage + 1 == len(config.segment_sizes)
    filters = config.filter.enabled and not is_last
    networks = max(
        stages.evaluation_repeats(run, state),
        config.filter.networks if filters else 0,
    )
    entry = {
        "segment": state.stage,
        "images_per_class": sum(config.segment_sizes[: state.stage + 1]),
    }
    entry |= stages.find_saturation(run, state)
    if networks:
        variables = stages.train_on_prefix(run, state, networks)
    if config.evaluation.enabled:
        entry["evaluation"] = stages.test_prefix(run, state, variables)
    if filters:
        state, entry["filter"] = stages.filter_real_data(run, state, variables)
    state = state._replace(
        stage=state.stage + 1,
        step=0,
        attempt=0,
        segment=None,
        history=(*state.history, entry),
    )
    return state if is_last else begin_segment(run, state)

"""Checkpoints: what is damaged is noticed, named and replaced by the newest intact."""

import logging
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from d4a_jax.storage.checkpoint import CheckpointError, CheckpointStore

# Orbax leaves coroutines behind where reading fails.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning")


class State(NamedTuple):
    """The kinds of leaves that a run saves."""

    pixels: jax.Array
    trace: tuple[jax.Array, None]
    finished: np.ndarray
    kept: np.ndarray


def make_state(value):
    rng = np.random.default_rng(value)
    return State(
        jnp.asarray(rng.normal(size=(3, 8, 8)), jnp.float32),
        (jnp.int32(value), None),
        rng.integers(0, 256, (3, 4), np.uint8),
        rng.integers(0, 2, 9).astype(bool),
    )


def abstract(record):
    del record
    return jax.tree.map(
        lambda x: (
            x
            if isinstance(x, np.ndarray)
            else jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
        ),
        make_state(0),
    )


def record_of(step):
    return {"step": step, "history": [{"top1": step / 7, "name": "größer"}]}


def write(directory, *steps, keep=2, **arguments):
    store = CheckpointStore(directory, keep, **arguments)
    for step in steps:
        store.save(step, make_state(step), record_of(step))
    store.close()


def restore(directory, **arguments):
    """The step that is restored, after a comparison of every value in it."""
    store = CheckpointStore(directory, keep=2)
    found = store.restore(abstract, **arguments)
    store.close()
    if found is None:
        return None
    step, state, record = found
    assert record == record_of(step)
    jax.tree.map(np.testing.assert_array_equal, state, make_state(step))
    assert all(
        left.dtype == right.dtype
        for left, right in zip(jax.tree.leaves(state), jax.tree.leaves(make_state(0)))
    )
    return step


def numbers(directory):
    return sorted(int(name) for name in os.listdir(directory) if name.isdecimal())


def files(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


def flip_bit(path, rng):
    content = bytearray(path.read_bytes())
    content[rng.integers(len(content))] ^= 1 << rng.integers(8)
    path.write_bytes(content)


def truncate(path, rng):
    os.truncate(path, rng.integers(path.stat().st_size))


def delete(path, rng):
    del rng
    path.unlink()


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    directory = tmp_path_factory.mktemp("intact")
    write(directory, 3, 7)
    return directory


@pytest.fixture
def directory(intact, tmp_path):
    shutil.copytree(intact, tmp_path / "checkpoints")
    return tmp_path / "checkpoints"


def test_the_newest_ones_stay_and_the_newest_is_restored(tmp_path):
    write(tmp_path, 1, 4, 6, 9)
    assert numbers(tmp_path) == [6, 9]
    assert restore(tmp_path) == 9
    assert restore(tmp_path / "new") is None


def test_the_newest_milestone_stays_too(tmp_path):
    write(tmp_path, 0, 10, 11, 12, 13, is_milestone=lambda step: step % 10 == 0)
    assert numbers(tmp_path) == [10, 12, 13]
    store = CheckpointStore(tmp_path, 2, is_milestone=lambda step: step % 10 == 0)
    assert store.restore(abstract, milestone=True)[0] == 10
    store.close()


def test_a_step_can_be_saved_again_and_drops_later_ones(tmp_path):
    write(tmp_path, 2, 5, 8)
    write(tmp_path, 5)
    assert numbers(tmp_path) == [5]
    assert restore(tmp_path) == 5


@pytest.mark.parametrize("damage", [flip_bit, truncate, delete])
def test_damage_in_any_file_is_survived(directory, intact, damage, caplog):
    """Every file of the newest checkpoint at random offsets.

    Wherever the damage is, what is restored is right in every value; where that is
    not the newest one, the log names it. Files without a part in the values, such as
    those of other formats, may be damaged without consequence.
    """
    rng = np.random.default_rng(0)
    relative = [path.relative_to(directory) for path in files(directory / "7")]
    noticed = 0
    for name in relative:
        for _ in range(3 if damage is not delete else 1):
            shutil.rmtree(directory)
            shutil.copytree(intact, directory)
            damage(directory / name, rng)
            caplog.clear()
            with caplog.at_level(logging.WARNING, "d4a_jax"):
                step = restore(directory)
            assert step in (3, 7), name
            if step == 3:
                noticed += 1
                assert f"{directory / '7'} is damaged" in caplog.text
                assert numbers(directory) == [3]
                assert (directory / "damaged" / "7").is_dir()
    assert noticed > 0


@pytest.mark.parametrize("damage", [flip_bit, truncate, delete])
def test_damage_in_the_values_is_always_noticed(directory, intact, damage):
    """The file that holds the leaves (the others are indices to it)."""
    rng = np.random.default_rng(1)
    (held,) = (directory / "7" / "state" / "d").iterdir()
    for _ in range(5):
        shutil.rmtree(directory)
        shutil.copytree(intact, directory)
        damage(held, rng)
        assert restore(directory) == 3


def test_every_changed_character_of_the_record_is_noticed(directory, intact):
    """The record stands in a JSON file, where other characters stay readable."""
    path = Path("7") / "_CHECKPOINT_METADATA"
    content = (intact / path).read_bytes()
    first = content.index(b'"record"')
    rng = np.random.default_rng(2)
    for place in rng.integers(first, content.rindex(b"}}}"), 12):
        shutil.rmtree(directory)
        shutil.copytree(intact, directory)
        changed = bytearray(content)
        changed[place] ^= 1
        (directory / path).write_bytes(changed)
        assert restore(directory) == 3, changed


def test_an_empty_step_is_left_out_and_the_run_goes_on_below_it(directory):
    shutil.rmtree(directory / "7")
    (directory / "7").mkdir()
    assert restore(directory) == 3
    # Orbax alone would skip these saves without a word, as older than step 7.
    write(directory, 4, 5)
    assert numbers(directory) == [4, 5]
    assert restore(directory) == 5


def test_damaged_checkpoints_never_push_intact_ones_out(directory):
    for step in (7, 8, 9):
        shutil.rmtree(directory / str(step), ignore_errors=True)
        (directory / str(step)).mkdir()
    assert restore(directory) == 3
    write(directory, 4)
    assert numbers(directory) == [3, 4]
    (directory / "7").mkdir()
    assert restore(directory) == 4
    assert sorted(os.listdir(directory / "damaged")) == ["7", "7-1", "8", "9"]


def test_nothing_intact(directory):
    for step in (3, 7):
        for path in files(directory / str(step)):
            os.truncate(path, 0)
    assert restore(directory) is None


def test_a_checkpoint_of_other_shapes_is_left_out(directory):
    store = CheckpointStore(directory, keep=2)
    state = make_state(8)._replace(kept=np.zeros(4, bool))
    store.save(8, state, record_of(8))
    store.close()
    assert restore(directory) == 7


def test_leftovers_of_a_killed_writer_are_removed(directory):
    leftover = directory / "9.orbax-checkpoint-tmp"
    shutil.copytree(directory / "7", leftover)
    assert restore(directory) == 7
    assert not leftover.exists()


def test_a_failure_to_write_is_named_and_leaves_the_earlier_ones(directory):
    store = CheckpointStore(directory, keep=2)
    with pytest.raises(CheckpointError, match=f"Checkpoint 9 .*{directory}"):
        store.save(9, {"not an array": object()}, {})
    store.close()
    assert restore(directory) == 7


def test_a_checkpoint_that_would_run_code_is_not_read(directory):
    """Only arrays and JSON are read: a pickle in any file stays bytes."""
    marker = directory / "executed"
    code = f"cos\nmkdir\n(V{marker}\ntR.".encode()
    for path in files(directory / "7"):
        path.write_bytes(code)
    assert restore(directory) == 3
    assert not marker.exists()

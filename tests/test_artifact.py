"""Tests of d4a_jax.artifact and d4a_jax.storage.fileio."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from d4a_jax import artifact
from d4a_jax.artifact import directory, gallery
from d4a_jax.storage import fileio

_ROOT = Path(__file__).resolve().parent.parent
_FILES = ("images.npy", "labels.npy", "segments.npy", "metadata.json")


def _make(classes=3, sizes=(2, 1), side=8, channels=3, factor=2, seed=0):
    rng = np.random.default_rng(seed)
    labels = [np.repeat(np.arange(classes), size) for size in sizes]
    segments = [np.full(classes * size, k) for k, size in enumerate(sizes)]
    labels = np.concatenate(labels).astype(np.int32)
    shape = (len(labels), side, side, channels)
    metadata = {
        "dataset": "toy",
        "class_names": [f"class {c}" for c in range(classes)],
        "mean": [0.5] * channels,
        "std": [0.25] * channels,
        "factor": factor,
        "segment_sizes": list(sizes),
        "images_per_class": sum(sizes),
        "seed": 7,
        "note": "größer",
    }
    return artifact.DistilledDataset(
        rng.integers(0, 256, shape).astype(np.uint8),
        labels,
        np.concatenate(segments).astype(np.int32),
        metadata,
    )


def _assert_same(first, second):
    for name in ("images", "labels", "segments"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))
        assert getattr(first, name).dtype == getattr(second, name).dtype


def test_round_trip(tmp_path):
    distilled = _make()
    artifact.save_distilled(tmp_path / "a" / "b", distilled)
    loaded = artifact.load_distilled(tmp_path / "a" / "b")
    _assert_same(loaded, distilled)
    assert distilled.metadata.items() <= loaded.metadata.items()
    images = (tmp_path / "a" / "b" / "images.npy").read_bytes()
    assert loaded.metadata["sha256"]["images.npy"] == (
        hashlib.sha256(images).hexdigest()
    )
    assert loaded.num_classes == 3
    assert loaded.num_segments == 2
    assert loaded.factor == 2
    assert loaded.stored_bytes == 9 * 8 * 8 * 3
    assert sorted(os.listdir(tmp_path / "a")) == ["b"]
    assert (tmp_path / "a" / "b" / "gallery.png").exists()


def _with_learned_labels(factor=2):
    plain = _make(factor=factor)
    shape = (9 * factor**2, 3)
    logits = np.random.default_rng(5).normal(0, 3, shape).astype(np.float16)
    return dataclasses.replace(plain, label_logits=logits)


def test_learned_labels_are_kept_counted_and_verified(tmp_path):
    learned = _with_learned_labels()
    artifact.save_distilled(tmp_path / "a", learned, with_gallery=False)
    loaded = artifact.load_distilled(tmp_path / "a")
    np.testing.assert_array_equal(loaded.label_logits, learned.label_logits)
    assert loaded.label_bytes == 36 * 3 * 2
    assert loaded.stored_bytes == 9 * 8 * 8 * 3 + 36 * 3 * 2
    assert artifact.same_distilled(loaded, learned)
    other = dataclasses.replace(learned, label_logits=-learned.label_logits)
    assert not artifact.same_distilled(loaded, other)
    assert not artifact.same_distilled(loaded, _make())
    path = tmp_path / "a" / "label_logits.npy"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(artifact.ArtifactError, match="label_logits.npy is damaged"):
        artifact.load_distilled(tmp_path / "a")
    path.unlink()
    with pytest.raises(artifact.ArtifactError, match="label_logits.npy cannot be read"):
        artifact.load_distilled(tmp_path / "a")
    artifact.save_distilled(tmp_path / "a", _make(), with_gallery=False)
    assert artifact.load_distilled(tmp_path / "a").label_logits is None


def test_a_prefix_takes_the_learned_labels_of_its_tiles():
    learned = _with_learned_labels()
    # Tile by tile; the first six of the nine stored images are the first segment.
    wanted = learned.label_logits.reshape(4, 9, 3)[:, :6].reshape(24, 3)
    np.testing.assert_array_equal(learned.prefix(1).label_logits, wanted)
    np.testing.assert_array_equal(learned.prefix(2).label_logits, learned.label_logits)
    assert len(learned.prefix(1).formed()[1]) == 24


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"label_logits": np.zeros((36, 3), np.float32)}, "float32.*float16 .36, 3."),
        ({"label_logits": np.zeros((9, 3), np.float16)}, r"float16 \[9, 3\], but"),
        ({"label_logits": np.full((36, 3), np.inf, np.float16)}, "not all finite"),
        (
            {
                "soft_logits": np.zeros((1, 36, 3), np.float16),
                "soft_crops": np.zeros((1, 36, 4), np.int16),
            },
            "only one of them",
        ),
    ],
)
def test_wrong_learned_labels_are_refused(changes, message):
    learned = _with_learned_labels()
    learned.metadata["temperature"] = 1.0
    with pytest.raises(artifact.ArtifactError, match=message):
        dataclasses.replace(learned, **changes)


def test_saving_what_was_loaded_gives_the_same_files(tmp_path):
    artifact.save_distilled(tmp_path / "a", _make())
    artifact.save_distilled(tmp_path / "b", artifact.load_distilled(tmp_path / "a"))
    for file in _FILES:
        assert (tmp_path / "a" / file).read_bytes() == (
            tmp_path / "b" / file
        ).read_bytes()


def test_array_likes_in_the_metadata_become_lists(tmp_path):
    distilled = _make()
    distilled.metadata["mean"] = np.array([0.5, 0.25, 0.125])
    distilled.metadata["factor"] = np.int64(2)
    artifact.save_distilled(tmp_path / "a", distilled)
    loaded = artifact.load_distilled(tmp_path / "a")
    assert loaded.metadata["mean"] == [0.5, 0.25, 0.125]


@pytest.mark.parametrize("file", _FILES)
def test_damage_is_found_and_named(tmp_path, file):
    artifact.save_distilled(tmp_path / "a", _make(), with_gallery=False)
    path = tmp_path / "a" / file
    content = path.read_bytes()
    for offset in np.linspace(0, len(content) - 1, 40).astype(int):
        damaged = bytearray(content)
        damaged[offset] ^= 1 << (offset % 7)
        path.write_bytes(damaged)
        with pytest.raises(artifact.ArtifactError, match=file):
            artifact.load_distilled(tmp_path / "a")
    for damaged in (b"", content[:-1], content[: len(content) // 2], content + b" "):
        path.write_bytes(damaged)
        with pytest.raises(artifact.ArtifactError, match=file):
            artifact.load_distilled(tmp_path / "a")
    path.unlink()
    with pytest.raises(artifact.ArtifactError, match=f"{file} cannot be read"):
        artifact.load_distilled(tmp_path / "a")
    path.write_bytes(content)
    artifact.load_distilled(tmp_path / "a")


def test_deeply_nested_or_foreign_metadata_is_damage(tmp_path):
    artifact.save_distilled(tmp_path / "a", _make(), with_gallery=False)
    for content in (b"[" * 100_000, b"[]\n", b"null\n", b"{}\n", b"\xff\xfe"):
        (tmp_path / "a" / "metadata.json").write_bytes(content)
        with pytest.raises(artifact.ArtifactError, match="metadata.json is damaged"):
            artifact.load_distilled(tmp_path / "a")


def test_another_schema_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(directory, "SCHEMA_VERSION", 2)
    artifact.save_distilled(tmp_path / "a", _make())
    monkeypatch.undo()
    with pytest.raises(artifact.ArtifactError, match="schema version 2"):
        artifact.load_distilled(tmp_path / "a")


def test_missing_directory(tmp_path):
    with pytest.raises(artifact.ArtifactError, match="cannot be read"):
        artifact.load_distilled(tmp_path / "nowhere")


def test_pickled_arrays_are_never_read(tmp_path, monkeypatch):
    artifact.save_distilled(tmp_path / "a", _make(), with_gallery=False)
    np.save(tmp_path / "a" / "labels.npy", np.array([{}] * 9), allow_pickle=True)
    digest = fileio.sha256_file(tmp_path / "a" / "labels.npy")
    document = json.loads((tmp_path / "a" / "metadata.json").read_bytes())
    document["sha256"]["labels.npy"] = digest
    document["metadata_sha256"] = directory._digest(document)
    fileio.write_json_atomic(tmp_path / "a" / "metadata.json", document)
    with pytest.raises(artifact.ArtifactError, match="labels.npy is not a plain"):
        artifact.load_distilled(tmp_path / "a")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("images", np.zeros((9, 8, 8, 3), np.float32), "images are float32"),
        ("images", np.zeros((9, 8, 8), np.uint8), "images are uint8"),
        ("labels", np.zeros(9, np.int64), "labels are int64"),
        ("labels", np.zeros(8, np.int32), r"labels are int32 \[8\]"),
        ("labels", np.full(9, 3, np.int32), "labels run from 3 to 3"),
        ("labels", np.full(9, -1, np.int32), "labels run from -1"),
        ("segments", np.full(9, 1, np.int32), r"segments are \[1\]"),
        ("segments", np.zeros(9, np.int32), "segment_sizes has 2 entries"),
    ],
)
def test_parts_that_do_not_fit_are_refused(field, value, message):
    good = _make()
    parts = {n: getattr(good, n) for n in ("images", "labels", "segments", "metadata")}
    with pytest.raises(artifact.ArtifactError, match=message):
        artifact.DistilledDataset(**(parts | {field: value}))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("factor", 0, "factor is 0"),
        ("factor", 1.5, "factor is 1.5"),
        ("class_names", "abc", "class_names"),
        ("mean", [0.5], "mean has 1 entries, but 3"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(key, value, message):
    good = _make()
    metadata = good.metadata | {key: value}
    with pytest.raises(artifact.ArtifactError, match=message):
        artifact.DistilledDataset(good.images, good.labels, good.segments, metadata)
    del metadata[key]
    with pytest.raises(artifact.ArtifactError, match=f"lacks {key}"):
        artifact.DistilledDataset(good.images, good.labels, good.segments, metadata)


def test_prefixes_nest(tmp_path):
    distilled = _make(sizes=(2, 1, 3))
    artifact.save_distilled(tmp_path / "a", distilled)
    first = artifact.load_distilled(tmp_path / "a", segments=1)
    second = artifact.load_distilled(tmp_path / "a", segments=2)
    _assert_same(second.prefix(1), first)
    _assert_same(distilled.prefix(3), distilled)
    np.testing.assert_array_equal(first.images, distilled.images[:6])
    np.testing.assert_array_equal(second.images, distilled.images[:9])
    assert second.metadata["segment_sizes"] == [2, 1]
    assert second.metadata["images_per_class"] == 3
    assert distilled.metadata["segment_sizes"] == [2, 1, 3]
    for segments in (0, 4):
        with pytest.raises(ValueError, match=f"segments is {segments}, .* has 3"):
            distilled.prefix(segments)


def test_a_prefix_can_be_saved(tmp_path):
    artifact.save_distilled(tmp_path / "a", _make())
    first = artifact.load_distilled(tmp_path / "a", segments=1)
    artifact.save_distilled(tmp_path / "b", first)
    _assert_same(artifact.load_distilled(tmp_path / "b"), first)


def test_formed_is_ordered_tile_by_tile():
    pytest.importorskip("d4a_jax.formation")
    # Images whose four tiles are constant: nothing is left for interpolation to do.
    distilled = _make(classes=2, sizes=(1, 1), side=8)
    tiles = np.arange(16).reshape(4, 4) * 10  # [image, tile]
    images = np.zeros((4, 8, 8, 3), np.uint8)
    for image in range(4):
        for tile in range(4):
            row, column = divmod(tile, 2)
            rows = slice(4 * row, 4 * row + 4)
            columns = slice(4 * column, 4 * column + 4)
            images[image, rows, columns] = tiles[image, tile]
    distilled = artifact.DistilledDataset(
        images, distilled.labels, distilled.segments, distilled.metadata
    )
    formed, labels = distilled.formed()
    assert formed.shape == (16, 8, 8, 3)
    assert formed.dtype == np.float32
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, [0, 1, 0, 1] * 4)
    for tile in range(4):
        for image in range(4):
            expected = np.full((8, 8, 3), tiles[image, tile] / 255, np.float32)
            actual = formed[tile * 4 + image]
            np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_replacing_keeps_only_the_new_dataset(tmp_path):
    artifact.save_distilled(tmp_path / "a", _make(seed=0))
    (tmp_path / "a" / "stray").write_text("x")
    artifact.save_distilled(tmp_path / "a", _make(seed=1))
    _assert_same(artifact.load_distilled(tmp_path / "a"), _make(seed=1))
    assert not (tmp_path / "a" / "stray").exists()
    assert os.listdir(tmp_path) == ["a"]


def test_a_foreign_directory_is_not_replaced(tmp_path):
    (tmp_path / "precious").write_text("x")
    with pytest.raises(artifact.ArtifactError, match="not a distilled dataset"):
        artifact.save_distilled(tmp_path, _make())
    with pytest.raises(artifact.ArtifactError, match="not a distilled dataset"):
        artifact.save_distilled(tmp_path / "precious", _make())
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.parametrize("crash_at", ["replace_directory_atomic", "write_json_atomic"])
def test_a_crash_while_saving_leaves_the_old_dataset(tmp_path, monkeypatch, crash_at):
    artifact.save_distilled(tmp_path / "a", _make(seed=0))

    def crash(*unused_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(fileio, crash_at, crash)
    with pytest.raises(KeyboardInterrupt):
        artifact.save_distilled(tmp_path / "a", _make(seed=1))
    monkeypatch.undo()
    _assert_same(artifact.load_distilled(tmp_path / "a"), _make(seed=0))
    assert os.listdir(tmp_path) == ["a"]


def test_a_reader_follows_a_replacement(tmp_path, monkeypatch):
    artifact.save_distilled(tmp_path / "a", _make(seed=0))
    read, replaced = directory._read, []

    def read_and_replace(file):
        content = read(file)
        if not replaced:
            replaced.append(True)
            artifact.save_distilled(tmp_path / "a", _make(seed=1))
        return content

    monkeypatch.setattr(directory, "_read", read_and_replace)
    _assert_same(artifact.load_distilled(tmp_path / "a"), _make(seed=1))


# --- fileio ---


def test_a_crash_before_the_rename_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    fileio.write_bytes_atomic(path, b"old")

    def crash(*unused_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        fileio.write_bytes_atomic(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_killed_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    fileio.write_bytes_atomic(path, b"old")
    code = (
        "import os, sys; from d4a_jax.storage import fileio\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "fileio.write_bytes_atomic(sys.argv[1], b'new')"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=_ROOT, check=False)
    assert done.returncode == -9
    assert path.read_bytes() == b"old"
    fileio.write_bytes_atomic(path, b"newer")
    assert path.read_bytes() == b"newer"


def test_written_files_obey_the_umask(tmp_path):
    old = os.umask(0o022)
    try:
        fileio.write_bytes_atomic(tmp_path / "file", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o644


def test_objects_are_not_pickled(tmp_path):
    with pytest.raises(ValueError):
        fileio.save_array_atomic(tmp_path / "a.npy", np.array([{}]))
    assert os.listdir(tmp_path) == []


def test_json_is_strict():
    with pytest.raises(ValueError, match="cannot be written as JSON"):
        fileio.dump_json({"a": float("nan")})
    with pytest.raises(ValueError, match="type object has no JSON form"):
        fileio.dump_json({"a": object()})
    value = {"a": np.float32(0.5), "b": (1, np.int64(2)), "c": np.eye(1)}
    assert json.loads(fileio.dump_json(value)) == {"a": 0.5, "b": [1, 2], "c": [[1]]}


def test_digests(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert fileio.sha256_file(tmp_path / "file") == expected
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    digest = fileio.sha256_array(array)
    assert fileio.sha256_array(np.asfortranarray(array)) == digest
    assert fileio.sha256_array(array.astype(">i4")) == digest
    assert fileio.sha256_array(array.reshape(3, 2)) != digest
    assert fileio.sha256_array(array.astype(np.uint32)) != digest


@pytest.mark.parametrize("exchange", [True, False])
def test_replace_directory(tmp_path, monkeypatch, exchange):
    if not exchange:
        monkeypatch.setattr(fileio, "_exchange", lambda *_: False)
    for value in ("old", "new"):
        (tmp_path / "tmp").mkdir()
        (tmp_path / "tmp" / "file").write_text(value)
        fileio.replace_directory_atomic(tmp_path / "tmp", tmp_path / "final")
        assert (tmp_path / "final" / "file").read_text() == value
        assert os.listdir(tmp_path) == ["final"]


def test_replace_directory_restores_the_old_one(tmp_path, monkeypatch):
    monkeypatch.setattr(fileio, "_exchange", lambda *_: False)
    for name in ("tmp", "final"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    rename = os.rename

    def fail_on_the_new(source, target):
        if Path(source).name == "tmp":
            raise OSError("no space")
        rename(source, target)

    monkeypatch.setattr(os, "rename", fail_on_the_new)
    with pytest.raises(OSError, match="no space"):
        fileio.replace_directory_atomic(tmp_path / "tmp", tmp_path / "final")
    assert (tmp_path / "final" / "file").read_text() == "final"


def _take_lock(workdir):
    code = (
        "import sys; from d4a_jax.storage import fileio\n"
        "try:\n"
        "  with fileio.WorkdirLock(sys.argv[1]): print('taken')\n"
        "except fileio.WorkdirBusyError as error: print(error)\n"
    )
    command = [sys.executable, "-c", code, workdir]
    return subprocess.run(
        command, cwd=_ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_a_second_process_is_refused(tmp_path):
    pytest.importorskip("fcntl")
    with fileio.WorkdirLock(tmp_path / "run"):
        refusal = _take_lock(tmp_path / "run")
        host = os.uname().nodename
        assert f"in use by process {os.getpid()} on {host}" in refusal
        with pytest.raises(fileio.WorkdirBusyError, match=str(os.getpid())):
            fileio.WorkdirLock(tmp_path / "run").__enter__()
    assert _take_lock(tmp_path / "run") == "taken"


def test_the_lock_of_a_dead_process_does_not_block(tmp_path):
    pytest.importorskip("fcntl")
    code = (
        "import os, sys; from d4a_jax.storage import fileio\n"
        "fileio.WorkdirLock(sys.argv[1]).__enter__(); os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, tmp_path]
    assert subprocess.run(command, cwd=_ROOT, check=False).returncode == -9
    assert "pid" in json.loads((tmp_path / ".lock").read_text())
    with fileio.WorkdirLock(tmp_path):
        owner = json.loads((tmp_path / ".lock").read_text())
        assert owner["pid"] == os.getpid()
        assert owner["started"] > 0


# --- gallery ---


def test_gallery_places_enlarged_images(tmp_path):
    images = np.arange(4, dtype=np.uint8).reshape(4, 1, 1, 1) * 60
    images = np.tile(images, (1, 8, 8, 3))
    labels = np.array([0, 0, 1, 1])
    gallery.save_gallery(
        tmp_path / "g.png", images, labels, ["a", "b"], np.array([0, 1, 0, 1])
    )
    picture = np.asarray(Image.open(tmp_path / "g.png"))
    for value in (0, 60, 120, 180):
        rows, columns = np.nonzero((picture == value).all(-1))
        block = picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
        # Text may share a gray level here and there, but never fills 64 x 64 pixels.
        assert (picture == value).all(-1).sum() >= 64 * 64
        assert block.shape[0] >= 64


def test_gallery_shares_the_columns_among_the_segments():
    images = np.zeros((8, 32, 32, 1), np.uint8)
    images[4:] = 255
    labels, segments = np.zeros(8, int), np.repeat([0, 1], 4)
    picture = gallery.render_gallery(images, labels, ["a"], segments, 4, scale=1)
    black = (np.asarray(picture) == 0).all(-1).sum()
    assert black == 2 * 32 * 32


def test_gallery_limits_its_height():
    images = np.zeros((200, 64, 64, 3), np.uint8)
    names = [f"a name that goes on and on and on, {i}" for i in range(200)]
    picture = gallery.render_gallery(images, np.arange(200), names)
    assert picture.height < 4000
    assert picture.width < 500
    assert gallery._notes(np.arange(200), names, [1], 50) == [
        "The first 50 of 200 classes."
    ]


def test_gallery_refuses_floats():
    with pytest.raises(ValueError, match="uint8"):
        gallery.render_gallery(np.zeros((1, 8, 8, 3)), np.zeros(1, int), ["a"])

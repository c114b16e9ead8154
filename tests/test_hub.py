"""Tests of the Hugging Face Hub's format and of d4a_jax.artifact.hub."""

import json
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest

import d4a_jax
from d4a_jax import artifact, export
from d4a_jax.artifact import ArtifactError

yaml = pytest.importorskip("yaml")


def _make(factor=2, **metadata):
    rng = np.random.default_rng(0)
    values = {
        "dataset": "toy", "class_names": ["cat", "dog: 'big'"], "mean": [0.5] * 3,
        "std": [0.25] * 3, "factor": factor, "segment_sizes": [1, 1],
        "images_per_class": 2,
    }  # fmt: skip
    return artifact.DistilledDataset(
        rng.integers(0, 256, (4, 8, 8, 3)).astype(np.uint8),
        np.array([0, 1, 0, 1], np.int32),
        np.array([0, 0, 1, 1], np.int32),
        values | metadata,
    )


def _evaluation(top1):
    return {"network": "convnet", "top1": top1, "top1_std": 0.5, "repeats": 3,
            "steps": 1200}  # fmt: skip


def _card(path):
    text = (path / "README.md").read_text(encoding="utf-8")
    _, header, body = text.split("---\n", 2)
    return yaml.safe_load(header), body


def test_the_card_has_what_the_hub_reads(tmp_path):
    export.export_distilled(_make(), tmp_path / "out", "huggingface", license="mit")
    header, body = _card(tmp_path / "out")
    assert header["license"] == "mit"
    assert header["task_categories"] == ["image-classification"]
    assert header["size_categories"] == ["n<1K"]
    assert "dataset-distillation" in header["tags"]
    assert header["pretty_name"] == "Distilled toy"
    config = header["configs"][0]
    assert config["data_files"] == [{"split": "train", "path": "train/**"}]
    names = header["dataset_info"]["features"][1]["dtype"]["class_label"]["names"]
    assert names == {"0": "cat", "1": "dog: 'big'"}
    assert "](gallery.png)" in body
    assert (tmp_path / "out" / "gallery.png").read_bytes().startswith(b"\x89PNG")
    assert "No accuracy of networks" in body


def test_the_card_without_a_licence_says_that_it_is_unknown(tmp_path):
    export.export_distilled(_make(), tmp_path / "out", "huggingface")
    assert _card(tmp_path / "out")[0]["license"] == "unknown"


def test_the_card_shows_the_accuracies_of_the_run_and_their_protocol(tmp_path):
    history = [
        {"images_per_class": n, "evaluation": _evaluation(top1)}
        for n, top1 in ((1, 40.123), (2, 50.5))
    ]
    protocol = {"epochs": 300, "learning_rate": 0.01}
    distilled = _make(history=history, protocol=protocol)
    export.export_distilled(distilled, tmp_path / "out", "huggingface")
    body = _card(tmp_path / "out")[1]
    assert "| convnet | 1 | 40.12 ± 0.50 | 3 | 1,200 |" in body
    assert "| convnet | 2 | 50.50 ± 0.50 | 3 | 1,200 |" in body
    assert "Protocol: epochs 300, learning_rate 0.01." in body


def _run(tmp_path, *arguments):
    script = Path(__file__).resolve().parent.parent / "experiments" / "export.py"
    return subprocess.run(
        [sys.executable, script, "--artifact=a", "--format=huggingface", *arguments],
        cwd=tmp_path, check=False, capture_output=True, text=True,
    )  # fmt: skip


def test_the_command_shows_what_evaluate_wrote(tmp_path):
    artifact.save_distilled(tmp_path / "a", _make(), with_gallery=False)
    report = {
        "images": 4, "protocol": {"epochs": 7}, "results": [_evaluation(61.0)],
    }  # fmt: skip
    (tmp_path / "t.json").write_text(json.dumps(report))
    done = _run(tmp_path, "--output=out", "--results=t.json", "--license=cc-by-4.0")
    assert done.returncode == 0, done.stderr
    header, body = _card(tmp_path / "out")
    assert header["license"] == "cc-by-4.0"
    assert "| convnet | 2 | 61.00 ± 0.50 | 3 | 1,200 |" in body
    assert "Protocol: epochs 7." in body
    (tmp_path / "t.json").write_text(json.dumps(report | {"images": 5}))
    done = _run(tmp_path, "--output=other", "--results=t.json")
    assert done.returncode == 1
    assert "no output of evaluate.py for this set: it is not of this" in done.stderr
    assert not (tmp_path / "other").exists()


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub that is a local folder; returns the calls that it got."""
    export.export_distilled(_make(), tmp_path / "out", "huggingface")
    calls = []

    def snapshot_download(name, repo_type, revision):
        calls.append((name, repo_type, revision))
        if name != "me/toy":
            raise OSError("404: Repository not found\nmore")
        return str(tmp_path / "out")

    fake = types.ModuleType("huggingface_hub")
    fake.snapshot_download = snapshot_download
    monkeypatch.setitem(sys.modules, "huggingface_hub", fake)
    return calls


def test_a_set_is_loaded_from_the_hub(hub):
    distilled = d4a_jax.load_distilled("hf://me/toy")
    assert artifact.same_distilled(distilled, _make())
    assert distilled.metadata == _make().metadata
    first = d4a_jax.load_distilled("hf://me/toy@v1", segments=1)
    assert artifact.same_distilled(first, _make().prefix(1))
    imported = d4a_jax.import_distilled("hf://me/toy")
    assert artifact.same_distilled(imported, _make())
    names = [("me/toy", "dataset", None), ("me/toy", "dataset", "v1")]
    assert hub == [*names, names[0]]


def test_what_the_hub_does_not_have_is_one_sentence(hub):
    with pytest.raises(ArtifactError, match="me/other cannot be had: 404: [^\n]*$"):
        d4a_jax.load_distilled("hf://me/other")
    for address in ("hf://toy", "hf://me/toy/more", "hf:///toy"):
        with pytest.raises(ArtifactError, match="is no address of a set on the Hub"):
            d4a_jax.load_distilled(address)


def test_without_the_package_its_name_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ArtifactError, match="needs the package huggingface_hub: pip"):
        d4a_jax.load_distilled("hf://me/toy")


def test_the_real_package_reads_the_card(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    hub = pytest.importorskip("huggingface_hub")
    export.export_distilled(_make(), tmp_path / "out", "huggingface", license="mit")
    card = hub.DatasetCard.load(tmp_path / "out" / "README.md")
    assert card.data.license == "mit"
    assert card.data.size_categories == ["n<1K"]
    with pytest.raises(ArtifactError, match="hf://me/no-such-set cannot be had: "):
        d4a_jax.load_distilled("hf://me/no-such-set")

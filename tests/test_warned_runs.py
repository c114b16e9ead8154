"""The command says what is scarce, scaled or saturated, and what it makes is right."""

import json

import numpy as np
import pytest

from d4a_jax.artifact import load_distilled
from experiments import config_flag, run


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A run on 12-bit images of which one class has two, at far too large a rate."""
    folder = tmp_path_factory.mktemp("own")
    rng = np.random.default_rng(0)
    labels = np.array([0] * 2 + [1] * 13)
    images = rng.integers(0, 4096, (15, 8, 8, 1)).astype(np.uint16)
    images[0, 0, 0], images[1, 0, 0] = 0, 4095
    names = ("train_images", "train_labels", "test_images", "test_labels")
    np.savez(
        folder / "scans.npz", **dict(zip(names, (images, labels, images, labels)))
    )
    flags = (
        *("--config=configs/folder.py:smoke", "--config.data.name=arrays"),
        *(f"--config.data.path={folder / 'scans.npz'}", "--config.synthetic.factor=1"),
        *(f"--config.data.data_dir={folder}", "--config.matching.learning_rate=1e6"),
        *("--config.synthetic.images_per_class=6", "--config.runtime.devices=1"),
        *("--config.network=convnet:width=4:depth=1", "--config.filter.enabled=False"),
    )
    choice, _ = config_flag.parse(["run.py", *flags])
    return choice, folder


def test_a_run_of_the_command_says_what_a_user_must_know(made, caplog, capsys):
    choice, folder = made
    with caplog.at_level("INFO", "d4a_jax"):
        run.run(choice, folder / "run")
    said = caplog.text + capsys.readouterr().out
    assert "Of each class" in said and "has 2" in said
    assert "4095" in said
    assert "% of the pixels of segment" in said and "are 0 or 255" in said
    distilled = load_distilled(folder / "run" / "distilled")
    metadata = distilled.metadata
    assert metadata["pixel_range"] == [0, 4095]
    assert metadata["history"][0]["saturated"] > 0.5
    assert json.loads((folder / "run" / "config.json").read_bytes())["dataset"]
    # Nothing of six images is there twice, although a class has only two.
    of_class = distilled.images[distilled.labels == 0].reshape(6, -1)
    assert len(np.unique(of_class, axis=0)) == 6

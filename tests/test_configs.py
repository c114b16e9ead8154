"""Every configuration file, and every `:smoke` from start to end."""

import importlib
import re
from pathlib import Path

import numpy as np
import pytest

from d4a_jax import config as configs
from d4a_jax.config import Config, differences
from d4a_jax.data import load_dataset
from d4a_jax.distillation import distill

FOLDER = Path(__file__).resolve().parent.parent / "experiments" / "configs"
NAMES = sorted(
    path.stem for path in FOLDER.glob("*.py") if path.stem not in ("__init__", "base")
)
# Sides of the real images, for stand-ins where the data set is not at hand. The other
# methods on CIFAR-10 and Tiny-ImageNet take as few pixels as they can, to save time.
SIDES = {
    "cifar10_ipc": 32,
    "cifar100": 32,
    "cifar10_": 8,
    "svhn": 32,
    "fashion_mnist": 28,
    "tin": 16,
    "imagenet": 32,
    "folder": 16,
}


def load(name, arg=""):
    module = importlib.import_module(f"experiments.configs.{name}")
    return module, module.get_config(arg).to_dict()


def test_the_promised_configurations_exist():
    promised = """digits cifar10_ipc10 cifar10_ipc50 cifar100_ipc10 fashion_mnist_ipc10
    svhn_ipc10 tin10 tin50 imagenet10 imagenet100
    cifar10_mtt cifar10_d4a_mtt cifar10_datm tin50_datm tin50_selmatch
    cifar10_cafe cifar10_dc cifar10_dsa cifar10_dm cifar10_d4a_dm cifar10_pdd
    cifar10_sre2l"""
    assert set(promised.split()) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_value_is_valid_and_documented(name):
    module, values = load(name)
    config = configs.from_dict(values)
    for key in differences(config.to_dict(), Config().to_dict()):
        assert re.search(rf"^ +{re.escape(key)} ", module.__doc__, re.M), key
    assert f"configs/{name}.py" in module.__doc__ or name == "digits"


@pytest.mark.parametrize("name", NAMES)
def test_other_arguments_are_refused(name):
    with pytest.raises(ValueError, match="'big'.*smoke"):
        load(name, "big")


@pytest.mark.parametrize(
    "name",
    # Those that differ by a number only may share compiled programs.
    [
        pytest.param(name, marks=pytest.mark.xdist_group(name.rstrip("0123456789")))
        for name in NAMES
    ],
)
def test_smoke_runs_every_phase(name, tmp_path):
    _, values = load(name, "smoke")
    if name != "digits":
        values["data"] |= stand_in(name, tmp_path)
    values["data"]["data_dir"] = str(tmp_path)
    values["runtime"]["devices"] = 1
    config = configs.from_dict(values)
    data = config.data
    dataset = load_dataset(
        data.name, data_dir=str(tmp_path), path=data.path, classes=data.classes
    )
    distilled = distill(dataset, config, tmp_path / "run")
    *earlier, last = distilled.metadata["history"]
    assert len(earlier) == (load(name)[1]["synthetic"]["segments"] != 1)
    if config.filter.enabled:
        assert all(0 < entry["filter"]["kept"] <= 1 for entry in earlier)
    assert 0 <= last["evaluation"]["top1"] <= 100
    assert (tmp_path / "run" / "distilled" / "gallery.png").exists()
    assert len(distilled.images) == 2 * dataset.num_classes
    assert (distilled.label_logits is not None) == config.method.learns_labels


def stand_in(name, folder):
    """Random images of the right shape, as the data set `arrays`."""
    side = next(side for prefix, side in SIDES.items() if name.startswith(prefix))
    channels = 1 if name.startswith("fashion") else 3
    rng = np.random.default_rng(0)

    def split(per_class):
        labels = np.repeat(np.arange(3), per_class)
        shape = (len(labels), side, side, channels)
        return rng.integers(0, 256, shape, dtype=np.uint8), labels

    arrays = {}
    for part, per_class in (("train", 40), ("test", 4)):
        arrays[f"{part}_images"], arrays[f"{part}_labels"] = split(per_class)
    np.savez(folder / "stand_in.npz", **arrays)
    return {"name": "arrays", "path": str(folder / "stand_in.npz"), "size": None}

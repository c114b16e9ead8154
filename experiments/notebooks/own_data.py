# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Distil your own images
#
# `DATA` is a folder with a folder for each class, or with `train/` and `test/` that
# hold such folders. Without one, the notebook writes scikit-learn's handwritten digits
# as PNG files and distils those.

# %%
import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # @param {type:"string"}
DATA = ""  # @param {type:"string"}
SIZE = 0  # @param {type:"integer"}
IMAGES_PER_CLASS = 10  # @param {type:"integer"}

# The test of this notebook shrinks it to a run of seconds on a CPU.
SMOKE = bool(os.environ.get("D4A_SMOKE"))
STORE = Path(os.environ.get("D4A_STORE", "runs")) / "own-data"


def run(*command):
    """Runs a Python program, and stops the notebook where it fails."""
    subprocess.run([sys.executable, *map(str, command)], check=True)


# %%
folders = [Path.cwd(), *Path.cwd().parents, Path.cwd() / "d4a-jax"]
found = [folder for folder in folders if (folder / "experiments/run.py").exists()]
if found:
    CODE = found[0]
elif REPOSITORY:
    CODE = Path.cwd() / "d4a-jax"
    subprocess.run(["git", "clone", "--depth=1", REPOSITORY, CODE], check=True)
else:
    raise SystemExit("REPOSITORY is empty; enter the address of the repository above.")
if not SMOKE:
    run("-m", "pip", "install", "--quiet", "-e", CODE)
sys.path.insert(0, str(CODE))

# %% [markdown]
# ## The images

# %%
import numpy as np
from PIL import Image

folder = Path(DATA) if DATA else STORE / "digits"
flips = bool(DATA)  # A mirrored digit is another one.
if not DATA and not folder.exists():
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (image, label) in enumerate(zip(digits.images, digits.target)):
        if SMOKE and (label > 2 or number > 300):
            continue
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
        pixels = np.rint(image * 255 / 16).astype(np.uint8)
        Image.fromarray(pixels).save(folder / str(label) / f"{number}.png")

# %% [markdown]
# Everything about them is found by itself. What cannot be used, such as a damaged file
# or images of different sizes, is named; `SIZE` resizes them all.

# %%
from d4a_jax import load_dataset

dataset = load_dataset(
    "image_folder", path=folder, size=SIZE or None, data_dir=STORE / "data"
)
train, test = len(dataset.train_labels), len(dataset.test_labels)
print(f"{train} training and {test} test images")
print("height, width, channels:", dataset.image_shape)
print("classes:", ", ".join(dataset.class_names))
print("mean and standard deviation:", dataset.mean, dataset.std)

# %% [markdown]
# ## Distil
#
# The network's depth follows from the size of the images, and a short range test finds
# the learning rate of the pixels. More `outer_iterations` give better images.

# %%
workdir = STORE / "run"
settings = [
    f"--config.data.path={folder}",
    f"--config.data.size={SIZE or None}",
    f"--config.data.data_dir={STORE / 'data'}",
]
if not SMOKE:
    settings += [
        f"--config.synthetic.images_per_class={IMAGES_PER_CLASS}",
        "--config.matching.outer_iterations=40",
    ]
if not flips:
    settings += ["--config.evaluation.augmentation=color_crop_scale_rotate"]
config = "configs/folder.py:smoke" if SMOKE else "configs/folder.py"
settings += [f"--config={config}", f"--workdir={workdir}"]
run(CODE / "experiments/run.py", *settings)

# %% [markdown]
# The chart of the range test: the matching loss after a few steps at every rate, where
# less is better, and the rate that was chosen.

# %%
from IPython.display import Image as Picture
from IPython.display import display

display(Picture(workdir / "learning_rate.png"))

# %%
display(Picture(workdir / "distilled/gallery.png"))

# %% [markdown]
# ## Use them
#
# As a folder of PNG files for any tool, or directly:

# %%
output = STORE / "png"
if not output.exists():
    run(
        CODE / "experiments/export.py",
        f"--artifact={workdir / 'distilled'}",
        "--format=imagefolder",
        "--formed",
        f"--output={output}",
    )
print(len(list(output.glob("train/*/*.png"))), "images in", output / "train")

# %%
from d4a_jax import load_distilled

distilled = load_distilled(workdir / "distilled")
print(distilled.images.shape, "stored;", distilled.num_segments, "segments")
for entry in distilled.metadata["history"]:
    accuracy = entry["evaluation"]["top1"]
    print(f"{entry['images_per_class']} per class: {accuracy:.1f} % of the test images")

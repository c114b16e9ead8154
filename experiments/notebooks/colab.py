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
# # Dataset distillation with D4A on a TPU or GPU
#
# Distils a data set in segments, shows the images and how well networks trained on them
# do on easy and on hard real images (Figure 1 of the paper), and exports the result.
#
# In Colab: *Runtime → Change runtime type*, choose a TPU or a GPU, then *Run all*. When
# the machine is taken away, connect again and run all cells again: everything is kept
# on your Drive, and the run continues where it was.

# %%
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = ""  # @param {type:"string"}
CONFIG = "configs/cifar10_ipc10.py"  # @param {type:"string"}
RUN = "cifar10_ipc10"  # @param {type:"string"}

# The test of this notebook shrinks it to a run of seconds on a CPU.
SMOKE = bool(os.environ.get("D4A_SMOKE"))
if SMOKE:
    CONFIG, RUN = "configs/digits.py:smoke", "digits-smoke"


def run(*command):
    """Runs a Python program, and stops the notebook where it fails."""
    subprocess.run([sys.executable, *map(str, command)], check=True)


# %% [markdown]
# ## Install
#
# `REPOSITORY` is the address that `git clone` takes. The programs run in processes of
# their own, so a JAX that this notebook already loaded does no harm.

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
    jax = "jax[cuda12]" if shutil.which("nvidia-smi") else "jax"
    jax = "jax[tpu]" if any(Path("/dev").glob("accel*")) else jax
    run("-m", "pip", "install", "--quiet", "-e", CODE, f"{jax}>=0.10,<0.12")

# %%
devices = "import jax; print(jax.default_backend(), jax.device_count())"
backend, count = subprocess.check_output(
    [sys.executable, "-c", devices], text=True
).split()[-2:]
print(f"{count} {backend} device(s)")
if backend == "cpu" and not SMOKE:
    raise SystemExit("There is no TPU or GPU: choose one as the type of the runtime.")

# %% [markdown]
# ## Keep everything on Drive
#
# Without Google Drive, as on your own machine, it is kept in the folder `runs`.

# %%
try:
    from google.colab import drive

    drive.mount("/content/drive")
    STORE = Path("/content/drive/MyDrive/d4a-jax")
except ImportError:
    STORE = Path(os.environ.get("D4A_STORE", "runs"))
WORKDIR = STORE / RUN
STORE.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# ## Distil
#
# The first start downloads and prepares the data. Stop it whenever you like: the same
# cell continues.

# %%
run(CODE / "experiments/run.py", f"--config={CONFIG}", f"--workdir={WORKDIR}")

# %% [markdown]
# ## The images
#
# A row for each class, a group of columns for each segment. With factor 2 every stored
# image holds four training images.

# %%
from IPython.display import Image, display

display(Image(WORKDIR / "distilled/gallery.png"))

# %% [markdown]
# ## Figure 1: easy and hard images
#
# All real images are ordered by the loss of networks that were trained without them,
# and cut into ten parts. How many of each part do networks classify correctly that were
# trained on the distilled set, on as many random images, and on its segments?

# %%
small = ["--repeats=2", "--max_steps=4", "--bins=3"] if SMOKE else []
figures = STORE / f"{RUN}-analysis"
run(
    CODE / "experiments/analyze.py",
    f"--artifacts={WORKDIR}",
    "--labels=D4A",
    "--random",
    f"--output={figures}",
    *small,
)
display(Image(figures / "difficulty-test.png"))

# %% [markdown]
# ## Export
#
# Formats: `imagefolder`, `npz`, `safetensors`, `torch`, `tfds`, `huggingface`.
# `--formed` writes the training images, `--segments=2` only the first two segments.

# %%
export = STORE / f"{RUN}.npz"
export.unlink(missing_ok=True)
run(
    CODE / "experiments/export.py",
    f"--artifact={WORKDIR / 'distilled'}",
    "--format=npz",
    "--formed",
    f"--output={export}",
)

# %%
import numpy as np

with np.load(export) as loaded:
    print({name: loaded[name].shape for name in ("images", "labels", "segments")})

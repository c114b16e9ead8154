"""Times the official IDC code and this library on the same work, turn by turn."""

import dataclasses
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from d4a_jax.log import logger
from experiments.benchmark import measure, official
from experiments.benchmark.one_class import match_class
from experiments.benchmark.pieces import Subject

# In float32 the two differ by rounding; another computation differs by far more.
_TOLERANCE = 1e-2
_WORK = {"matching": "match", "iteration": "iterate"}


@dataclasses.dataclass
class Comparison:
    """The official code against this library in one kind of work.

    Attributes:
      name: of the work.
      official_seconds: of one step, from each turn.
      our_seconds: of one step, from the same turns.
      skipped: why it was not measured; None if it was.
    """

    name: str
    official_seconds: tuple[float, ...] = ()
    our_seconds: tuple[float, ...] = ()
    skipped: str | None = None

    @property
    def ratio_of_medians(self) -> float:
        ours = statistics.median(self.our_seconds)
        return statistics.median(self.official_seconds) / ours

    @property
    def ratios(self) -> list[float]:
        """Official time over ours, turn by turn."""
        pairs = zip(self.official_seconds, self.our_seconds, strict=True)
        return [theirs / ours for theirs, ours in pairs]


def device_of_torch() -> str:
    """PyTorch's name of the device that JAX computes on, if it has it, or "cpu"."""
    import torch

    on_gpu = jax.default_backend() == "gpu" and torch.cuda.is_available()
    return "cuda" if on_gpu else "cpu"


def compare(
    path: str | Path,
    subject: Subject,
    rows: list[measure.Row],
    calls: dict[str, Callable[[], None]],
    repeats: int,
    deadline: float,
) -> tuple[list[Comparison], float]:
    """Checks that the two compute the same gradient, then times them in turns.

    Args:
      path: checkout of the official code.
      subject: the case.
      rows: of this library's pieces.
      calls: this library's compiled pieces.
      repeats: turns.
      deadline: on the clock of `time.perf_counter`.

    Returns:
      A comparison for matching and one for the whole iteration, and the relative
      difference of the pixel gradients.
    """
    session = _session(path, subject)
    error = gradient_difference(session, subject)
    turns = {row.name: row.turns for row in rows}
    results = [Comparison(name) for name in _WORK]
    timed, reserved = {}, 0.0
    for result in results:
        if error > _TOLERANCE:
            result.skipped = f"the gradients differ by {error:.1e}"
        elif result.name not in calls:
            result.skipped = "not measured above"
        elif time.perf_counter() + reserved > deadline:
            result.skipped = "budget"
        else:
            theirs = getattr(session, _WORK[result.name])
            reserved += measure.seconds_of(theirs)
            timed[f"official {result.name}"] = theirs
            timed[result.name] = calls[result.name]
    times = measure.in_turns(timed, repeats, deadline)
    for result in results:
        result.official_seconds = tuple(times.get(f"official {result.name}", ()))
        ours = times.get(result.name, ())
        result.our_seconds = tuple(t / turns[result.name] for t in ours)
    return results, error


def _session(path, subject) -> official.Session:
    device = device_of_torch()
    logger.info("  the official code on %s", device)
    state = subject.segment.method
    return official.Session(
        official.load(path, device),
        subject.run.config,
        np.asarray(subject.task.data.images),
        np.asarray(subject.segment.params["images"]),
        official_weights(jax.tree.map(np.asarray, state.params)),
        device,
    )


def gradient_difference(session: official.Session, subject: Subject) -> float:
    """Relative difference of the two pixel gradients on one augmented batch.

    Both in float32, without TF32. The batch is augmented by the official code.
    """
    import torch

    config = subject.run.config
    size = config.matching.batch_real
    images = np.asarray(subject.task.data.images[0, :size], np.float32) / 255
    new, _ = session.synthetic.sample(0)
    real = torch.tensor(_nchw(images), device=new.device)
    both = _nhwc(session.augment(torch.cat([real, new])))
    real, new = both[:size], both[size:]
    tf32 = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        _, theirs = official_match(session, real, new)
    finally:
        torch.backends.cudnn.allow_tf32 = tf32
    variables = subject.segment.method.variables
    _, ours = match_class(config.network, config.method, variables, 0, real, new)
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def official_match(
    session: official.Session, real: np.ndarray, new: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """What `match_class` returns, of class 0 by the official code, in its precision."""
    import torch

    device = next(session.model.parameters()).device
    tensors = [torch.tensor(_nchw(x), device=device) for x in (real, new)]
    tensors[1].requires_grad_()
    labels = [torch.zeros(len(x), dtype=torch.long, device=device) for x in tensors]
    loss = session.loss(*tensors, *labels)
    loss.backward()
    return loss.detach().cpu().numpy(), _nhwc(tensors[1].grad)


def _nchw(images):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _nhwc(tensor):
    return tensor.detach().cpu().numpy().transpose(0, 2, 3, 1)


def official_weights(params: dict) -> dict[str, np.ndarray]:
    """The parameters of a ConvNet or a ResNet-AP-10 by the official modules' names."""
    flat = traverse_util.flatten_dict(params, sep="/")
    is_convnet = "block0/conv/kernel" in flat
    depth = sum(array.ndim == 4 for array in flat.values())
    weights = {}
    for path, array in flat.items():
        name = _convnet_name(path) if is_convnet else _resnet_name(path)
        if array.ndim == 4:
            array = array.transpose(3, 2, 0, 1)
        elif array.ndim == 2:
            array = array.T
            if is_convnet:
                array = _channels_first(array, flat[f"block{depth - 1}/norm/scale"])
        weights[name] = array
    return weights


def _channels_first(kernel, channels):
    """Reorders a classifier's inputs from `[h, w, c]` to `[c, h, w]`, square maps."""
    count = len(channels)
    side = round((kernel.shape[1] // count) ** 0.5)
    maps = kernel.reshape(len(kernel), side, side, count)
    return maps.transpose(0, 3, 1, 2).reshape(len(kernel), -1)


def _leaf(name):
    return "bias" if name == "bias" else "weight"


def _convnet_name(path):
    *modules, leaf = path.split("/")
    if modules == ["classifier"]:
        return f"classifier.{_leaf(leaf)}"
    return f"layers.{modules[1]}.{modules[0].removeprefix('block')}.{_leaf(leaf)}"


def _resnet_name(path):
    *modules, leaf = path.split("/")
    if modules == ["classifier"]:
        return f"fc.{_leaf(leaf)}"
    is_norm = modules[-1] == "norm"
    if modules[0] == "stem":
        return f"layer0.{'bn1' if is_norm else 'conv1'}.{_leaf(leaf)}"
    stage, block = re.fullmatch(r"stage(\d+)_block(\d+)", modules[0]).groups()
    if modules[1] == "shortcut":
        inner = f"downsample.{2 if is_norm else 0}"
    else:
        number = modules[1].removeprefix("conv")
        inner = f"bn{number}" if is_norm else f"conv{number}"
    return f"layer{stage}.{block}.{inner}.{_leaf(leaf)}"

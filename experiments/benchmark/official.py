"""The official IDC code, from a user's own checkout, with nothing of it kept here.

The checkout (github.com/snu-mllab/Efficient-Dataset-Condensation) is read at run time.
Its modules parse the command line, need CUDA and import packages that the functions
measured here do not use, so these are cut out of the files and run by themselves.
"""

import ast
import contextlib
import functools
import importlib.util
import io
import math
import time
import types
from pathlib import Path
from typing import Any

import numpy as np

from d4a_jax.config import Config, ConfigError
from d4a_jax.distillation.segments import pixel_learning_rate

_NEEDED = {
    "condense.py": ("dist", "add_loss", "matchloss", "Synthesizer"),
    "data.py": ("_RepeatSampler", "ClassBatchSampler", "ClassMemDataLoader"),
    "misc/augment.py": ("DiffAug",),
    "misc/utils.py": (
        "AverageMeter",
        "Normalize",
        "accuracy",
        "rand_bbox",
        "random_indices",
    ),
    "models/convnet.py": ("ConvNet",),
    "models/resnet_ap.py": (
        "conv_stride1",
        "normalization",
        "IntroBlock",
        "BasicBlock",
        "Bottleneck",
        "ResNetAP",
    ),
    "train.py": ("train_epoch",),
}
_METRICS = {"mse": "mse", "l1": "l1", "cosine": "cos"}


def check(path: str | Path) -> None:
    """Checks that a checkout has what is needed, and that PyTorch is there.

    Raises:
      ConfigError: naming what is missing.
    """
    root = Path(path)
    missing = [name for name in _NEEDED if not (root / name).is_file()]
    if missing:
        raise ConfigError(
            [
                f"--against is {str(path)!r}, which has no {missing[0]}; it must be a "
                "checkout of github.com/snu-mllab/Efficient-Dataset-Condensation."
            ]
        )
    for name in _NEEDED:
        _definitions(root, name)
    if importlib.util.find_spec("torch") is None:
        raise ConfigError(["--against needs PyTorch, which is not installed."])


def load(path: str | Path, device: str) -> dict[str, Any]:
    """Runs the needed definitions of a checkout that `check` accepts.

    Args:
      path: the checkout.
      device: PyTorch's name of the device.

    Returns:
      Functions and classes by name.
    """
    import torch  # Needed by this comparison alone.

    def convert(dtype):
        return lambda images: images.to(dtype) / 255

    names = {
        "F": torch.nn.functional,
        "ceil": math.ceil,
        "math": math,
        "nn": torch.nn,
        "np": _OlderNumpy(),
        "time": time,
        "torch": torch,
        # Of torchvision the loader uses this one alone.
        "transforms": types.SimpleNamespace(ConvertImageDtype=convert),
    }
    for name in _NEEDED:
        for node in _definitions(Path(path), name):
            exec(compile(ast.Module([node], []), name, "exec"), names)
    names["random_indices"] = functools.partial(names["random_indices"], device=device)
    names["accuracy"] = _for_few_classes(names["accuracy"])
    return names


def _for_few_classes(accuracy):
    """The top-5 accuracy that the training always asks for, with fewer classes too."""

    def capped(output, target, topk=(1,)):
        return accuracy(output, target, [min(k, output.shape[1]) for k in topk])

    return capped


def _definitions(root: Path, name: str) -> list[ast.stmt]:
    try:
        body = ast.parse((root / name).read_text(encoding="utf-8")).body
    except (SyntaxError, UnicodeDecodeError) as error:
        raise ConfigError([f"{root / name} is not Python: {error}."]) from None
    found = {getattr(node, "name", None): node for node in body}
    missing = [wanted for wanted in _NEEDED[name] if wanted not in found]
    if missing:
        raise ConfigError(
            [f"{root / name} does not define {missing[0]}, which --against measures."]
        )
    return [found[wanted] for wanted in _NEEDED[name]]


class _OlderNumpy:
    """NumPy with the alias `np.int`, which it has dropped since that code."""

    int = int

    def __getattr__(self, name):
        return getattr(np, name)


class Session:
    """One case as the official code runs it.

    Attributes:
      model: the network.
      synthetic: the synthetic set, float32 `[C n, c, h, w]` in `synthetic.data`.
    """

    def __init__(
        self,
        names: dict[str, Any],
        config: Config,
        images: np.ndarray,
        pixels: np.ndarray,
        weights: dict[str, np.ndarray],
        device: str,
    ):
        """Sets up what a run of the official program sets up.

        Args:
          names: from `load`.
          config: of the case.
          images: real images, uint8 `[C, m, h, w, c]`.
          pixels: synthetic images, float32 `[C, n, h, w, c]`.
          weights: the network's, by the names of the official modules.
          device: PyTorch's name of the device.
        """
        import torch

        torch.backends.cudnn.benchmark = True
        self._torch, self._names, self._device = torch, names, device
        self._config, self._num_classes = config, len(images)
        self._num_images = images.shape[0] * images.shape[1]
        self._args = self._arguments(config, len(images))
        with contextlib.redirect_stdout(io.StringIO()):  # It prints its shapes.
            self.synthetic = names["Synthesizer"](
                self._args, len(pixels), 3, *pixels.shape[2:4], device=device
            )
        flat = pixels.reshape(-1, *pixels.shape[2:]).transpose(0, 3, 1, 2)
        self.synthetic.data.data = torch.tensor(flat, device=device)
        self._loader = self._make_loader(images)
        self.model = self._make_model(weights, pixels.shape[2]).to(device).train()
        self.augment, self._augment_each = self._make_augmentations()
        self._make_optimizers(pixels.shape[1], pixels.shape[2])

    def match(self) -> None:
        """One matching step over all classes."""
        matching = self._config.matching
        for label in range(self._num_classes):
            real, real_labels = self._loader.class_sample(label)
            new, new_labels = self.synthetic.sample(
                label, max_size=matching.batch_syn_max
            )
            both = self.augment(self._torch.cat([real, new]))
            loss = self.loss(
                both[: len(real)], both[len(real) :], real_labels, new_labels
            )
            loss.item()  # The official loop sums the losses on the host.
            self._pixel_optimizer.zero_grad()
            loss.backward()
            self._pixel_optimizer.step()
        self._wait()

    def iterate(self) -> None:
        """One matching step over all classes and the training of the network."""
        self.match()
        left = self._config.network_training.images_per_step
        while left > 0:  # A call ends with an epoch, which may have fewer images.
            self._names["train_epoch"](
                self._args,
                self._loader,
                self.model,
                self._torch.nn.CrossEntropyLoss(),
                self._network_optimizer,
                n_data=left,
                aug=self._augment_each,
                mixup="cut",
            )
            left -= self._num_images
        self._wait()

    def loss(self, real, new, real_labels, new_labels):
        """The matching loss of augmented images."""
        return self._names["matchloss"](
            self._args, real, new, real_labels, new_labels, self.model
        )

    def _wait(self):
        if self._device != "cpu":
            self._torch.cuda.synchronize()

    def _arguments(self, config, num_classes):
        return types.SimpleNamespace(
            match="grad",
            metric=_METRICS[config.method.distance],
            bias=config.method.match_norm_and_bias,
            fc=config.method.match_classifier,
            ipc=config.synthetic.images_per_class,
            factor=config.synthetic.factor,
            decode_type=config.synthetic.decode,
            mix_p=config.network_training.cutmix_probability,
            beta=1.0,
            nclass=num_classes,
            print_freq=10,
            epoch_print_freq=1,
            verbose=False,
        )

    def _make_loader(self, images):
        """The loader that holds the real images in memory, one tensor each."""
        flat = images.reshape(-1, *images.shape[2:]).transpose(0, 3, 1, 2)
        tensors = self._torch.tensor(flat)
        if images.shape[2] < 200:  # ImageNet's are kept as bytes and converted late.
            tensors = tensors.float() / 255
        labels = np.repeat(np.arange(len(images)), images.shape[1]).tolist()
        dataset = _Pairs(tensors, labels, len(images))
        loader = self._names["ClassMemDataLoader"](
            dataset,
            batch_size=self._config.network_training.batch_size,
            device=self._device,
        )
        # The training loop would move the batches of a loader on "cpu" to a GPU.
        loader.device = "where the images are"
        return loader

    def _make_model(self, weights, side):
        if "layer0.conv1.weight" in weights:
            width = len(weights["layer0.conv1.weight"]) / 64
            model = self._names["ResNetAP"](
                *("imagenet", 10, self._num_classes),
                width=width,
                norm_type="instance",
                size=side,
            )
        else:
            convolutions = [w for name, w in weights.items() if w.ndim == 4]
            model = self._names["ConvNet"](
                self._num_classes,
                net_depth=len(convolutions),
                net_width=len(convolutions[0]),
                im_size=(side, side),
            )
        tensors = {k: self._torch.tensor(v) for k, v in weights.items()}
        model.load_state_dict(tensors)
        return model

    def _make_augmentations(self):
        """Of the matching, one draw for a batch, and of the training, one per image."""
        normalize = self._names["Normalize"]([0.5] * 3, [0.25] * 3, self._device)
        config, kind = self._config, self._names["DiffAug"]
        shared = kind(strategy=config.matching.augmentation, batch=True)
        each = kind(strategy=config.network_training.augmentation, batch=False)
        return (lambda x: shared(normalize(x))), (lambda x: each(normalize(x)))

    def _make_optimizers(self, images_per_class, side):
        sgd, training = self._torch.optim.SGD, self._config.network_training
        self._pixel_optimizer = sgd(
            self.synthetic.parameters(),
            lr=pixel_learning_rate(self._config, images_per_class, side),
            momentum=self._config.matching.momentum,
        )
        self._network_optimizer = sgd(
            self.model.parameters(),
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )


class _Pairs:
    """Images with labels, as the official loader reads them."""

    def __init__(self, images, labels, num_classes):
        self._images = images
        self.targets = labels
        self.nclass = num_classes

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        if index >= len(self):
            raise IndexError(index)  # Ends the loop over all pairs.
        return self._images[index], self.targets[index]

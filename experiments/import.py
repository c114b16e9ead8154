"""Imports a distilled set that others made, so that it can be judged here.

    python experiments/import.py --data=cifar10 \\
        --input=res_DM_CIFAR10_ConvNet_10ipc.pt \\
        --mean=0.4914,0.4822,0.4465 --std=0.2023,0.1994,0.2010 --output=imported/dm

`--input` is a folder of images for each class (SRe2L, RDED), an `.npz`, a safetensors
file, a `.pt` of tensors, among these the published forms of MTT, DATM, DC, DSA, DM and
IDC, an export of this library or `hf://owner/name`. Neither PyTorch nor the code of
others is run. The log says how the set was understood; `evaluate.py`, `analyze.py` and
`report.py` read the directory that is written:

    python experiments/evaluate.py --artifact=imported/dm --networks=convnet
"""

import sys
from pathlib import Path

_ROOT = str(Path(__file__).resolve().parent.parent)
if _ROOT not in sys.path:
    sys.path.insert(0, _ROOT)

from absl import app, flags  # noqa: E402

from d4a_jax.artifact import DistilledDataset, save_distilled  # noqa: E402
from d4a_jax.config import ConfigError  # noqa: E402
from d4a_jax.data import Dataset, load_dataset  # noqa: E402
from d4a_jax.imports import (  # noqa: E402
    import_distilled,
    read_values,
    read_whitening,
)
from d4a_jax.networks import create_network  # noqa: E402
from experiments import cli  # noqa: E402

_INPUT = flags.DEFINE_string("input", None, "File, folder or hf://owner/name.")
_OUTPUT = flags.DEFINE_string("output", None, "Directory to write.")
_DATA = flags.DEFINE_string("data", None, "Data set that was distilled.")
_DATA_PATH = flags.DEFINE_string("data_path", None, "Its path, for arrays or folders.")
_SIZE = flags.DEFINE_integer("size", None, "Side of its images.", lower_bound=1)
_CLASSES = flags.DEFINE_list("classes", None, "Its classes: a number, or labels.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where data are kept.")
_MANUAL_DIR = flags.DEFINE_string("manual_dir", None, "Folder with archives.")
_DOWNLOAD = flags.DEFINE_bool("download", True, "Whether data may be downloaded.")
_NAMES = flags.DEFINE_list("class_names", None, "Names of the classes, without --data.")
_NETWORK = flags.DEFINE_string("network", None, "Network that evaluations train.")
_FACTOR = flags.DEFINE_integer("factor", None, "Tiles per side of an image (IDC).", 1)
_MEAN = flags.DEFINE_list("mean", None, "Mean that floats were normalized by.")
_STD = flags.DEFINE_list("std", None, "Standard deviation, likewise.")
_LABELS = flags.DEFINE_string("labels", None, "File of labels, in place of its own.")
_WHITENING = flags.DEFINE_string(
    "whitening", None, "File with the inverse and the mean of a ZCA whitening."
)
_WHITENED = flags.DEFINE_bool("whitened", None, "Whether it is ZCA-whitened.")
_ENTRY = flags.DEFINE_integer("entry", 0, "Which of several sets in the file.", 0)
_SORTED = flags.DEFINE_bool(
    "sorted_folders", False, "Take sorted class folders for the classes in order."
)


def run() -> None:
    """Imports the set that the flags name."""
    for name, value in (("input", _INPUT.value), ("output", _OUTPUT.value)):
        if not value:
            raise ConfigError([f"--{name} must be given."])
    mean, std = _numbers("mean", _MEAN.value), _numbers("std", _STD.value)
    data, section = _data()
    distilled = import_distilled(
        _INPUT.value,
        data,
        factor=_FACTOR.value,
        mean=mean,
        std=std,
        labels=_labels(),
        whitening=_WHITENING.value and read_whitening(_WHITENING.value),
        whitened=_WHITENED.value,
        entry=_ENTRY.value,
        sorted_folders=_SORTED.value,
    )
    _record(distilled, section)
    save_distilled(_OUTPUT.value, distilled)
    print(summary(distilled))


def summary(distilled: DistilledDataset) -> str:
    """The set in one line."""
    height, width, channels = distilled.images.shape[1:]
    kind = "hard" if distilled.label_logits is None else "soft"
    return (
        f"{len(distilled.labels)} images ({height} x {width} x {channels}, factor "
        f"{distilled.factor}) of {distilled.num_classes} classes with {kind} labels: "
        f"{_OUTPUT.value}"
    )


def _numbers(flag, texts):
    if texts is None:
        return None
    try:
        return [float(text) for text in texts]
    except ValueError:
        raise ConfigError(
            [f"--{flag} is {','.join(texts)!r}; numbers with commas are needed."]
        ) from None


def _data() -> tuple[Dataset | list[str] | None, dict]:
    """The data, and how a configuration names them."""
    if _DATA.value is None:
        return _NAMES.value, {}
    if _NAMES.value:
        raise ConfigError(["--class_names is given with --data, which has its own."])
    classes = _numbers("classes", _CLASSES.value)
    if classes is not None:
        classes = [int(label) for label in classes]
        classes = classes[0] if len(classes) == 1 else tuple(classes)
    section = {"name": _DATA.value, "size": _SIZE.value, "classes": classes}
    dataset = load_dataset(
        **section,
        path=_DATA_PATH.value,
        data_dir=_DATA_DIR.value,
        manual_dir=_MANUAL_DIR.value,
        download=_DOWNLOAD.value,
    )
    return dataset, section


def _labels():
    if _LABELS.value is None:
        return None
    values = read_values(_LABELS.value)
    if isinstance(values, dict) and len(values) == 1:
        (values,) = values.values()
    if isinstance(values, dict):
        held = ", ".join(values)
        raise ConfigError(
            [f"--labels: {_LABELS.value} holds {held}; one array is needed."]
        )
    return values


def _record(distilled, section):
    """Notes where the data are, and the network, for those who judge the set."""
    if not section or "imported" not in distilled.metadata:
        return
    config = {"data": section}
    if _NETWORK.value:
        shape = distilled.images.shape[1:]
        try:
            create_network(_NETWORK.value, distilled.num_classes, shape)
        except ValueError as error:
            raise ConfigError([str(error)]) from None
        config["network"] = _NETWORK.value
    distilled.metadata["config"] = config


def _parse(argv):
    with cli.plain_user_errors():
        cli.parse_flags(argv)


def main(unused_argv) -> None:
    """Runs the command."""
    cli.set_up_logging()
    with cli.plain_user_errors():
        run()


if __name__ == "__main__":
    app.run(main, flags_parser=_parse)

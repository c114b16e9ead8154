"""Reference sets of the same storage that need no distillation: selected real images.

`random` draws them; `herding`, `k_center` and `k_means` go by the embeddings of a
network trained on the real set; `easiest`, `hardest`, `window=SHARE` and the windows
that a held-out part of the training set chooses (`loss_window`, `el2n_window`,
`aum_window`) by the difficulty that cross-fitted networks measure (see `rules`).
"""

from collections.abc import Sequence

import numpy as np

from d4a_jax.artifact import DistilledDataset
from d4a_jax.artifact.provenance import source_to_record
from d4a_jax.config import Config
from d4a_jax.data import Dataset
from d4a_jax.flips import default_config
from d4a_jax.log import logger
from d4a_jax.real_data import index_classes
from d4a_jax.selection.beginnings import describe_short_classes
from d4a_jax.selection.rules import RULES, Request, parse
from d4a_jax.selection.windows import stored_images

SELECTIONS = tuple(RULES)


def select_images(
    dataset: Dataset,
    selection: str,
    images_per_class: int | Sequence[int],
    factor: int = 1,
    config: Config | None = None,
    seed: int = 0,
) -> DistilledDataset:
    """Real training images chosen by a rule, the same number of each class.

    Args:
      dataset: the real data.
      selection: a name in `SELECTIONS`; a window is given as `window=SHARE`, with the
        share in [0, 1] of hardest images that is left out.
      images_per_class: how many images are stored for each class; several numbers
        make as many segments, of which all prefixes are the smaller sets under
        `random`, `herding` and `k_center` without mosaics.
      factor: 1 stores images as they are; more stores mosaics of `factor ** 2`
        downscaled images, which is what multi-formation starts from.
      config: networks that measure (`network`, `difficulty`, the recipe of
        `evaluation`) and that choose a window (`evaluation`), `data.data_dir` and
        `runtime`; not used by `random`. By default `default_config` of the data.
      seed: of the draw, or of the networks that embed the images or choose a window.

    Returns:
      The images; where a class has too few, all of them come before any of them comes
      again, with a warning. The metadata of a window that was chosen say which one,
      and why.

    Raises:
      ValueError: if the selection is unknown or a number is below 1.
    """
    config = config or default_config(dataset)
    rule, share = parse(selection)
    sizes = [int(n) for n in np.atleast_1d(images_per_class)]
    if not sizes or min(sizes) < 1 or factor < 1:
        raise ValueError(
            f"images_per_class is {images_per_class} and factor is {factor}; both must "
            "be at least 1."
        )
    index = index_classes(np.asarray(dataset.train_labels), dataset.num_classes)
    request = Request(dataset, index, sum(sizes), factor, config, seed, share)
    names, needed = dataset.class_names, request.needed
    if short := describe_short_classes(index.counts, names, needed):
        logger.warning(short)
    chosen = rule.choose(request)
    rows = [
        np.resize(of_class[positions], needed)
        for of_class, positions in zip(index.rows, chosen.positions)
    ]
    images = stored_images(dataset, np.stack(rows), factor)
    images = images.reshape(dataset.num_classes, -1, *images.shape[1:])
    method = f"{selection} real images"
    found = real_image_set(dataset, images, factor, method, seed, sizes)
    found.metadata.update(chosen.facts)
    return found


def random_images(
    dataset: Dataset,
    images_per_class: int | Sequence[int],
    factor: int = 1,
    seed: int = 0,
) -> DistilledDataset:
    """Real training images drawn at random; see `select_images`."""
    return select_images(dataset, "random", images_per_class, factor, seed=seed)


def real_image_set(
    dataset: Dataset,
    images: np.ndarray,
    factor: int,
    method: str,
    seed: int,
    sizes: Sequence[int] = (),
) -> DistilledDataset:
    """A set of stored images uint8 `[C, n, h, w, c]`.

    Args:
      dataset: where they come from.
      images: the images of every class in their order.
      factor: of multi-formation.
      method: how they were chosen.
      seed: of the choice.
      sizes: images per class of each segment; one segment by default.
    """
    sizes = list(sizes) or [images.shape[1]]
    ends = np.cumsum(sizes)[:-1]
    parts = [part.reshape(-1, *images.shape[2:]) for part in np.split(images, ends, 1)]
    classes = np.arange(dataset.num_classes, dtype=np.int32)
    segments = np.arange(len(sizes), dtype=np.int32)
    metadata = {
        "dataset": dataset.name,
        "dataset_fingerprint": dataset.fingerprint,
        "method": method,
        "class_names": list(dataset.class_names),
        "source": source_to_record(dataset),
        "mean": list(dataset.mean),
        "std": list(dataset.std),
        "flip": dataset.flip,
        "pixel_range": dataset.pixel_range and list(dataset.pixel_range),
        "factor": factor,
        "images_per_class": sum(sizes),
        "segment_sizes": sizes,
        "seed": seed,
    }
    return DistilledDataset(
        np.concatenate(parts),
        np.concatenate([np.repeat(classes, size) for size in sizes]),
        np.repeat(segments, np.multiply(sizes, dataset.num_classes)),
        metadata,
    )

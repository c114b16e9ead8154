"""Reference sets of the same storage that need no distillation: selected real images.

`random` draws them; `herding` and `k_center` go by the embeddings of a network trained
on the real set; `easiest`, `hardest` and `window=SHARE` by the difficulty that
cross-fitted networks measure (see `coresets`, `difficulty`).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax import rng
from d4a_jax.artifact import DistilledDataset
from d4a_jax.config import Config
from d4a_jax.data import Dataset, data_directory
from d4a_jax.devices.parallel import make_layout, spread
from d4a_jax.difficulty import load_or_cross_fit
from d4a_jax.ensemble import Ensemble, TrainingImages, everything
from d4a_jax.formation import compose
from d4a_jax.flips import default_config, refuse_flips
from d4a_jax.log import logger
from d4a_jax.networks import create_network
from d4a_jax.real_data import ClassIndex, index_classes
from d4a_jax.selection import coresets
from d4a_jax.selection.beginnings import describe_short_classes
from d4a_jax.training import Normalization

SELECTIONS = ("random", "herding", "k_center", "easiest", "hardest", "window")


class _Rule(NamedTuple):
    """A selection: its name and, of a window, the share of hardest images left out."""

    name: str
    skip_hardest: float


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
        make as many segments, each prefix of which is the smaller set.
      factor: 1 stores images as they are; more stores mosaics of `factor ** 2`
        downscaled images, which is what multi-formation starts from.
      config: networks that measure (`network`, `difficulty`, the recipe of
        `evaluation`), `data.data_dir` and `runtime`; not used by `random`. By default
        `default_config` of the data.
      seed: of the draw or of the network that embeds the images.

    Returns:
      The images; where a class has too few, all of them come before any of them comes
      again, with a warning.

    Raises:
      ValueError: if the selection is unknown or a number is below 1.
    """
    config = config or default_config(dataset)
    rule, sizes = _parse(selection), [int(n) for n in np.atleast_1d(images_per_class)]
    if not sizes or min(sizes) < 1 or factor < 1:
        raise ValueError(
            f"images_per_class is {images_per_class} and factor is {factor}; both must "
            "be at least 1."
        )
    index = index_classes(np.asarray(dataset.train_labels), dataset.num_classes)
    choose = _chooser(rule, dataset, index, config, seed)
    needed = sum(sizes) * factor**2
    short = describe_short_classes(index.counts, dataset.class_names, needed)
    if short:
        logger.warning(short)
    stored = []
    for label, (rows, count) in enumerate(zip(index.rows, index.counts)):
        chosen = rows[choose(label, int(count), min(needed, int(count)))]
        stored.append(_mosaics(dataset, np.resize(chosen, needed), factor))
    method = f"{selection} real images"
    return real_image_set(dataset, np.stack(stored), factor, method, seed, sizes)


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
        "source": dataset.source,
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


def _mosaics(dataset, rows, factor):
    """uint8 mosaics of the training images in `rows`, `factor ** 2` in each."""
    images = np.asarray(dataset.train_images)[rows]
    if factor == 1:
        return images
    mosaics = compose(jnp.asarray(images, jnp.float32) / 255.0, factor)
    return np.rint(np.asarray(mosaics) * 255.0).astype(np.uint8)


def train_on_real_data(
    dataset: Dataset, config: Config | None = None, seed: int = 0
) -> tuple[Ensemble, dict]:
    """A network trained on all real images, for `difficulty.epochs`.

    Args:
      dataset: the real data.
      config: network, recipe (`evaluation`) and length; by default `default_config`.
      seed: of the network.

    Returns:
      The ensemble of this one network, and its stacked variables.

    Raises:
      ConfigError: if the recipe flips images that change their meaning.
    """
    config = config or default_config(dataset)
    refuse_flips(
        dataset, "evaluation.augmentation", config.evaluation.augmentation
    )
    layout = make_layout(config.runtime.devices, config.runtime.class_chunk)
    dtype = jnp.dtype(config.runtime.compute_dtype)
    ensemble = Ensemble(
        create_network(config.network, dataset.num_classes, dataset.image_shape, dtype),
        config.evaluation,
        Normalization(dataset.mean, dataset.std),
        1,
        layout,
        config.runtime.predict_batch,
    )
    settings, count = config.difficulty, len(dataset.train_labels)
    images, labels = np.asarray(dataset.train_images), np.asarray(dataset.train_labels)
    variables = ensemble.fit(
        rng.stream(jax.random.key(seed), "real_data"),
        TrainingImages(images, labels),
        everything(count, count, 1),
        ensemble.total_steps(count, settings.epochs, settings.max_steps),
    )
    return ensemble, variables


def embeddings(dataset: Dataset, config: Config, seed: int = 0) -> np.ndarray:
    """Embeddings of all training images by a network trained on all of them.

    Returns:
      float32 `[n, d]`, what the classifier sees, in the order of the data set.
    """
    ensemble, variables = train_on_real_data(dataset, config, seed)
    images, labels = np.asarray(dataset.train_images), np.asarray(dataset.train_labels)
    arrays = spread(ensemble.layout, (images, labels))
    found = ensemble.predict(variables, *arrays, _first, output="embedding")
    return np.asarray(found)[: len(labels)]


def _first(outputs, labels):
    del labels
    return outputs[0]


def _parse(selection: str) -> _Rule:
    name, equals, share = selection.partition("=")
    skip = {"hardest": 0.0, "easiest": 1.0}.get(name, 0.0)
    if name == "window":
        try:
            skip = float(share)
        except ValueError:
            skip = -1.0
    valid = name in SELECTIONS and bool(equals) == (name == "window")
    if not valid or not 0.0 <= skip <= 1.0:
        raise ValueError(
            f"selection is {selection!r}; it must be one of {', '.join(SELECTIONS)}, "
            "a window with its share of hardest images left out, as in window=0.3."
        )
    return _Rule(name, skip)


def _chooser(
    rule: _Rule, dataset: Dataset, index: ClassIndex, config: Config, seed: int
) -> Callable[[int, int, int], np.ndarray]:
    """The rule as a function of (label, images of the class, number to choose)."""
    if rule.name == "random":
        key = rng.stream(jax.random.key(seed), "random_images")

        def draw(label, available, count):
            order = jax.random.permutation(jax.random.fold_in(key, label), available)
            return np.asarray(order[:count])

        return draw
    if rule.name in ("herding", "k_center"):
        found = index.to_classes(embeddings(dataset, config, seed))
        choose = {"herding": coresets.herding, "k_center": coresets.k_center}[rule.name]
        return lambda label, available, count: choose(found[label, :available], count)
    layout = make_layout(config.runtime.devices, config.runtime.class_chunk)
    folder = data_directory(config.data.data_dir) / "difficulty"
    found = load_or_cross_fit(dataset, config, layout, folder).train
    loss = index.to_classes(found.loss)
    return lambda label, available, count: coresets.difficulty_window(
        loss[label, :available], count, rule.skip_hardest
    )

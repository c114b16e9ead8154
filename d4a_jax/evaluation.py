"""The judge: networks trained from scratch on a distilled set, tested on real images.

The recipe is IDC's with hard labels (see `EvaluationConfig`): the images as exported
(uint8), multi-formation, SGD with learning rate steps, augmentation and CutMix; top-1
(and top-5 from 100 classes on) of the last step on the untouched test split. Where a
set has a teacher's soft labels, these and their crops replace hard labels, augmentation
and CutMix. Where it has learned labels (DATM), the softmax of their logits replaces
hard labels and nothing else: the loss is the cross-entropy with it, and CutMix mixes
two of them as it does one-hot labels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from d4a_jax.artifact import ArtifactError, DistilledDataset
from d4a_jax.artifact.provenance import with_class_order
from d4a_jax.config import EvaluationConfig, RuntimeConfig, from_dict
from d4a_jax.data import Dataset
from d4a_jax.devices.parallel import Layout, make_layout, spread, to_host
from d4a_jax.devices.streaming import place
from d4a_jax.ensemble import (
    Ensemble,
    ProgressHook,
    SoftLabels,
    TrainingImages,
    everything,
)
from d4a_jax.flips import forbids_flips, refuse_flips, without_flips
from d4a_jax.networks import create_network
from d4a_jax.training import Normalization

_TOP5_FROM = 100


class Evaluation(NamedTuple):
    """Test accuracy of networks trained on one set.

    Attributes:
      network: specification of the network.
      top1: accuracy of each repeat in [0, 1], last step.
      top5: the same for the five largest logits; empty below 100 classes.
      steps: SGD steps of each training.
    """

    network: str
    top1: tuple[float, ...]
    top5: tuple[float, ...]
    steps: int

    @property
    def mean(self) -> float:
        return float(np.mean(self.top1))

    @property
    def std(self) -> float:
        """Sample standard deviation over the repeats; 0 for a single one."""
        return float(np.std(self.top1, ddof=1)) if len(self.top1) > 1 else 0.0

    def summary(self) -> dict[str, float]:
        """Figures to record, accuracies in percent."""
        figures = {"top1": 100 * self.mean, "top1_std": 100 * self.std}
        if self.top5:
            figures["top5"] = 100 * float(np.mean(self.top5))
        return figures | {"repeats": len(self.top1), "steps": self.steps}


def hits(logits: jax.Array, labels: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Whether the label has the largest, and one of the five largest, logits.

    Args:
      logits: `[E, b, classes]`.
      labels: `[b]`.

    Returns:
      Two bool arrays `[b, E]`.
    """
    own = jnp.take_along_axis(logits, labels[None, :, None], axis=-1)
    rank = jnp.sum(logits > own, axis=-1).T
    best = (jnp.argmax(logits, axis=-1) == labels).T
    return best, rank < 5


class Judge:
    """Tests networks on the test split of one data set, spread over the devices."""

    def __init__(
        self, dataset: Dataset, layout: Layout, budget_gb: float | None = None
    ):
        self.count = len(dataset.test_labels)
        self.num_classes = dataset.num_classes
        rows = np.arange(self.count)
        self.images = place(dataset.test_images, rows, layout, budget_gb)
        self.labels = spread(layout, dataset.test_labels)

    def test(self, ensemble: Ensemble, variables: dict, repeats: int, steps: int):
        """Accuracy of the first `repeats` networks of a trained ensemble."""
        first = jax.tree.map(lambda x: x[:repeats], variables)
        result = ensemble.predict(first, self.images, self.labels, hits)
        top1, top5 = (hit[: self.count].mean(0) for hit in to_host(result))
        shown = tuple(map(float, top5)) if self.num_classes >= _TOP5_FROM else ()
        return Evaluation(ensemble.network.spec, tuple(map(float, top1)), shown, steps)


def evaluate(
    distilled: DistilledDataset,
    dataset: Dataset,
    networks: Sequence[str] | None = None,
    config: EvaluationConfig | None = None,
    runtime: RuntimeConfig = RuntimeConfig(),
    seed: int = 0,
    progress: ProgressHook | None = None,
) -> list[Evaluation]:
    """Trains networks from scratch on a distilled set and tests them on real images.

    Args:
      distilled: what was distilled from `dataset`.
      dataset: the real data; only its test split is used.
      networks: specifications as `networks.create_network` takes them; by default the
        network of the set's protocol.
      config: the recipe and the number of repeats; by default the set's protocol, see
        `protocol_of`. Its `network` is not used.
      runtime: layout on the hardware.
      seed: of initializations, batches and augmentation.
      progress: called with (steps done, total steps, figures).

    Returns:
      One evaluation per network.

    Raises:
      ArtifactError: if the images differ in size or channels, or the classes in number
        or names.
      ConfigError: if `config` flips images that change their meaning.
      ValueError: if a network is unknown.
    """
    distilled = with_class_order(distilled, dataset)
    _check_shape(distilled, dataset)
    networks = networks or [network_of(distilled)]
    config = config or protocol_of(distilled, dataset)
    refuse_flips(dataset, "evaluation.augmentation", config.augmentation)
    kinds = [_network(spec, dataset, runtime) for spec in networks]
    layout = make_layout(runtime.devices, runtime.class_chunk)
    judge = Judge(dataset, layout, runtime.image_memory_gb)
    count = len(distilled.labels)
    results = []
    for network in kinds:
        ensemble = Ensemble(
            network,
            config,
            Normalization(dataset.mean, dataset.std),
            distilled.factor,
            layout,
            runtime.predict_batch,
        )
        steps = ensemble.total_steps(count, config.epochs, config.max_steps)
        variables = ensemble.fit(
            jax.random.key(seed),
            training_images(distilled),
            everything(count, count, config.repeats),
            steps,
            progress,
        )
        results.append(judge.test(ensemble, variables, config.repeats, steps))
    return results


def protocol_of(distilled: DistilledDataset, dataset: Dataset) -> EvaluationConfig:
    """The protocol that a set names, or IDC's; without flips where data forbid them.

    Args:
      distilled: the set; `metadata["protocol"]` holds what differs from the defaults.
      dataset: the data it is tested on.
    """
    named = {"evaluation": distilled.metadata.get("protocol", {})}
    config = from_dict(named)
    if forbids_flips(distilled.metadata, dataset):
        config = without_flips(config)
    return config.evaluation


def network_of(distilled: DistilledDataset) -> str:
    """The network that a set is tested on: its protocol's, or the one it matches."""
    metadata = distilled.metadata
    own = metadata.get("config", {}).get("network", "convnet")
    return metadata.get("protocol", {}).get("network") or own


def training_images(distilled: DistilledDataset) -> TrainingImages:
    """What networks train on: the images with the labels that the set has."""
    soft = None
    if distilled.soft_logits is not None:
        temperature = np.float32(distilled.metadata["temperature"])
        soft = SoftLabels(distilled.soft_logits, distilled.soft_crops, temperature)
    return TrainingImages(
        distilled.images, distilled.labels, soft, distilled.label_logits
    )


def _network(spec, dataset, runtime):
    dtype = jnp.dtype(runtime.compute_dtype)
    return create_network(spec, dataset.num_classes, dataset.image_shape, dtype)


def _check_shape(distilled, dataset):
    made, real = distilled.images.shape[1:], dataset.image_shape
    if made == real:
        return
    is_square = made[0] == made[1] and made[2] == real[2]
    advice = (
        f" Resize those with --resize, or with size={made[0]} of load_dataset."
        if is_square
        else ""
    )
    raise ArtifactError(
        f"The distilled images are {_shown(made)}; those of {dataset.name} are "
        f"{_shown(real)}.{advice}"
    )


def _shown(shape) -> str:
    return " x ".join(map(str, shape))

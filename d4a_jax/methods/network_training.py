"""How the network moves on between two matching steps: its options."""

import dataclasses

from d4a_jax.options import option


@dataclasses.dataclass(frozen=True)
class NetworkTrainingConfig:
    """How the network moves on between two matching steps (IDC: on real data).

    `synthetic` stands for the segment in the making and all earlier ones (DC, DSA).
    Before anything else a fresh network takes `stage_epochs` passes over each union of
    earlier segments (PDD) and `pretrain_epochs` over the data.
    """

    data: str = option("all", choices=("all", "filtered", "earlier", "synthetic"))
    images_per_step: int = option(2000, low=0)
    stage_epochs: int = option(0, low=0)
    pretrain_epochs: int = option(0, low=0)
    batch_size: int = option(64, low=1)
    learning_rate: float = option(0.01, above=0.0)
    momentum: float = option(0.9, low=0.0, high=0.999)
    weight_decay: float = option(5e-4, low=0.0)
    augmentation: str = "color_crop"
    cutmix_probability: float = option(0.5, low=0.0, high=1.0)

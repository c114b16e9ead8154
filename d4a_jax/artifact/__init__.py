"""The distilled dataset, in memory (`distilled`) and on the disk (`directory`)."""

from d4a_jax.artifact.checks import ArtifactError
from d4a_jax.artifact.directory import SCHEMA_VERSION, load_distilled, save_distilled
from d4a_jax.artifact.distilled import DistilledDataset, same_distilled

__all__ = [
    "SCHEMA_VERSION",
    "ArtifactError",
    "DistilledDataset",
    "load_distilled",
    "same_distilled",
    "save_distilled",
]

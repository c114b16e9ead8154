"""Labelled image data sets as uint8 arrays, cached on disk and memory-mapped."""

from d4a_jax.data.cache import verify_cache
from d4a_jax.data.dataset import Dataset, from_arrays
from d4a_jax.data.errors import DatasetError
from d4a_jax.data.load import data_directory, dataset_names, load_dataset

__all__ = [
    "Dataset",
    "DatasetError",
    "data_directory",
    "dataset_names",
    "from_arrays",
    "load_dataset",
    "verify_cache",
]

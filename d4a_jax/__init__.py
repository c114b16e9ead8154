"""D4A-JAX: dataset distillation in segments, with gradient matching on JAX.

    import d4a_jax

    dataset = d4a_jax.load_dataset("digits")
    config = d4a_jax.default_config(dataset)
    distilled = d4a_jax.distill(dataset, config, "runs/mine")
    print(d4a_jax.evaluate(distilled, dataset))

What is named here is imported when it is first used.
"""

import importlib

__version__ = "0.1.0"

# Public name -> module, and the name there where it is another one.
_EXPORTS = {
    "ArtifactError": "artifact",
    "Config": "config",
    "ConfigError": "config",
    "Dataset": "data",
    "DatasetError": "data",
    "DistilledDataset": "artifact",
    "config_from_dict": "config:from_dict",
    "create_network": "networks",
    "dataset_names": "data",
    "default_config": "flips",
    "distill": "distillation",
    "evaluate": "evaluation",
    "from_arrays": "data",
    "load_dataset": "data",
    "load_distilled": "artifact",
    "measure_difficulty": "difficulty",
    "network_names": "networks",
    "protocol_of": "evaluation",
    "realistic_patches": "selection.patches",
    "save_distilled": "artifact",
    "select_images": "selection.baselines",
    "with_soft_labels": "soft_labels",
}

__all__ = ["__version__", *_EXPORTS]


def __getattr__(name: str):
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), attribute or name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(globals().keys() | _EXPORTS.keys())

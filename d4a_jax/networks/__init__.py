"""Networks by name: `create_network("convnet:depth=4", 200, (64, 64, 3))`.

A network from outside is a flax module with the field `num_classes` whose call on
`(images, train)` returns logits `[n, num_classes]`, or logits and a tuple of features
(see `layers.ImageClassifier`). It is registered under a name, or named by where it
stands; its annotated fields become the options of its specification string:

    NETWORKS.register("mine", Mine)         # "mine:width=64"
    create_network("my_package.my_module:Mine:width=64", 10, (32, 32, 3))
"""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args, get_origin

import jax
import jax.numpy as jnp
from flax import linen as nn

from d4a_jax.networks.alexnet import AlexNet
from d4a_jax.networks.convnet import ConvNet
from d4a_jax.networks.densenet import DenseNet
from d4a_jax.networks.layers import ImageClassifier
from d4a_jax.networks.resnet import ResNet
from d4a_jax.networks.vgg import VGG
from d4a_jax.networks.vit import ViT
from d4a_jax.registry import Registry, close

__all__ = [
    "NETWORKS",
    "AlexNet",
    "ConvNet",
    "DenseNet",
    "ImageClassifier",
    "Network",
    "ResNet",
    "VGG",
    "ViT",
    "create_network",
    "network_names",
    "spec_of",
]

NETWORKS: Registry[Callable[..., nn.Module]] = Registry(
    "network",
    {
        "convnet": ConvNet,
        "resnet10": partial(ResNet, blocks=(1, 1, 1, 1), pooled=False),
        "resnet18": partial(ResNet, blocks=(2, 2, 2, 2), pooled=False),
        "resnet_ap10": partial(ResNet, blocks=(1, 1, 1, 1), pooled=True),
        "resnet_ap18": partial(ResNet, blocks=(2, 2, 2, 2), pooled=True),
        "vgg11": VGG,
        "alexnet": AlexNet,
        "densenet121": DenseNet,
        "vit": ViT,
    },
)


class Network(NamedTuple):
    """A network as pure functions of its variables.

    Attributes:
        spec: Canonical specification: the name and the options that differ from their
            defaults.
        init: `key -> {"params": ..., "batch_stats": ...}`; "batch_stats" is empty
            unless the network has batch norm.
        apply: `(variables, images, train) -> (logits, batch_stats)` with normalized
            images `[n, h, w, c]` and float32 logits `[n, num_classes]`. `train` makes
            batch norm use and record the statistics of this batch.
        features: `(variables, images, train) -> tuple of arrays`, one per stage; the
            last one is the embedding `[n, d]` that the classifier sees.
        num_classes: Number of logits.
    """

    spec: str
    init: Callable[[jax.Array], dict]
    apply: Callable[..., tuple[jax.Array, dict]]
    features: Callable[..., tuple[jax.Array, ...]]
    num_classes: int


def network_names() -> tuple[str, ...]:
    """The names that `create_network` knows."""
    return tuple(NETWORKS)


def spec_of(module: nn.Module) -> str:
    """The specification string of a flax module.

    Its fields `num_classes` and `dtype` are not part of it: they follow the data and
    the run.

    Raises:
      UnknownName: the module's class stands in no module under its own name.
      ValueError: a field's value cannot stand in a specification.

    Example:
      >>> spec_of(ConvNet(depth=2, width=64))
      'convnet:depth=2:width=64'
    """
    for name, factory in NETWORKS.items():
        if isinstance(factory, partial) and type(module) is factory.func:
            fixed = factory.keywords.items()
            if all(getattr(module, key) == value for key, value in fixed):
                break
    else:
        name = NETWORKS.name_of(type(module))
    options = {}
    for field in _option_fields(name).values():
        value = getattr(module, field.name)
        if value != field.default and not isinstance(value, (int, float, str)):
            raise ValueError(
                f"Option {field.name!r} of network {name!r} is {value!r}; it must be a "
                "number or a string, or the network be registered under a name."
            )
        options[field.name] = value
    return _canonical(name, options)


def create_network(
    spec: str,
    num_classes: int,
    image_shape: tuple[int, int, int],
    dtype: Any = jnp.float32,
) -> Network:
    """Builds a network for images of one shape.

    Args:
        spec: `name` or `name:option=value:option=value`, such as
            `"convnet:depth=4:norm=batch"`.
        num_classes: Number of logits.
        image_shape: `(height, width, channels)`.
        dtype: Compute dtype; parameters, normalization statistics and logits stay
            float32.

    Returns:
        The network.

    Raises:
        ValueError: If the name, an option or a value is unknown, or the network cannot
            take images of this shape.
    """
    name, items = _split(spec)
    if ":" not in name and name not in NETWORKS:
        raise ValueError(f"Unknown network {name!r}; {_choices(name, NETWORKS)}.")
    options = _parse_options(name, items)
    image_shape = tuple(image_shape)
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            f"Image shape {image_shape} must be three positive numbers: height, width, "
            "channels."
        )
    if num_classes < 1:
        raise ValueError(f"Number of classes {num_classes} must be positive.")
    module = _build(name, num_classes, dtype, options)
    objection = getattr(module, "objection", lambda shape: None)(image_shape)
    if objection:
        raise ValueError(f"Network {spec!r} does not fit: {objection}.")
    return _as_functions(_canonical(name, options), module, image_shape)


def _split(spec: str) -> tuple[str, list[str]]:
    """Name and options; an import path has a colon of its own."""
    name, *items = spec.split(":")
    if name not in NETWORKS and items and "=" not in items[0]:
        return f"{name}:{items[0]}", items[1:]
    return name, items


def _build(name, num_classes, dtype, options):
    factory = NETWORKS[name]
    fields = {field.name for field in dataclasses.fields(_class_of(factory))}
    if "num_classes" not in fields:
        raise ValueError(f"Network {name!r} has no field num_classes; it must have one.")
    given = {"num_classes": num_classes, "dtype": dtype}
    return factory(**{k: v for k, v in given.items() if k in fields}, **options)


def _class_of(factory):
    return factory.func if isinstance(factory, partial) else factory


def _outputs(result):
    """Logits and features of a module's call."""
    return result if isinstance(result, tuple) else (result, ())


def _as_functions(
    spec: str, module: nn.Module, image_shape: tuple[int, int, int]
) -> Network:
    def init(key: jax.Array) -> dict:
        # Lazy: the parameters need the shapes of a forward pass, not its values.
        images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
        variables = module.lazy_init(key, images)
        return {"batch_stats": {}, **variables}

    def apply(
        variables: dict, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, dict]:
        stats = variables.get("batch_stats", {})
        if not (train and stats):
            return _outputs(module.apply(variables, images))[0], stats
        result, new = module.apply(variables, images, True, mutable="batch_stats")
        return _outputs(result)[0], new["batch_stats"]

    def features(
        variables: dict, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, ...]:
        mutable = "batch_stats" if train else ()
        result, _ = module.apply(variables, images, train, mutable=mutable)
        found = _outputs(result)[1]
        if not found:
            raise ValueError(
                f"Network {spec!r} returns logits alone; this method matches features, "
                "so it must return a tuple of them too."
            )
        return found

    return Network(spec, init, apply, features, module.num_classes)


def _option_fields(name: str) -> dict[str, dataclasses.Field]:
    """The fields of a factory that its specification may set, in declared order."""
    factory = NETWORKS[name]
    fixed = {"num_classes", "dtype", "parent", "name"}
    fixed |= getattr(factory, "keywords", {}).keys()
    fields = dataclasses.fields(_class_of(factory))
    return {f.name: f for f in fields if f.name not in fixed}


def _parse_options(name: str, items: list[str]) -> dict[str, int | str]:
    fields = _option_fields(name)
    options = {}
    for item in items:
        key, equals, text = item.partition("=")
        if not equals:
            raise ValueError(f"Option {item!r} of network {name!r} must be key=value.")
        if key not in fields:
            raise ValueError(
                f"Unknown option {key!r} of network {name!r}; {_choices(key, fields)}."
            )
        if key in options:
            raise ValueError(f"Option {key!r} of network {name!r} is given twice.")
        options[key] = _parse_value(name, fields[key], text)
    return options


def _parse_value(name: str, field: dataclasses.Field, text: str) -> int | float | str:
    where = f"Option {field.name!r} of network {name!r}"
    if get_origin(field.type) is Literal:
        allowed = get_args(field.type)
        if text not in allowed:
            raise ValueError(f"{where} cannot be {text!r}; {_choices(text, allowed)}.")
        return text
    if field.type is float:
        try:
            return float(text)
        except ValueError:
            raise ValueError(f"{where} must be a number, got {text!r}.") from None
    if field.type is str:
        return text
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise ValueError(f"{where} must be a positive integer, got {text!r}.")
    return int(text)


def _canonical(name: str, options: dict[str, int | str]) -> str:
    changed = [
        f"{field.name}={options[field.name]}"
        for field in _option_fields(name).values()
        if options.get(field.name, field.default) != field.default
    ]
    return ":".join([name, *changed])


def _choices(given: str, allowed: Iterable[str]) -> str:
    """Names what is allowed and, if close to `given`, what may have been meant."""
    allowed = tuple(allowed)
    near = close(given.lower(), allowed)
    hint = f" (did you mean {near!r}?)" if near else ""
    return f"choose from {', '.join(allowed)}{hint}"

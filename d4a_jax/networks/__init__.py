"""Networks by name: `create_network("convnet:depth=4", 200, (64, 64, 3))`.

A network is added by subclassing `layers.ImageClassifier` and naming it in
`_FACTORIES`; its annotated fields become the options of its specification string.
"""

import dataclasses
import difflib
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Literal, NamedTuple, get_args, get_origin

import jax
import jax.numpy as jnp

from d4a_jax.networks.alexnet import AlexNet
from d4a_jax.networks.convnet import ConvNet
from d4a_jax.networks.densenet import DenseNet
from d4a_jax.networks.layers import ImageClassifier
from d4a_jax.networks.resnet import ResNet
from d4a_jax.networks.vgg import VGG
from d4a_jax.networks.vit import ViT

__all__ = ["Network", "create_network", "network_names"]

_FACTORIES: dict[str, Callable[..., ImageClassifier]] = {
    "convnet": ConvNet,
    "resnet10": partial(ResNet, blocks=(1, 1, 1, 1), pooled=False),
    "resnet18": partial(ResNet, blocks=(2, 2, 2, 2), pooled=False),
    "resnet_ap10": partial(ResNet, blocks=(1, 1, 1, 1), pooled=True),
    "resnet_ap18": partial(ResNet, blocks=(2, 2, 2, 2), pooled=True),
    "vgg11": VGG,
    "alexnet": AlexNet,
    "densenet121": DenseNet,
    "vit": ViT,
}


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
    return tuple(_FACTORIES)


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
    name, *items = spec.split(":")
    if name not in _FACTORIES:
        raise ValueError(f"Unknown network {name!r}; {_choices(name, _FACTORIES)}.")
    options = _parse_options(name, items)
    image_shape = tuple(image_shape)
    if len(image_shape) != 3 or min(image_shape) < 1:
        raise ValueError(
            f"Image shape {image_shape} must be three positive numbers: height, width, "
            "channels."
        )
    if num_classes < 1:
        raise ValueError(f"Number of classes {num_classes} must be positive.")
    module = _FACTORIES[name](num_classes=num_classes, dtype=dtype, **options)
    objection = module.objection(image_shape)
    if objection:
        raise ValueError(f"Network {spec!r} does not fit: {objection}.")
    return _as_functions(_canonical(name, options), module, image_shape)


def _as_functions(
    spec: str, module: ImageClassifier, image_shape: tuple[int, int, int]
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
            return module.apply(variables, images)[0], stats
        (logits, _), new = module.apply(variables, images, True, mutable="batch_stats")
        return logits, new["batch_stats"]

    def features(
        variables: dict, images: jax.Array, train: bool = False
    ) -> tuple[jax.Array, ...]:
        mutable = "batch_stats" if train else ()
        return module.apply(variables, images, train, mutable=mutable)[0][1]

    return Network(spec, init, apply, features, module.num_classes)


def _option_fields(name: str) -> dict[str, dataclasses.Field]:
    """The fields of a factory that its specification may set, in declared order."""
    factory = _FACTORIES[name]
    fixed = {"num_classes", "dtype", "parent", "name"}
    if isinstance(factory, partial):
        fixed |= factory.keywords.keys()
        factory = factory.func
    return {f.name: f for f in dataclasses.fields(factory) if f.name not in fixed}


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


def _parse_value(name: str, field: dataclasses.Field, text: str) -> int | str:
    where = f"Option {field.name!r} of network {name!r}"
    if get_origin(field.type) is Literal:
        allowed = get_args(field.type)
        if text not in allowed:
            raise ValueError(f"{where} cannot be {text!r}; {_choices(text, allowed)}.")
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
    nearest = difflib.get_close_matches(given.lower(), allowed, n=1, cutoff=0.5)
    hint = f" (did you mean {nearest[0]!r}?)" if nearest else ""
    return f"choose from {', '.join(allowed)}{hint}"

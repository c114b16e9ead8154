"""What the configurations share: the defaults, and what `:smoke` makes of them.

The defaults of `d4a_jax.config.Config` are the published setting of IDC (Kim et al.
2022) for CIFAR-10, and D4A's own options switched off or harmless. A configuration
file names everything that it changes and where the value comes from:

    published    the authors' own value for this data set, in their paper or code
    transposed   a published value, carried over to another data set or to segments
    ours         chosen for this project

Sources of the defaults, by section:

    network             published (IDC): ConvNet-3, width 128, instance norm
    synthetic           published (IDC): factor 2, single decode, real init; one segment
    matching            published (IDC): 64 real images of a class and at most 128
                        synthetic ones per step, base learning rate 5e-3, momentum 0.5,
                        2000 networks of 100 steps, clipping when a network starts; its
                        learning rate counts the images per class of the segment (ours;
                        the same for one segment)
    method              published (IDC): gradient matching, mse, kernels only. Trajectory
                        matching, published (MTT): students of 30 steps on all images,
                        two expert epochs ahead, start epochs below 20, step size 0.01
                        learned at 1e-5; hard labels, and DATM's momentum of 0.9 where
                        they are learned
    experts             published (MTT): 100 of 50 epochs, SGD 0.01 without momentum,
                        batch 256
    network_training    published (IDC): 2000 images between steps, SGD 0.01, momentum
                        0.9, weight decay 5e-4, batch 64, CutMix 0.5
    filter              ours: three networks vote by their mean softmax; at least
                        `matching.batch_real` images of a class stay
    difficulty          ours: two folds, two networks each, 30 epochs, ten checkpoints
                        of which the last three count as late
    regularizer         ours: none
    evaluation          published (IDC): 1000 epochs, the recipe of `network_training`
                        with flips, scale and rotation, rate x 0.2 at 2/3 and 5/6; five
                        repeats (ours)
"""

import dataclasses
import typing

from ml_collections import ConfigDict, config_dict

from d4a_jax.config import Config
from d4a_jax.methods import METHODS, MethodOptions
from d4a_jax.parts import Parts


def get_config() -> ConfigDict:
    """Returns the defaults, locked: a misspelled name raises an AttributeError."""
    return _typed(Config()).lock()


def finish(config: ConfigDict, arg: str) -> ConfigDict:
    """Applies the argument of a configuration, the part after the colon.

    Args:
      config: the configuration at full size.
      arg: empty, or `smoke` for every phase of the run within seconds.

    Raises:
      ValueError: any other argument.
    """
    if arg == "smoke":
        _shrink(config)
    elif arg:
        raise ValueError(
            f"{arg!r} is not an argument of this configuration; the only one is "
            "'smoke', as in --config=configs/digits.py:smoke."
        )
    return config


def choose_method(config: ConfigDict, name: str) -> None:
    """Puts the options of another method, at their defaults, in the place of `method`.

    Raises:
      UnknownName: no method goes by the name.
    """
    _put_method(config, METHODS[name]())


def _put_method(config, options: MethodOptions):
    typed = _typed(options)
    typed.name = METHODS.name_of(type(options))
    with config.unlocked():
        config.method = typed.lock()


def _typed(section) -> ConfigDict:
    """A dataclass as a ConfigDict, whose values keep the types of the fields.

    A field of two types, such as `int | tuple[int, ...]`, takes any literal here;
    `d4a_jax.config.from_dict` checks it.
    """
    typed = ConfigDict()
    hints = typing.get_type_hints(type(section))
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        types = set(typing.get_args(hints[field.name])) - {type(None)}
        if isinstance(value, Parts):
            continue  # Objects of a program.
        if isinstance(value, MethodOptions):
            _put_method(typed, value)
            continue
        if dataclasses.is_dataclass(value):
            value = _typed(value)
        elif types:
            kind = str if types == {str} else object
            value = config_dict.FieldReference(value, field_type=kind)
        typed[field.name] = value
    return typed


def _shrink(config: ConfigDict) -> None:
    """Few classes, a narrow network and a handful of steps, but every phase."""
    config.data.classes = 2  # Every data set has as many.
    config.network = _narrow(config.network)
    config.synthetic.images_per_class = 2
    if config.synthetic.segments != 1:
        config.synthetic.segments = 2
    config.matching.outer_iterations = min(config.matching.outer_iterations, 2)
    config.matching.inner_iterations = 2
    config.matching.batch_real = 8
    config.matching.batch_syn_max = 8
    name, options = config.method.name, config.method.to_dict()
    del options["name"]
    _put_method(config, METHODS[name](**options).shrunk())
    config.experts.count = 2
    config.experts.epochs = 4
    config.experts.batch_size = 64
    config.network_training.batch_size = 16
    for name in ("stage_epochs", "pretrain_epochs"):
        config.network_training[name] = min(config.network_training[name], 1)
    config.network_training.images_per_step = min(
        config.network_training.images_per_step, 16
    )
    config.filter.networks = 2
    config.filter.min_per_class = None
    config.difficulty.networks = 1
    config.difficulty.max_steps = 5
    config.difficulty.checkpoints = 2
    config.difficulty.late_checkpoints = 1
    config.evaluation.max_steps = 10
    config.evaluation.repeats = 2
    config.evaluation.batch_size = 16


def _narrow(network: str) -> str:
    """The same kind of network with the width 8."""
    name, *options = network.split(":")
    options = [option for option in options if not option.startswith("width=")]
    return ":".join([name, "width=8", *options])

"""Tiny-ImageNet (64 x 64), 10 images per class in 5 segments.

    python experiments/run.py --config=configs/tin10.py

IDC's authors have no setting for Tiny-ImageNet; that of DREAM, which builds on IDC's
code, is taken where it has one. An evaluation of 1000 epochs would take 125,000 SGD
steps on the whole set, so it ends after 50,000: 400 epochs there, and more on
the first segments.

What differs from `base.py`, and where it comes from:

    data.name                         tiny_imagenet    published (DREAM)
    network                           convnet:depth=4  published (DREAM)
    synthetic.images_per_class        10               published (DREAM)
    synthetic.segments                5                ours: 2 images per class each
    matching.outer_iterations         400              transposed: DREAM's 2000 networks
                                                       of 100 steps in total, an equal
                                                       share for every segment
    network_training.images_per_step  1000             published (DREAM)
    filter.guard                      True             transposed: CIFAR-10's, ours
    regularizer.name                  anchor           transposed: CIFAR-10's, ours
    regularizer.weight                1.0              transposed: CIFAR-10's, ours
    evaluation.max_steps              50_000           ours: to save time

The base learning rate stays IDC's 5e-3, which DREAM uses here too; with the side and
the images per class of a segment it becomes 4e-3.
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "tiny_imagenet"
    config.network = "convnet:depth=4"
    config.synthetic.images_per_class = 10
    config.synthetic.segments = 5
    config.matching.outer_iterations = 400
    config.network_training.images_per_step = 1000
    config.filter.guard = True
    config.regularizer.name = "anchor"
    config.regularizer.weight = 1.0
    config.evaluation.max_steps = 50_000
    return base.finish(config, arg)

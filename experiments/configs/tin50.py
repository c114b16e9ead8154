"""Tiny-ImageNet (64 x 64), 50 images per class in 10 segments.

    python experiments/run.py --config=configs/tin50.py

IDC's authors have no setting for Tiny-ImageNet; that of DREAM, which builds on IDC's
code, is taken where it has one. An evaluation of 1000 epochs would take 625,000 SGD
steps on the whole set, so it ends after 50,000: 80 epochs there, and more on
the first segments.

What differs from `base.py`, and where it comes from:

    data.name                         tiny_imagenet    published (DREAM)
    network                           convnet:depth=4  published (DREAM)
    synthetic.images_per_class        50               published (DREAM)
    synthetic.segments                10               ours: 5 images per class each
    matching.outer_iterations         200              transposed: DREAM's 2000 networks
                                                       of 100 steps in total, an equal
                                                       share for every segment
    network_training.images_per_step  1000             published (DREAM)
    filter.guard                      True             transposed: CIFAR-10's, ours
    regularizer.name                  anchor           transposed: CIFAR-10's, ours
    regularizer.weight                1.0              transposed: CIFAR-10's, ours
    evaluation.max_steps              50_000           ours: to save time

The base learning rate stays IDC's 5e-3; with the side and the images per class of a
segment it becomes 1e-2. For 50 images per class in one piece the rule gives 1e-1, and
DREAM makes an exception with a base of 1e-6; small segments need none (ours).
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "tiny_imagenet"
    config.network = "convnet:depth=4"
    config.synthetic.images_per_class = 50
    config.synthetic.segments = 10
    config.matching.outer_iterations = 200
    config.network_training.images_per_step = 1000
    config.filter.guard = True
    config.regularizer.name = "anchor"
    config.regularizer.weight = 1.0
    config.evaluation.max_steps = 50_000
    return base.finish(config, arg)

"""Handwritten digits (8 x 8, bundled with scikit-learn), 12 per class in 2 segments.

    python experiments/run.py

The whole pipeline on real images in about two minutes on one CPU core, with nothing to
download. It is a demonstration: the set is easy, networks on all of it are right to
about 99 %, and random images come close.

What differs from `base.py`, and where it comes from (all of it ours, as the field has
no setting for these images):

    data.name                         digits            no download
    network                           convnet:width=64  enough for 8 x 8 pixels
    synthetic.images_per_class        12
    synthetic.segments                2                 6 images per class each: better
                                                        than 4 of 3 (RESULTS.md)
    synthetic.factor                  1                 tiles of 4 x 4 show no digit
    matching.batch_real               32                classes have about 145 images
    matching.learning_rate            0.5               scaled by (8 / 32)**2
    matching.outer_iterations         20                to end in minutes
    matching.inner_iterations         10                to end in minutes
    network_training.images_per_step  128               to end in minutes
    filter.guard                      True              as for CIFAR-10
    filter.min_per_class              16                a tenth of a class
    difficulty.epochs                 10                to end in minutes
    regularizer.name                  anchor            as for CIFAR-10
    evaluation.augmentation           no flip           a flipped digit is another one
    evaluation.epochs                 200               to end in minutes
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "digits"
    config.network = "convnet:width=64"
    config.synthetic.images_per_class = 12
    config.synthetic.segments = 2
    config.synthetic.factor = 1
    config.matching.batch_real = 32
    config.matching.learning_rate = 0.5
    config.matching.outer_iterations = 20
    config.matching.inner_iterations = 10
    config.network_training.images_per_step = 128
    config.filter.guard = True
    config.filter.min_per_class = 16
    config.difficulty.epochs = 10
    config.regularizer.name = "anchor"
    config.evaluation.augmentation = "color_crop_scale_rotate"
    config.evaluation.epochs = 200
    return base.finish(config, arg)

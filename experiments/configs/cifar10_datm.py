"""Difficulty-aligned trajectory matching (DATM) on CIFAR-10, 10 images per class.

    python experiments/run.py --config=configs/cifar10_datm.py

What differs from `base.py`, and where it comes from:

    data.name                         cifar10     published (DATM)
    synthetic.factor                  1           published (DATM)
    synthetic.init                    correct     published (DATM)
    method.name                       trajectory_matching  published (DATM)
    matching.augmentation             DSA's       published (DATM), in IDC's form: all
                                                  of its parts at once, where theirs
                                                  draws one
    matching.learning_rate            100.0       published (DATM)
    matching.learning_rate_scaling    none        published (DATM)
    matching.pixels                   normalized  published (DATM)
    matching.steps                    joint       published (DATM)
    matching.outer_iterations         10_000      published (DATM)
    matching.inner_iterations         1           ours: pixels are kept in range in
                                                  every step
    experts.epochs                    100         published (DATM)
    method.first_max_start_epoch      10          published (DATM)
    method.expansion_steps            1000        published (DATM)
    method.student_steps              80          published (DATM)
    method.skip_loss_above            1.0         published (DATM)
    method.label_learning_rate        2.0         published (DATM)

Labels are learned with the images (momentum 0.9, the default, is DATM's); the rate is
the `lr_y` of DATM's configuration file for this data set and number of images. Not
there, and so no reproduction of DATM's numbers: experts trained for flat minima (FTD),
ZCA whitening, and the moving average of the images that is tested.
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "cifar10"
    config.synthetic.factor = 1
    config.synthetic.init = "correct"
    base.choose_method(config, "trajectory_matching")
    config.matching.augmentation = "color_crop_cutout_flip_scale_rotate"
    config.matching.learning_rate = 100.0
    config.matching.learning_rate_scaling = "none"
    config.matching.pixels = "normalized"
    config.matching.steps = "joint"
    config.matching.outer_iterations = 10_000
    config.matching.inner_iterations = 1
    config.experts.epochs = 100
    config.method.first_max_start_epoch = 10
    config.method.expansion_steps = 1000
    config.method.student_steps = 80
    config.method.skip_loss_above = 1.0
    config.method.label_learning_rate = 2.0
    return base.finish(config, arg)

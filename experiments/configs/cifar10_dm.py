"""DM (distribution matching, Zhao & Bilen 2023) on CIFAR-10, 10 images per class.

    python experiments/run.py --config=configs/cifar10_dm.py

What differs from `base.py`, and where it comes from:

    data.name                         cifar10       published
    synthetic.images_per_class        10            published
    synthetic.factor                  1             published: images as they are
    method.name                       distribution_matching  published: mean embeddings
    matching.batch_real               256           published
    matching.augmentation             all six       published (DSA's)
    matching.learning_rate            1.0           published, up to 50 per class
    matching.learning_rate_scaling    none          published: the rate itself
    matching.pixels                   normalized    published
    matching.steps                    joint         published
    matching.outer_iterations         20000         published
    matching.inner_iterations         1             published: a new network every step
    network_training.images_per_step  0             published: random networks
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "cifar10"
    config.synthetic.images_per_class = 10
    config.synthetic.factor = 1
    base.choose_method(config, "distribution_matching")
    config.matching.batch_real = 256
    config.matching.augmentation = "color_crop_cutout_flip_scale_rotate"
    config.matching.learning_rate = 1.0
    config.matching.learning_rate_scaling = "none"
    config.matching.pixels = "normalized"
    config.matching.steps = "joint"
    config.matching.outer_iterations = 20_000
    config.matching.inner_iterations = 1
    config.network_training.images_per_step = 0
    return base.finish(config, arg)

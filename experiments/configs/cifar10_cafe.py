"""CAFE (aligning features, Wang et al. 2022) on CIFAR-10, 10 images per class.

    python experiments/run.py --config=configs/cifar10_cafe.py

The authors decide by thresholds on accuracies how long a network is trained on the
synthetic images and when a fresh one comes; here the intervals are DC's. They halve the
pixel learning rate at 1200, 1600 and 1800 of 2000 networks; here it stays.

What differs from `base.py`, and where it comes from:

    data.name                            cifar10     published
    synthetic.images_per_class           10          published
    synthetic.factor                     1           published: images as they are
    synthetic.init                       noise       published; around gray, ours
    method.name                          cafe        published
    matching.batch_real                  256         published
    matching.augmentation                none        published
    matching.learning_rate               0.1         published
    matching.learning_rate_scaling       none        published: the rate itself
    matching.pixels                      normalized  published
    matching.steps                       joint       published
    matching.outer_iterations            2000        published
    matching.inner_iterations            10          transposed: DC's, see above
    matching.clip                        step        ours: what is stored is in range
    network_training.data                synthetic   published
    network_training.images_per_step     5000        transposed: DC's, see above
    network_training.batch_size          100         published: 256, so all the images
    network_training.momentum            0.0         published
    network_training.weight_decay        0.0         published
    network_training.augmentation        none        published
    network_training.cutmix_probability  0.0         published

The weights of the layers (0.1 for early ones) and of the discrimination loss (0.01) are
the published ones and the defaults.
"""

from ml_collections import ConfigDict

from experiments.configs import base, cifar10_dc


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = cifar10_dc.get_config()
    base.choose_method(config, "cafe")
    config.matching.outer_iterations = 2000
    return base.finish(config, arg)

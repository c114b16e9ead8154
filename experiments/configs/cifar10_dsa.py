"""DSA (DC with siamese augmentation, Zhao & Bilen 2021) on CIFAR-10, 10 per class.

    python experiments/run.py --config=configs/cifar10_dsa.py

What differs from `base.py`, and where it comes from: all that `cifar10_dc.py` changes,
and one draw of DSA's augmentation for the real and the synthetic images of a class.

    data.name                            cifar10     published
    synthetic.images_per_class           10          published
    synthetic.factor                     1           published (DC)
    method.distance                      cosine      published (DC)
    method.match_classifier              True        published (DC)
    matching.batch_real                  256         published (DC)
    matching.augmentation                all six     published
    matching.learning_rate               0.1         published (DC)
    matching.learning_rate_scaling       none        published (DC)
    matching.pixels                      normalized  published (DC)
    matching.steps                       joint       published (DC)
    matching.outer_iterations            1000        published (DC)
    matching.inner_iterations            10          published (DC)
    matching.clip                        step        ours: what is stored is in range
    network_training.data                synthetic   published (DC)
    network_training.images_per_step     5000        published (DC)
    network_training.batch_size          100         published (DC)
    network_training.momentum            0.0         published (DC)
    network_training.weight_decay        0.0         published (DC)
    network_training.augmentation        all six     published
    network_training.cutmix_probability  0.0         published
"""

from ml_collections import ConfigDict

from experiments.configs import base, cifar10_dc

AUGMENTATION = "color_crop_cutout_flip_scale_rotate"


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = cifar10_dc.get_config()
    config.synthetic.init = "real"
    config.matching.augmentation = AUGMENTATION
    config.network_training.augmentation = AUGMENTATION
    return base.finish(config, arg)

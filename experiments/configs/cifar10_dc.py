"""DC (gradient matching, Zhao et al. 2021) on CIFAR-10, 10 images per class.

    python experiments/run.py --config=configs/cifar10_dc.py

One-step gradient matching: between two steps the network is trained on the synthetic
images themselves. With `--config.synthetic.segments=5` it becomes D4A on DC.

What differs from `base.py`, and where it comes from:

    data.name                            cifar10     published
    synthetic.images_per_class           10          published
    synthetic.factor                     1           published: images as they are
    synthetic.init                       noise       published; around gray, ours
    method.distance                      cosine      published: per output unit
    method.match_classifier              True        published
    matching.batch_real                  256         published
    matching.augmentation                none        published
    matching.learning_rate               0.1         published
    matching.learning_rate_scaling       none        published: the rate itself
    matching.pixels                      normalized  published
    matching.steps                       joint       published
    matching.outer_iterations            1000        published
    matching.inner_iterations            10          published for this size
    matching.clip                        step        ours: what is stored is in range
    network_training.data                synthetic   published
    network_training.images_per_step     5000        published: 50 epochs of 100 images
    network_training.batch_size          100         published: 256, so all the images
    network_training.momentum            0.0         published (authors' code)
    network_training.weight_decay        0.0         published (authors' code)
    network_training.augmentation        none        published
    network_training.cutmix_probability  0.0         published

The test is IDC's, as for every method here; the authors' own has other augmentation.
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "cifar10"
    config.synthetic.images_per_class = 10
    config.synthetic.factor = 1
    config.synthetic.init = "noise"
    config.method.distance = "cosine"
    config.method.match_classifier = True
    config.matching.batch_real = 256
    config.matching.augmentation = "none"
    config.matching.learning_rate = 0.1
    config.matching.learning_rate_scaling = "none"
    config.matching.pixels = "normalized"
    config.matching.steps = "joint"
    config.matching.outer_iterations = 1000
    config.matching.inner_iterations = 10
    config.matching.clip = "step"
    config.network_training.data = "synthetic"
    config.network_training.images_per_step = 5000
    config.network_training.batch_size = 100
    config.network_training.momentum = 0.0
    config.network_training.weight_decay = 0.0
    config.network_training.augmentation = "none"
    config.network_training.cutmix_probability = 0.0
    return base.finish(config, arg)

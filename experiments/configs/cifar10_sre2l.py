"""SRe2L (inverting a teacher, Yin et al. 2023) on CIFAR-10, 10 images per class.

    python experiments/run.py --config=configs/cifar10_sre2l.py

The authors have settings for Tiny-ImageNet and ImageNet; the former is carried over.
Their soft labels are added to what this run stores by `d4a_jax.with_soft_labels`, and
count as storage; the run itself tests hard labels.

What differs from `base.py`, and where it comes from:

    data.name                         cifar10       ours
    network                           norm=batch    published: batch norm; the ConvNet
                                                    of the other methods, ours
    synthetic.images_per_class        10            ours
    synthetic.factor                  1             published: images as they are
    synthetic.init                    noise         published
    method.name                       inversion     published
    matching.optimizer                adam          published: betas 0.5 and 0.9, cosine
    matching.augmentation             crop_flip     transposed: random resized crops and
                                                    flips
    matching.learning_rate            0.1           published
    matching.learning_rate_scaling    none          published: the rate itself
    matching.pixels                   normalized    published
    matching.outer_iterations         1             published: one teacher
    matching.inner_iterations         1000          published, at the least
    matching.clip                     step          published
    network_training.images_per_step  0             published: the teacher is finished
    network_training.pretrain_epochs  50            published

The weight of the statistics, 1, is the published one for Tiny-ImageNet and the default.
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "cifar10"
    config.network = "convnet:norm=batch"
    config.synthetic.images_per_class = 10
    config.synthetic.factor = 1
    config.synthetic.init = "noise"
    base.choose_method(config, "inversion")
    config.matching.optimizer = "adam"
    config.matching.augmentation = "crop_flip"
    config.matching.learning_rate = 0.1
    config.matching.learning_rate_scaling = "none"
    config.matching.pixels = "normalized"
    config.matching.outer_iterations = 1
    config.matching.inner_iterations = 1000
    config.matching.clip = "step"
    config.network_training.images_per_step = 0
    config.network_training.pretrain_epochs = 50
    return base.finish(config, arg)

"""Trajectory matching (MTT) on CIFAR-10, 10 images per class.

    python experiments/run.py --config=configs/cifar10_mtt.py

The 100 experts take 6.5 GB, or half of it with
`--config.experts.storage_dtype=bfloat16`; `python experiments/experts.py` with the
same configuration trains them ahead.

What differs from `base.py`, and where it comes from. The values are MTT's for CIFAR-10
without ZCA whitening, which is not done here:

    data.name                       cifar10     published (MTT)
    synthetic.factor                1           published (MTT)
    method.name                     trajectory_matching  published (MTT)
    matching.augmentation           DSA's       published (MTT), in IDC's form: all of
                                                its parts at once, where theirs draws
                                                one
    matching.learning_rate          1000.0      published (MTT)
    matching.learning_rate_scaling  none        published (MTT)
    matching.pixels                 normalized  published (MTT)
    matching.steps                  joint       published (MTT)
    matching.outer_iterations       5000        published (MTT)
    matching.inner_iterations       1           ours: pixels are kept in range in every
                                                step
    method.max_start_epoch          15          published (MTT, without ZCA)

The evaluation is that of `base.py` and not MTT's, which takes the learned step size.
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "cifar10"
    config.synthetic.factor = 1
    base.choose_method(config, "trajectory_matching")
    config.matching.augmentation = "color_crop_cutout_flip_scale_rotate"
    config.matching.learning_rate = 1000.0
    config.matching.learning_rate_scaling = "none"
    config.matching.pixels = "normalized"
    config.matching.steps = "joint"
    config.matching.outer_iterations = 5000
    config.matching.inner_iterations = 1
    config.method.max_start_epoch = 15
    return base.finish(config, arg)

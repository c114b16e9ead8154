"""D4A with trajectory matching on CIFAR-10, 10 images per class in 5 segments.

    python experiments/run.py --config=configs/cifar10_d4a_mtt.py

The student of a segment trains on all segments so far, and the window of start epochs
moves with what the filter keeps (see `d4a_jax/methods/trajectory.py`). With
`--config.synthetic.segments=1 --config.matching.outer_iterations=5000` it is MTT.

What differs from `base.py`, and where it comes from. MTT's values are those for
CIFAR-10 without ZCA whitening:

    data.name                       cifar10     published (MTT)
    synthetic.segments              5           ours: 2 images per class each;
                                                published by PDD for its stages
    synthetic.factor                1           published (MTT)
    method.name                     trajectory_matching  published (MTT)
    matching.augmentation           DSA's       published (MTT), in IDC's form: all of
                                                its parts at once, where theirs draws
                                                one
    matching.learning_rate          1000.0      published (MTT)
    matching.learning_rate_scaling  none        published (MTT)
    matching.pixels                 normalized  published (MTT)
    matching.steps                  joint       published (MTT)
    matching.outer_iterations       1000        transposed: MTT's 5000 steps in total,
                                                an equal share for every segment
    matching.inner_iterations       1           ours: pixels are kept in range in every
                                                step
    method.max_start_epoch          15          published (MTT, without ZCA)
    filter.guard                    True        transposed: that of gradient matching,
                                                ours

"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "cifar10"
    config.synthetic.segments = 5
    config.synthetic.factor = 1
    base.choose_method(config, "trajectory_matching")
    config.matching.augmentation = "color_crop_cutout_flip_scale_rotate"
    config.matching.learning_rate = 1000.0
    config.matching.learning_rate_scaling = "none"
    config.matching.pixels = "normalized"
    config.matching.steps = "joint"
    config.matching.outer_iterations = 1000
    config.matching.inner_iterations = 1
    config.method.max_start_epoch = 15
    config.filter.guard = True
    return base.finish(config, arg)

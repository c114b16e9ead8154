"""D4A on distribution matching: CIFAR-10, 10 images per class in 5 segments.

    python experiments/run.py --config=configs/cifar10_d4a_dm.py

What differs from `base.py`, and where it comes from: DM's setting (`cifar10_dm.py`),
divided over the segments of `cifar10_ipc10.py`, and the regularizer in its natural
form, the mean embedding of the union of all segments.

    data.name                         cifar10       published (DM)
    synthetic.images_per_class        10            published (DM)
    synthetic.segments                5             ours: 2 images per class each
    synthetic.factor                  1             published (DM)
    method.name                       distribution_matching  published (DM)
    matching.batch_real               256           published (DM)
    matching.augmentation             all six       published (DM)
    matching.learning_rate            0.2           transposed: DM's 1.0 for the mean of
                                                    10 images, here of 2
    matching.learning_rate_scaling    none          published (DM)
    matching.pixels                   normalized    published (DM)
    matching.steps                    joint         published (DM)
    matching.outer_iterations         4000          transposed: DM's 20000 in total
    matching.inner_iterations         1             published (DM)
    network_training.images_per_step  0             published (DM)
    filter.guard                      True          ours: as for gradient matching
    filter.min_per_class              64            ours: as for gradient matching
    regularizer.name                  union         ours: the union's mean embedding
"""

from ml_collections import ConfigDict

from experiments.configs import base, cifar10_dm


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = cifar10_dm.get_config()
    config.synthetic.segments = 5
    config.matching.learning_rate = 0.2
    config.matching.outer_iterations = 4000
    config.filter.guard = True
    config.filter.min_per_class = 64
    config.regularizer.name = "union"
    return base.finish(config, arg)

"""CIFAR-100, 10 images per class in 5 segments.

    python experiments/run.py --config=configs/cifar100_ipc10.py

What differs from `base.py`, and where it comes from:

    data.name                     cifar100  published (IDC)
    synthetic.images_per_class    10        published (IDC)
    synthetic.segments            5         ours: 2 images per class each; published by
                                            PDD for its stages
    matching.outer_iterations     400       transposed: IDC's 2000 networks of 100 steps
                                            in total, an equal share for every segment
    filter.guard                  True      ours: without it the kept images are mostly
                                            such as cannot be learned
    regularizer.name              anchor    ours: gives back the easy images' accuracy
    regularizer.weight            1.0       ours: as much as the hard images' target
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "cifar100"
    config.synthetic.images_per_class = 10
    config.synthetic.segments = 5
    config.matching.outer_iterations = 400
    config.filter.guard = True
    config.regularizer.name = "anchor"
    config.regularizer.weight = 1.0
    return base.finish(config, arg)

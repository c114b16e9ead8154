"""PDD on IDC (Chen et al. 2024): CIFAR-10, 10 images per class in 5 stages.

    python experiments/run.py --config=configs/cifar10_pdd.py

The closest relative of D4A. The images of earlier stages are frozen and belong to the
union that is matched, and every network is first trained on the earlier stages. The
authors' code drops no easy images, so the filter is off. Here the union is tested as
any other set, by training on all of it at once; the authors train in stages.

What differs from `base.py`, and where it comes from:

    data.name                      cifar10  published
    synthetic.images_per_class     10       published
    synthetic.segments             5        published: 5 stages of 2 images per class
    method.union                   True     published
    network_training.stage_epochs  200      published
    filter.enabled                 False    published (authors' code)

Each stage takes IDC's 2000 networks of 100 steps (published).
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "cifar10"
    config.synthetic.images_per_class = 10
    config.synthetic.segments = 5
    config.method.union = True
    config.network_training.stage_epochs = 200
    config.filter.enabled = False
    return base.finish(config, arg)

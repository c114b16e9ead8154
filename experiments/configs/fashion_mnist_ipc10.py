"""Fashion-MNIST, 10 images per class in 5 segments.

    python experiments/run.py --config=configs/fashion_mnist_ipc10.py

What differs from `base.py`, and where it comes from:

    data.name                         fashion_mnist  published (IDC)
    synthetic.images_per_class        10             published (IDC)
    synthetic.segments                5              transposed: CIFAR-10's, ours
    method.distance                   l1             published (IDC)
    matching.learning_rate            1e-4           published (IDC)
    matching.outer_iterations         400            transposed: IDC's 2000 networks of
                                                     100 steps in total, an equal share
                                                     for every segment
    network_training.images_per_step  500            published (IDC)
    filter.guard                      True           transposed: CIFAR-10's, ours
    regularizer.name                  anchor         transposed: CIFAR-10's, ours
    regularizer.weight                1.0            transposed: CIFAR-10's, ours
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "fashion_mnist"
    config.synthetic.images_per_class = 10
    config.synthetic.segments = 5
    config.method.distance = "l1"
    config.matching.learning_rate = 1e-4
    config.matching.outer_iterations = 400
    config.network_training.images_per_step = 500
    config.filter.guard = True
    config.regularizer.name = "anchor"
    config.regularizer.weight = 1.0
    return base.finish(config, arg)

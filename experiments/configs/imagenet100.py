"""ImageNet-100 (224 x 224), 10 images per class in 5 segments.

    python experiments/run.py --config=configs/imagenet100.py

The hundred classes are IDC's. ImageNet must be in the manual directory: it cannot be
downloaded without a registration.

What differs from `base.py`, and where it comes from:

    data.name                            imagenet100  published (IDC)
    network                              resnet_ap10  published (IDC)
    synthetic.images_per_class           10           published (IDC)
    synthetic.segments                   5            transposed: CIFAR-10's, ours
    synthetic.factor                     3            published (IDC)
    method.distance                      l1           published (IDC)
    matching.learning_rate               1e-3 / 49    published (IDC): 1e-3, counted
                                                      from a side of 224 and not of 32
    matching.batch_real                  128          published (IDC)
    matching.outer_iterations            100          transposed: IDC's 500 networks of
                                                      100 steps in total, an equal share
                                                      for every segment
    network_training.images_per_step     500          published (IDC)
    network_training.pretrain_epochs     5            transposed: IDC starts from ten
                                                      stored networks of 5 epochs, here
                                                      every network is trained anew
    network_training.batch_size          128          published (IDC)
    network_training.learning_rate       0.1          published (IDC)
    network_training.weight_decay        1e-4         published (IDC)
    network_training.cutmix_probability  1.0          published (IDC)
    filter.guard                         True         transposed: CIFAR-10's, ours
    regularizer.name                     anchor       transposed: CIFAR-10's, ours
    regularizer.weight                   1.0          transposed: CIFAR-10's, ours
    evaluation.epochs                    667          published (IDC): two thirds of the
                                                      1000 for 90 decoded images
    evaluation.batch_size                128          published (IDC)
    evaluation.learning_rate             0.1          published (IDC)
    evaluation.weight_decay              1e-4         published (IDC)
    evaluation.cutmix_probability        1.0          published (IDC)

IDC augments the evaluation as for ImageNet, by crops and jitter; here it is as for the
other data sets (ours).
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "imagenet100"
    config.network = "resnet_ap10"
    config.synthetic.images_per_class = 10
    config.synthetic.segments = 5
    config.synthetic.factor = 3
    config.method.distance = "l1"
    config.matching.learning_rate = 1e-3 / (224 / 32) ** 2
    config.matching.batch_real = 128
    config.matching.outer_iterations = 100
    config.network_training.images_per_step = 500
    config.network_training.pretrain_epochs = 5
    config.network_training.batch_size = 128
    config.network_training.learning_rate = 0.1
    config.network_training.weight_decay = 1e-4
    config.network_training.cutmix_probability = 1.0
    config.filter.guard = True
    config.regularizer.name = "anchor"
    config.regularizer.weight = 1.0
    config.evaluation.epochs = 667
    config.evaluation.batch_size = 128
    config.evaluation.learning_rate = 0.1
    config.evaluation.weight_decay = 1e-4
    config.evaluation.cutmix_probability = 1.0
    config = base.finish(config, arg)
    if arg:
        config.data.size = 64
    return config

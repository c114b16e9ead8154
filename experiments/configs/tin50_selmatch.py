"""SelMatch on Tiny-ImageNet, 50 images per class: distilled and real ones.

    python experiments/run.py --config=configs/tin50_selmatch.py

SelMatch tests on ResNet-18 with batch norm: `python experiments/evaluate.py` with
`--networks=resnet18:norm=batch`. Its difficulty is a count of forgetting events; here
it is the loss of cross-fitted networks.

What differs from `base.py`, and where it comes from:

    data.name                       tiny_imagenet               published (SelMatch)
    network                         convnet:depth=4:norm=batch  published (SelMatch)
    synthetic.images_per_class      50                          published (SelMatch)
    synthetic.factor                1                           published (SelMatch)
    synthetic.init                  window                      published (SelMatch)
    synthetic.skip_hardest          0.8                         published (SelMatch):
                                                                beta
    synthetic.frozen_share          0.4                         published (SelMatch): 1
                                                                - alpha
    method.name                     trajectory_matching         published (SelMatch)
    matching.augmentation           DSA's                       published (SelMatch),
                                                                in IDC's form: all of
                                                                its parts at once,
                                                                where theirs draws one
    matching.learning_rate          1000.0                      published (SelMatch)
    matching.learning_rate_scaling  none                        published (SelMatch)
    matching.pixels                 normalized                  published (SelMatch)
    matching.steps                  joint                       published (SelMatch)
    matching.outer_iterations       10_000                      published (SelMatch)
    matching.inner_iterations       1                           ours: pixels are kept
                                                                in range in every step
    experts.epochs                  100                         published (SelMatch)
    experts.storage_dtype           bfloat16                    ours: half of the disk
    method.max_start_epoch          80                          published (SelMatch)
    method.student_steps            20                          published (SelMatch)
    method.batch_syn                125                         published (SelMatch)
    method.step_size                1e-3                        published (SelMatch)
    evaluation.max_steps            50_000                      ours: to save time, as
                                                                in tin50
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "tiny_imagenet"
    config.network = "convnet:depth=4:norm=batch"
    config.synthetic.images_per_class = 50
    config.synthetic.factor = 1
    config.synthetic.init = "window"
    config.synthetic.skip_hardest = 0.8
    config.synthetic.frozen_share = 0.4
    base.choose_method(config, "trajectory_matching")
    config.matching.augmentation = "color_crop_cutout_flip_scale_rotate"
    config.matching.learning_rate = 1000.0
    config.matching.learning_rate_scaling = "none"
    config.matching.pixels = "normalized"
    config.matching.steps = "joint"
    config.matching.outer_iterations = 10_000
    config.matching.inner_iterations = 1
    config.experts.epochs = 100
    config.experts.storage_dtype = "bfloat16"
    config.method.max_start_epoch = 80
    config.method.student_steps = 20
    config.method.batch_syn = 125
    config.method.step_size = 1e-3
    config.evaluation.max_steps = 50_000
    return base.finish(config, arg)

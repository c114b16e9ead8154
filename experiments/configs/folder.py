"""Your own images, 10 per class in 5 segments.

    python experiments/run.py --config=configs/folder.py --config.data.path=DIR

DIR holds `train/<class>/<image>` and `test/<class>/<image>`, or only
`<class>/<image>`; then a tenth of each class is held out for testing, always the same
one. Other usual names (`Train`, `val`, `testing`, ...) are understood, and what was
understood is printed before the run. Channels, size, classes, mean and standard
deviation are found in the images, and the network's depth follows from their size.
Images of different sizes need one to be resized to: `--config.data.size=64`. For arrays
there are `--config.data.name=arrays` and `--config.data.path=FILE.npz`.

The learning rate of the pixels is found by a short range test, whose chart is
`learning_rate.png` in the working directory. Where a mirrored image is another class,
as for letters, `--config.evaluation.augmentation=color_crop_scale_rotate` leaves the
flips out. `--config.matching.outer_iterations=40` takes a tenth of the time.

What differs from `base.py`, and where it comes from (ours, for images that nobody has
tuned for):

    data.name                   image_folder
    synthetic.segments          5              2 images per class each
    matching.learning_rate      None           found by a range test
    matching.outer_iterations   400            IDC's total in equal shares
    filter.guard                True           as for CIFAR-10
    regularizer.name            anchor         as for CIFAR-10
"""

from ml_collections import ConfigDict

from experiments.configs import base


def get_config(arg: str = "") -> ConfigDict:
    """Returns the configuration; `arg` is empty or `smoke`."""
    config = base.get_config()
    config.data.name = "image_folder"
    config.synthetic.images_per_class = 10
    config.synthetic.segments = 5
    config.matching.learning_rate = None
    config.matching.outer_iterations = 400
    config.filter.guard = True
    config.regularizer.name = "anchor"
    return base.finish(config, arg)

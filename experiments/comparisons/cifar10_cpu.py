"""The methods on CIFAR-10 (JPEG copy) at a size that two CPU cores carry.

    python experiments/compare.py --comparison=comparisons/cifar10_cpu.py

16 x 16 pixels, ConvNet of width 32 and depth 3, 10 images per class. The JPEG copy is
lossy and the images are reduced, so no published figure compares. Batches and network
training are cut to the size, alike for all methods; what is not named is the method's.

The six experts of the trajectories, trained once for all that take them, are not within
the budget of passes. SRe2L takes batch norm, for the statistics that it matches, and is
tested as the others are.
"""

from experiments.comparisons.methods import coresets, methods

IMAGES_PER_CLASS = (10,)
NETWORKS = ("convnet:depth=3:width=32",)
PASSES = 3e6

DATASETS = {
    "cifar10_jpeg_16": {
        "data": {"name": "cifar10_jpeg", "size": 16},
        "matching": {"batch_real": 32},
        "filter": {"networks": 3, "min_per_class": 32},
        "difficulty": {"folds": 2, "networks": 1, "epochs": 8},
        "evaluation": {"repeats": 3, "prefix_repeats": 3, "max_steps": 500},
    }
}

# Six experts of 20 epochs in batches of 64, where MTT has 100 of 50 epochs, of 256; the
# students' steps and the windows are shortened with them.
_EXPERTS = {"count": 6, "epochs": 20, "batch_size": 64}
_STUDENTS = {"max_start_epoch": 8, "student_steps": 10}
_RDED = {"baseline": "rded", "synthetic": {"factor": 1}}

# The pixel learning rate of IDC is ours, as in `sweeps/cifar10_cpu.py`.
METHODS = methods(
    idc_rate=0.08,
    images_per_step=256,
    mtt={"learning_rate": 100.0},
    experts=_EXPERTS,
    students=_STUDENTS,
    datm={"first_max_start_epoch": 4, "expansion_steps": 20},
    teacher="convnet:depth=3:width=32:norm=batch",
    teacher_epochs=8,
)
METHODS |= coresets() | {"rded_soft": _RDED | {"soft_label_epochs": 100}}

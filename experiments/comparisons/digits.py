"""The methods on scikit-learn's digits (8 x 8), 10 images per class, in minutes.

    python experiments/compare.py --comparison=comparisons/digits.py

A demonstration: the set is easy, and random images come close. Learning rates are ours,
chosen for 8 x 8 pixels and few steps, and D4A has two segments, as in
`configs/digits.py`; everything that is not named is the method's.
"""

from experiments.comparisons.methods import coresets, methods

IMAGES_PER_CLASS = (10,)
NETWORKS = ("convnet:width=32",)
PASSES = 1e6

DATASETS = {
    "digits": {
        "data": {"name": "digits"},
        "synthetic": {"factor": 1},
        "matching": {"batch_real": 32},
        "filter": {"networks": 3, "min_per_class": 16},
        "difficulty": {"epochs": 10},
        "evaluation": {"repeats": 3, "prefix_repeats": 3, "max_steps": 400},
    }
}

# DATM's window begins with the first half of the epochs.
METHODS = methods(
    idc_rate=0.5,
    images_per_step=128,
    mtt={"learning_rate": 20.0, "pixels": "unit"},
    experts={"count": 10, "epochs": 20, "batch_size": 64},
    students={"max_start_epoch": 10, "student_steps": 10},
    datm={"first_max_start_epoch": 5, "expansion_steps": 10},
    teacher="convnet:width=32:norm=batch",
    teacher_epochs=20,
) | coresets()

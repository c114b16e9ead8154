"""The methods on scikit-learn's digits (8 x 8), 10 images per class, in minutes.

    python experiments/compare.py --comparison=comparisons/digits.py

A demonstration: the set is easy, and random images come close. Learning rates are ours,
chosen for 8 x 8 pixels and few steps, and D4A has two segments, as in
`configs/digits.py`; everything that is not named is the method's.
"""

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

_ONE_SEGMENT = {"segments": 1}
_TWO_SEGMENTS = {"segments": 2}
_IDC = {"learning_rate": 0.5, "inner_iterations": 10}
_IDC_NETWORKS = {"images_per_step": 128}
_DC_NETWORKS = {"images_per_step": 500}
_MTT = {"learning_rate": 20.0, "pixels": "unit"}
_EXPERTS = {
    "experts": 10,
    "epochs": 20,
    "batch_size": 64,
    "max_start_epoch": 10,
    "student_steps": 10,
}

# DATM's window begins with the first half of the epochs.
_DATM = _EXPERTS | {"first_max_start_epoch": 5, "expansion_steps": 10}

METHODS = {
    "random": {"baseline": "random"},
    "herding": {"baseline": "herding"},
    "k_center": {"baseline": "k_center"},
    "easiest": {"baseline": "easiest"},
    "hardest": {"baseline": "hardest"},
    "window": {"baseline": "window=0.5"},
    "rded": {"baseline": "rded", "synthetic": {"factor": 1}},
    "dc": {"config": "cifar10_dc", "network_training": _DC_NETWORKS},
    "dsa": {"config": "cifar10_dsa", "network_training": _DC_NETWORKS},
    "dm": {"config": "cifar10_dm"},
    "cafe": {"config": "cifar10_cafe", "network_training": _DC_NETWORKS},
    "idc": {
        "config": "cifar10_ipc10",
        "synthetic": _ONE_SEGMENT,
        "matching": _IDC,
        "network_training": _IDC_NETWORKS,
        "regularizer": {"name": "none"},
    },
    "pdd": {
        "config": "cifar10_pdd",
        "matching": _IDC,
        "network_training": _IDC_NETWORKS | {"stage_epochs": 5},
    },
    "d4a": {
        "config": "cifar10_ipc10",
        "synthetic": _TWO_SEGMENTS,
        "matching": _IDC,
        "network_training": _IDC_NETWORKS,
    },
    "d4a_dm": {"config": "cifar10_d4a_dm", "synthetic": _TWO_SEGMENTS},
    "mtt": {"config": "cifar10_mtt", "matching": _MTT, "trajectory": _EXPERTS},
    "datm": {"config": "cifar10_datm", "matching": _MTT, "trajectory": _DATM},
    "selmatch": {"config": "tin50_selmatch", "matching": _MTT, "trajectory": _EXPERTS},
    "d4a_mtt": {
        "config": "cifar10_d4a_mtt",
        "synthetic": _TWO_SEGMENTS,
        "matching": _MTT,
        "trajectory": _EXPERTS,
    },
}

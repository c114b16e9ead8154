"""The methods that every comparison has, at lengths that a CPU carries.

What is not named here is the method's own, in its file in `configs/`.
"""

from typing import Any

Values = dict[str, Any]

# Coresets that recent work finds hard to beat: windows of three measures of difficulty,
# each matched to the images per class, and images that stand for the embeddings.
_CORESETS = ("loss_window", "el2n_window", "aum_window", "herding", "k_means")

# Segments of five of ten images per class: smaller ones have little to divide.
_TWO_SEGMENTS = {"segments": 2}
_STORED_AS_THEY_ARE = {"factor": 1}
# DM's rate of 1.0 is for the mean embedding of ten images.
_DM_RATE = {"learning_rate": 0.5}
_DC_NETWORKS = {"images_per_step": 500}


def coresets(factor: int = 2) -> dict[str, Values]:
    """Definitions by name of strong coresets, plain and as mosaics of `factor ** 2`.

    All have hard labels and the same storage. Random images stand beside them.
    """
    mosaic = {"synthetic": {"factor": factor}}
    names = ("random", *_CORESETS)
    plain = {name: {"baseline": name} for name in names}
    return plain | {
        f"{name}_mosaic": {"baseline": f"{name}_mosaic"} | mosaic for name in names
    }


def methods(
    idc_rate: float,
    images_per_step: int,
    mtt: Values,
    experts: Values,
    students: Values,
    datm: Values,
    teacher: str,
    teacher_epochs: int,
) -> dict[str, Values]:
    """Definitions by name, for `METHODS` of a comparison.

    Args:
      idc_rate: base pixel learning rate of IDC and what is built on it.
      images_per_step: real images that train their networks between two steps.
      mtt: section `matching` of all that match trajectories.
      experts: section `experts` of these.
      students: section `method` of these.
      datm: what DATM's window adds to it.
      teacher: SRe2L's network, with batch norm for the statistics that it matches.
      teacher_epochs: how long it is trained on the real images.
    """
    idc = {
        "config": "cifar10_ipc10",
        "matching": {"learning_rate": idc_rate, "inner_iterations": 10},
        "network_training": {"images_per_step": images_per_step},
    }
    sre2l = {
        "config": "cifar10_sre2l",
        "network": teacher,
        "network_training": {"pretrain_epochs": teacher_epochs},
    }
    trajectories = {"matching": mtt, "experts": experts, "method": students}
    return {
        "random": {"baseline": "random"},
        "herding": {"baseline": "herding"},
        "k_center": {"baseline": "k_center"},
        "easiest": {"baseline": "easiest"},
        "hardest": {"baseline": "hardest"},
        "window": {"baseline": "window=0.5"},
        "rded": {"baseline": "rded", "synthetic": _STORED_AS_THEY_ARE},
        "dc": {"config": "cifar10_dc", "network_training": _DC_NETWORKS},
        "dsa": {"config": "cifar10_dsa", "network_training": _DC_NETWORKS},
        "dm": {"config": "cifar10_dm"},
        "cafe": {"config": "cifar10_cafe", "network_training": _DC_NETWORKS},
        "idc": idc | {"synthetic": {"segments": 1}, "regularizer": {"name": "none"}},
        "pdd": idc
        | {
            "config": "cifar10_pdd",
            "network_training": idc["network_training"] | {"stage_epochs": 5},
        },
        "d4a": idc | {"synthetic": _TWO_SEGMENTS},
        "d4a_dm": {"config": "cifar10_d4a_dm", "synthetic": _TWO_SEGMENTS}
        | {"matching": _DM_RATE},
        "mtt": {"config": "cifar10_mtt"} | trajectories,
        "datm": {"config": "cifar10_datm"}
        | trajectories
        | {"method": students | datm},
        "selmatch": {"config": "tin50_selmatch"} | trajectories,
        "d4a_mtt": {"config": "cifar10_d4a_mtt", "synthetic": _TWO_SEGMENTS}
        | trajectories,
        "sre2l": sre2l,
        "sre2l_soft": sre2l | {"soft_label_epochs": 100},
    }

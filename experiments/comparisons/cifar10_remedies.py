"""Why some methods fall behind on CIFAR-10 at CPU size: one thing changed at a time.

    python experiments/compare.py --comparison=comparisons/cifar10_remedies.py

The setting is that of `cifar10_cpu.py`; a name says what differs from a method there.
"""

from experiments.comparisons import cifar10_cpu
from experiments.rows import merged

IMAGES_PER_CLASS = cifar10_cpu.IMAGES_PER_CLASS
NETWORKS = cifar10_cpu.NETWORKS
PASSES = cifar10_cpu.PASSES
DATASETS = cifar10_cpu.DATASETS


def _changed(name, **sections):
    return merged(cifar10_cpu.METHODS[name], sections)


_REAL = {"init": "real"}

METHODS = {
    "dc_real_init": _changed("dc", synthetic=_REAL),
    "cafe_real_init": _changed("cafe", synthetic=_REAL),
    "sre2l_real_init": _changed("sre2l", synthetic=_REAL),
    "sre2l_statistics_0.1": _changed("sre2l", method={"statistics_weight": 0.1}),
    # SelMatch leaves out the hardest 0.8 x 10 of 5,000 images, which suits sets of
    # several percent of the data; here its window begins in the middle of a class.
    "selmatch_middle": _changed("selmatch", synthetic={"skip_hardest": 250.0}),
    "d4a_5_segments": _changed("d4a", synthetic={"segments": 5}),
    "d4a_dm_lower_rate": _changed("d4a_dm", matching={"learning_rate": 0.2}),
    "d4a_dm_no_filter": _changed("d4a_dm", filter={"enabled": False}),
}

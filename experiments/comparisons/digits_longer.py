"""What falls behind random images in `digits.py`, with five times the image passes.

python experiments/compare.py --comparison=comparisons/digits_longer.py
"""

from experiments.comparisons import digits
from experiments.rows import merged

IMAGES_PER_CLASS = digits.IMAGES_PER_CLASS
NETWORKS = digits.NETWORKS
PASSES = 5 * digits.PASSES
DATASETS = digits.DATASETS

_REAL = {"synthetic": {"init": "real"}}

METHODS = {
    name: digits.METHODS[name]
    for name in ("dc", "cafe", "mtt", "datm", "d4a_mtt", "sre2l")
} | {
    f"{name}_real_init": merged(digits.METHODS[name], _REAL)
    for name in ("dc", "cafe", "sre2l")
}

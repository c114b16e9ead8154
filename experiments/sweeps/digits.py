"""Handwritten digits (8 x 8): random images, IDC and D4A at 12 images per class.

The setting is that of `configs/digits.py`; IDC takes as many matching steps as the four
segments of D4A together.
"""

from experiments.configs import digits

D4A = digits.get_config().to_dict()
IDC = D4A | {
    "synthetic": D4A["synthetic"] | {"segments": 1},
    "matching": D4A["matching"]
    | {"outer_iterations": 4 * D4A["matching"]["outer_iterations"]},
    "regularizer": D4A["regularizer"] | {"name": "none"},
}

ROWS = {
    "random": D4A | {"baseline": "random"},
    "idc": IDC,
    "d4a": D4A,
    "d4a-no-regularizer": D4A | {"regularizer": IDC["regularizer"]},
    "segments-no-filter": D4A
    | {
        "filter": D4A["filter"] | {"enabled": False},
        "regularizer": IDC["regularizer"],
    },
}

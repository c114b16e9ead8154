"""Handwritten digits (8 x 8): random images, IDC and D4A.

The setting is that of `configs/digits.py`, mostly with four images per class, since
random ones come within a point of the whole set at twelve (rows with `12`). All rows
take the same number of matching steps, divided over the segments.
"""

from experiments.configs import digits

_STEPS = 40  # Outer iterations in all.


def _row(
    segments, regularizer="anchor", use_filter=True, rate=0.5, total=4, discard=1.0
):
    config = digits.get_config()
    config.synthetic.images_per_class = total
    config.synthetic.segments = segments
    config.matching.outer_iterations = _STEPS // segments
    config.matching.learning_rate = rate
    config.filter.enabled = use_filter
    config.filter.max_discard = discard
    config.regularizer.name = regularizer
    return config.to_dict()


ROWS = {
    "random": _row(1) | {"baseline": "random"},
    "idc": _row(1, "none"),
    "d4a": _row(4),
    "d4a-no-regularizer": _row(4, "none"),
    "segments-no-filter": _row(4, "none", use_filter=False),
    "d4a-2-segments": _row(2),
    "d4a-union": _row(4, "union"),
    "segments-union-no-filter": _row(4, "union", use_filter=False),
    "idc-lr-x4": _row(1, "none", rate=2.0),
    "idc-lr-x16": _row(1, "none", rate=8.0),
    "d4a-lr-x4": _row(4, rate=2.0),
    "d4a-lr-x16": _row(4, rate=8.0),
    "random-12": _row(1, total=12) | {"baseline": "random"},
    "idc-12": _row(1, "none", total=12),
    "d4a-12": _row(4, total=12),
    "d4a-12-2-segments": _row(2, total=12),
    "d4a-12-keep-half": _row(4, total=12, discard=0.5),
    "d4a-12-2-segments-keep-half": _row(2, total=12, discard=0.5),
}

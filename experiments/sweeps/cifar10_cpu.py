"""CIFAR-10 (JPEG copy) at a size that two CPU cores carry.

16 x 16 pixels, ConvNet of width 32 and depth 3, 20 images per class in all, factor 2,
32 real images per class and step, a fresh network every 25 steps, trained on 256 real
images between steps. IDC and D4A take the same total number of matching steps; a D4A
step costs less, because its segment is smaller (column "image passes").
"""

BASE = {
    "data": {"name": "cifar10_jpeg", "size": 16},
    "network": "convnet:depth=3:width=32",
    "synthetic": {"images_per_class": 20, "factor": 2},
    "matching": {
        "batch_real": 32,
        "learning_rate": 0.08,
        "outer_iterations": 32,
        "inner_iterations": 25,
    },
    "network_training": {"images_per_step": 256},
    "filter": {"networks": 3, "min_per_class": 32},
    "difficulty": {"folds": 2, "networks": 1, "epochs": 8},
    "evaluation": {"repeats": 5, "prefix_repeats": 3, "max_steps": 800},
}



def _d4a(segments=4, regularizer="none", weight=1.0, **filter_options):
    """D4A with the total steps of IDC, divided over its segments."""
    total = BASE["matching"]["outer_iterations"]
    return BASE | {
        "synthetic": BASE["synthetic"] | {"segments": segments},
        "matching": BASE["matching"] | {"outer_iterations": total // segments},
        "filter": BASE["filter"] | filter_options,
        "regularizer": {"name": regularizer, "weight": weight},
    }


def _idc(learning_rate=0.08):
    matching = BASE["matching"] | {"learning_rate": learning_rate}
    return BASE | {"matching": matching}


ROWS = {
    "random": BASE | {"baseline": "random"},
    "random-mosaic": BASE | {"baseline": "random_mosaic"},
    "idc": _idc(),
    "d4a-guard-anchor": _d4a(regularizer="anchor", guard=True),
    "d4a-guard-none": _d4a(guard=True),
    "d4a-filter-none": _d4a(),
    "segments-no-filter": _d4a(enabled=False),
    "d4a-guard-union": _d4a(regularizer="union", weight=0.5, guard=True),
    "d4a-guard-previous": _d4a(regularizer="previous", weight=0.5, guard=True),
    "d4a-2-guard-anchor": _d4a(2, regularizer="anchor", guard=True),
    "idc-lr-half": _idc(0.04),
    "idc-lr-double": _idc(0.16),
    "d4a-filter-anchor": _d4a(regularizer="anchor"),
    "d4a-guard-conflict": _d4a(regularizer="conflict", guard=True),
    "d4a-guard-replay": _d4a(regularizer="replay", guard=True),
    "d4a-discard-half-anchor": _d4a(regularizer="anchor", max_discard=0.5),
    "d4a-cumulative-guard-anchor": _d4a(
        regularizer="anchor", guard=True, scope="cumulative"
    ),
}

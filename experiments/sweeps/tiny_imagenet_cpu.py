"""Ten classes of Tiny-ImageNet at a size that two CPU cores carry.

The first 10 of the 200 classes, 32 x 32 pixels, ConvNet of width 32 and depth 3, 10
images per class in all, factor 2, 32 real images per class and step, a fresh network
every 25 steps, trained on 256 real images between steps. D4A has segments of five images.
IDC and D4A take the same total number of matching steps. The rows with `20` have twice
the images; there the filter leaves few of the 500 real images of a class, so some rows
are remedies for that. Those with `40` have four times as many.
"""

from experiments.sweeps.ablation import ablation

BASE = {
    "data": {"name": "tiny_imagenet", "size": 32, "classes": 10},
    "network": "convnet:depth=3:width=32",
    "synthetic": {"images_per_class": 10, "factor": 2},
    "matching": {
        "batch_real": 32,
        "learning_rate": 0.02,
        "outer_iterations": 16,
        "inner_iterations": 25,
    },
    "network_training": {"images_per_step": 256},
    "filter": {"networks": 3, "min_per_class": 32},
    "difficulty": {"folds": 2, "networks": 1, "epochs": 20},
    "evaluation": {"repeats": 3, "prefix_repeats": 3, "max_steps": 800},
}


def _rows(images_per_class):
    """The ablation for more images, in segments of five."""
    synthetic = BASE["synthetic"] | {"images_per_class": images_per_class}
    rows = ablation(BASE | {"synthetic": synthetic}, segments=images_per_class // 5)
    return {f"{name}-{images_per_class}": values for name, values in rows.items()}


_GUARDED = _rows(20)["d4a-guard-anchor-20"]
_FLOOR = {"filter": _GUARDED["filter"] | {"min_per_class": 128}}

ROWS = (
    ablation(BASE, segments=2)
    | _rows(20)
    | {"d4a-floor-128-guard-anchor-20": _GUARDED | _FLOOR}
    | _rows(40)
)

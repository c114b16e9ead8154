"""CIFAR-10 (JPEG copy) at a size that two CPU cores carry.

16 x 16 pixels, ConvNet of width 32 and depth 3, 20 images per class in all, factor 2,
32 real images per class and step, a fresh network every 25 steps, trained on 256 real
images between steps. IDC and D4A take the same total number of matching steps; a D4A
step costs less, because its segment is smaller (column "TFLOPs").
"""

from experiments.sweeps.ablation import ablation

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

ROWS = ablation(BASE)

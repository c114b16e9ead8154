"""How accuracy grows with the images per class: random images, IDC and D4A.

The setting of `cifar10_cpu` at 5 to 40 images per class. All rows take 800 matching
steps; D4A divides them over segments of five images per class.
"""

from experiments.sweeps.cifar10_cpu import BASE

_SEGMENT = 5


def _rows(total):
    synthetic = BASE["synthetic"] | {"images_per_class": total}
    base = BASE | {"synthetic": synthetic}
    rows = {
        f"random-mosaic-{total}": base | {"baseline": "random_mosaic"},
        f"idc-{total}": base,
    }
    if total > _SEGMENT:
        segments = total // _SEGMENT
        steps = BASE["matching"]["outer_iterations"] // segments
        rows[f"d4a-guard-none-{total}"] = base | {
            "synthetic": synthetic | {"segments": segments},
            "matching": BASE["matching"] | {"outer_iterations": steps},
            "filter": BASE["filter"] | {"guard": True},
        }
    return rows


ROWS = _rows(5) | _rows(10) | _rows(20) | _rows(40)
REFERENCE = "idc-20"

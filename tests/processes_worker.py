"""One process of a distillation; `test_processes.py` starts several of them.

python processes_worker.py '{"config": {...}, "join": {...}, ...}'
"""

import json
import logging
import os
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from d4a_jax.devices import processes  # noqa: E402


def make_dataset():
    """Eighteen images of three classes."""
    import numpy as np

    from d4a_jax.data import from_arrays

    labels = np.repeat(np.arange(3, dtype=np.int32), 6)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (18, 4, 4, 3), dtype=np.uint8)
    return from_arrays("noise", images, labels, images[::2], labels[::2])


def main(options):
    """Distills, or is killed after some calls of the program."""
    processes.join(**options["join"])
    from d4a_jax.config import from_dict
    from d4a_jax.distillation import distill

    if processes.is_main():
        logging.basicConfig(level=logging.WARNING)
        logging.getLogger("d4a_jax").setLevel(logging.INFO)
    calls = iter(range(1000))

    def die():
        if next(calls) + 1 == options.get("dies_after"):
            os.kill(os.getpid(), signal.SIGKILL)
        return False

    config = from_dict(options["config"])
    try:
        distill(make_dataset(), config, options["workdir"], die)
    except Exception as error:  # pylint: disable=broad-except
        lost = processes.loss_of(error)
        if lost is None:
            raise
        print(lost, file=sys.stderr)
        processes.failed(75)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

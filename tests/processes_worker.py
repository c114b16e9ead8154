"""One process of a distillation; started several times by `test_processes.py`.

    python processes_worker.py '{"workdir": ..., "result": ..., "config": {...}}'
"""

import json
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from d4a_jax import processes  # noqa: E402


def main(options):
    if options["num_processes"] > 1:
        names = ("coordinator", "num_processes", "process_id")
        processes.join(**{name: options[name] for name in names})

    import jax
    import numpy as np

    from d4a_jax.config import from_dict
    from d4a_jax.data import from_arrays
    from d4a_jax.distillation import distill

    if processes.is_main():
        logging.basicConfig(level=logging.INFO)
        logging.getLogger("jax").setLevel(logging.WARNING)
        logging.getLogger("absl").setLevel(logging.WARNING)

    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3, dtype=np.int32), 6)
    images = rng.integers(0, 256, (18, 4, 4, 3), dtype=np.uint8)
    dataset = from_arrays("noise", images, labels, images[::2], labels[::2])
    seen = []
    try:
        distilled = distill(dataset, from_dict(options["config"]), options["workdir"])
    except Exception as error:  # pylint: disable=broad-except
        lost = processes.loss_of(error)
        if lost is None:
            raise
        print(lost, file=sys.stderr)
        processes.leave(3)
    if processes.is_main() and options["result"]:
        np.savez(
            options["result"],
            images=distilled.images,
            history=json.dumps(distilled.metadata["history"], sort_keys=True),
            devices=jax.device_count(),
        )


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

"""One of two processes that read damaged checkpoints; started by `test_processes.py`.

python checkpoints_worker.py '{"workdir": "...", "join": {...}, ...}'
"""

import json
import logging
import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from d4a_jax.devices import processes  # noqa: E402


def main(options):
    """Step 3 is damaged in what process 1 alone reads, step 2 in that of process 0."""
    processes.join(**options["join"])
    import jax
    import numpy as np
    from jax.sharding import AxisType, NamedSharding, PartitionSpec

    from d4a_jax.storage.checkpoint import CheckpointStore

    logging.basicConfig(level=logging.WARNING)
    mesh = jax.make_mesh((jax.device_count(),), ("class",), (AxisType.Auto,))
    shape = (jax.device_count(), 1024)
    sharding = NamedSharding(mesh, PartitionSpec("class"))
    abstract = {"pixels": jax.ShapeDtypeStruct(shape, np.float32, sharding=sharding)}

    def make(step):
        # Noise: what compresses well would stand in a file that all read.
        whole = np.random.default_rng(step).normal(size=shape).astype(np.float32)
        put = jax.make_array_from_callback(shape, sharding, lambda index: whole[index])
        return {"pixels": put}

    directory = Path(options["workdir"])
    store = CheckpointStore(directory, keep=3)
    for step in (1, 2, 3):
        store.save(step, make(step), {"step": step})

    def damage():
        for step, reader in ((3, 1), (2, 0)):
            folder = directory / str(step) / "state" / f"ocdbt.process_{reader}" / "d"
            held = max(folder.iterdir(), key=lambda path: path.stat().st_size)
            os.truncate(held, held.stat().st_size // 2)

    processes.by_main(damage)
    step, state, record = store.restore(lambda record: abstract)
    expected = make(1)["pixels"].addressable_shards
    for found, wanted in zip(state["pixels"].addressable_shards, expected):
        np.testing.assert_array_equal(found.data, wanted.data)
    assert (step, record) == (1, {"step": 1})
    # Deletes a later step, and replaces one.
    for step in (4, 2, 2):
        store.save(step, make(step), {"step": step})
    assert store.restore(lambda record: abstract)[0] == 2
    store.close()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))

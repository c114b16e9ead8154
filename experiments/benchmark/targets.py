"""Devices that programs are compiled for without having them."""

from typing import NamedTuple

import numpy as np
from jax.experimental import topologies
from jax.sharding import AxisType, Mesh

from d4a_jax.devices.parallel import AXIS

# What the compiler needs to know of it, from its data sheet and CUDA's tables.
_H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  core_count: 132 fpus_per_core: 128 clock_rate_ghz: 1.98
  memory_bandwidth: 3352320000000 device_memory_size: 84942979072
  l2_cache_size: 52428800
  threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: 2048
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 patch: 0 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""


class Target(NamedTuple):
    """A kind of device.

    Attributes:
      memory: bytes of a device that programs may use.
      bandwidth: bytes a second between it and its memory; None where the text of
        compiled programs does not say how often loops turn, so that nothing is counted.
      package: what brings its compiler.
      topology: for `topologies.get_topology_desc`.
    """

    memory: float
    bandwidth: float | None
    package: str
    topology: dict[str, str]


# JAX takes three quarters of a GPU's memory and leaves out what a TPU reserves.
TARGETS = {
    "h100": Target(
        0.75 * 84942979072,
        3.35e12,
        "jax[cuda12]",
        {
            "platform": "cuda",
            "topology_name": "1x1x1",
            "topology": "1x1x1",
            "target_config": _H100,
        },
    ),
    "v5e": Target(
        15.75 * 2**30,
        None,
        "jax[tpu]",
        {"platform": "tpu", "topology_name": "v5e:2x2"},
    ),
}


def mesh_of(target: Target, devices: int) -> Mesh:
    """The mesh that `make_layout` would make of so many of them."""
    known = topologies.get_topology_desc(**target.topology).devices
    if devices > len(known):
        raise ValueError(f"--devices is {devices}; at most {len(known)} are known.")
    chosen = np.array(known[:devices])
    return Mesh(chosen, (AXIS,), axis_types=(AxisType.Auto,))

"""Kernels and bytes of compiled programs, and programs for devices elsewhere."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")

import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from d4a_jax.devices.parallel import make_layout
from experiments import compile_for
from experiments.benchmark import kernels
from experiments.benchmark.cases import Case
from experiments.benchmark.targets import Target

ROOT = Path(__file__).resolve().parent.parent

# A loop of five turns with a fusion in it, a library call with scratch memory, and two
# branches, in the grammar of optimized HLO.
HLO = """HloModule jit_f, entry_computation_layout={(f32[8]{0})->f32[8]{0}}

%fused (p: f32[8]) -> f32[8] {
  %p = f32[8]{0} parameter(0)
  ROOT %s = f32[8]{0} sine(%p)
}

%body (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %arg = (s32[], f32[8]{0}) parameter(0)
  %i = s32[] get-tuple-element(%arg), index=0
  %x = f32[8]{0} get-tuple-element(%arg), index=1
  %y = f32[8]{0} fusion(%x), kind=kLoop, calls=%fused
  ROOT %out = (s32[], f32[8]{0}) tuple(%i, %y)
}

%condition (arg.1: (s32[], f32[8])) -> pred[] {
  %arg.1 = (s32[], f32[8]{0}) parameter(0)
  ROOT %less = pred[] constant(true)
}

%small (a: bf16[2]) -> bf16[2] {
  %a = bf16[2]{0} parameter(0)
  ROOT %b = bf16[2]{0} negate(%a)
}

%large (a.1: bf16[2]) -> bf16[2] {
  %a.1 = bf16[2]{0} parameter(0)
  %c = pred[2]{0} is-finite(%a.1)
  ROOT %d = bf16[2]{0} select(%c, %a.1, %a.1)
}

ENTRY %main (input: f32[8]) -> f32[8] {
  %input = f32[8]{0} parameter(0)
  %start = (s32[], f32[8]{0}) tuple(%input, %input)
  %loop = (s32[], f32[8]{0}) while(%start), condition=%condition, body=%body, backend_config={"known_trip_count":{"n":"5"}}
  %looped = f32[8]{0} get-tuple-element(%loop), index=1
  %call = (f32[4,2]{1,0}, s8[1000]{0}) custom-call(%looped, %looped), custom_call_target="gemm"
  %v = bf16[2]{0} constant({1, 2})
  %choice = bf16[2]{0} conditional(%looped, %v, %v), branch_computations={%small, %large}
  ROOT %result = f32[8]{0} bitcast(%call)
}
"""


def test_counts_by_hand():
    loop = kernels.Traffic(1, 64).times(5)
    call = kernels.Traffic(1, 32 + 32 + 32)
    branch = kernels.Traffic(1, 4 + 2) + kernels.Traffic(1, 2 + 4 + 4 + 4)
    assert kernels.count(HLO) == loop + call + branch


def test_counts_of_a_compiled_program():
    size = 64

    def program(x):
        step = lambda total, _: (jnp.sin(total @ total), None)
        return lax.scan(step, x, length=7)[0]

    text = jax.jit(program).lower(jnp.ones((size, size))).compile().as_text()
    traffic = kernels.count(text)
    array = 4 * size**2
    # At least a product and what is made of it in each turn, at most a few copies more.
    assert 7 * 3 * array <= traffic.bytes <= 7 * 12 * array
    assert 7 <= traffic.kernels <= 100


@pytest.mark.skipif(jax.device_count() < 2, reason="needs 2 (fake) devices")
def test_rows_of_a_case_on_two_devices(capsys):
    """Two CPUs stand for the devices elsewhere."""
    settings = {
        "network": "convnet:width=8:depth=1",
        "network_training": {"images_per_step": 128, "batch_size": 32},
        "evaluation": {"augmentation": ""},
    }
    case = Case("small", "Small", 8, 3, 1, 1, settings)
    here = Target(1e9, 1e9, "nothing", {})
    mesh = make_layout(2).mesh
    matching, iteration = compile_for.rows_of(case, here, mesh, "float32", 0)
    assert matching[:2] == ["Small", "matching"]
    assert iteration[:2] == ["Small", "iteration"]
    number = lambda text: float(text.replace(",", ""))
    silent = here._replace(bandwidth=None)
    uncounted = compile_for.rows_of(case, silent, mesh, "float32", 0)
    assert uncounted[0][3:6] == ["-"] * 3 and number(uncounted[0][2]) >= 0
    # Training the network as well takes more kernels and moves more.
    for column in (3, 5):
        assert 0 < number(matching[column]) < number(iteration[column])


def _command(*flags):
    script = ROOT / "experiments" / "compile_for.py"
    command = [sys.executable, script, *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda12_plugin") is not None,
    reason="a compiler for GPUs is installed",
)
def test_a_compiler_that_is_not_installed_is_named():
    done = _command("--target=h100")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("--target=h100: ")
    assert "jax[cuda12]" in done.stderr


@pytest.mark.parametrize("flag", ["--target=abacus", "--cases=cifar11"])
def test_bad_flags_are_named(flag):
    done = _command(flag)
    assert done.returncode == 2
    assert flag.split("=")[1] in done.stderr and "Traceback" not in done.stderr

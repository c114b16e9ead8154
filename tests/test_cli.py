"""What commands say when something fails that is not theirs to mend."""

import errno

import jax
import jax.numpy as jnp
import pytest

from experiments import cli


def _ends_with(error, capsys):
    with pytest.raises(SystemExit) as end, cli.plain_user_errors():
        raise error
    assert end.value.code == cli.FAILURE
    return capsys.readouterr().err


def _full_memory():
    with pytest.raises(jax.errors.JaxRuntimeError) as caught:
        jax.block_until_ready(jnp.zeros(2**50, jnp.uint8))
    return caught.value


def test_full_memory_of_a_device_is_a_sentence_that_names_what_helps(capsys):
    said = _ends_with(_full_memory(), capsys)
    assert "memory of a device is full (" in said and "RESOURCE_EXHAUSTED" in said
    assert "runtime.class_chunk" in said and "runtime.predict_batch" in said
    assert "Other programs" in said and "XLA_PYTHON_CLIENT_PREALLOCATE=false" in said
    assert said.count("\n") == 1


def test_a_full_disk_is_a_sentence(capsys):
    said = _ends_with(OSError(errno.ENOSPC, "no space", "f.npy"), capsys)
    assert said.startswith("Cannot write (f.npy): no space.")


@pytest.mark.parametrize(
    "error",
    [
        jax.errors.JaxRuntimeError("INTERNAL: a bug"),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: x [os_error_code='28']"),
        OSError(errno.ENOENT, "no such file"),
    ],
)
def test_other_errors_are_shown_as_they_are(error):
    with pytest.raises(type(error)), cli.plain_user_errors():
        raise error

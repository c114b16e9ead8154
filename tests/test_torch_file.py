"""Tests of d4a_jax.imports.torch_file."""

import collections
import os
import zipfile

import numpy as np
import pytest
from torch_files import Call, Name, save_torch

from d4a_jax.artifact import ArtifactError
from d4a_jax.imports.torch_file import read_torch


def _tensor(storage_size=4, size=(4,), stride=(1,), offset=0):
    """A description of a tensor, which need not be right."""
    from torch_files import _Storage

    storage = _Storage("FloatStorage", "0", storage_size)
    rebuild = Name("torch._utils", "_rebuild_tensor_v2")
    return Call(rebuild, storage, offset, size, stride, False, None)


def _save_described(path, tensor):
    data = np.arange(4, dtype=np.float32).tobytes()
    save_torch(tensor, path, change=lambda m: m.update({"data/0": data}))


@pytest.mark.parametrize(
    "dtype", ["float32", "float64", "float16", "int64", "int32", "uint8", "bool"]
)
def test_tensors_of_every_type(tmp_path, dtype):
    array = np.arange(12).reshape(3, 4).astype(dtype)
    save_torch({"a": [array, (array[0], 3)], "b": 0.5}, tmp_path / "a.pt")
    found = read_torch(tmp_path / "a.pt")
    assert found["a"][0].dtype == array.dtype
    np.testing.assert_array_equal(found["a"][0], array)
    np.testing.assert_array_equal(found["a"][1][0], array[0])
    assert (found["a"][1][1], found["b"]) == (3, 0.5)


def test_strides_and_offsets_of_a_view(tmp_path):
    _save_described(tmp_path / "a.pt", _tensor(size=(2, 2), stride=(1, 2)))
    np.testing.assert_array_equal(read_torch(tmp_path / "a.pt"), [[0, 2], [1, 3]])
    _save_described(tmp_path / "a.pt", _tensor(size=(2,), stride=(1,), offset=2))
    np.testing.assert_array_equal(read_torch(tmp_path / "a.pt"), [2, 3])


def test_ordered_dictionaries_and_numpy_scalars_are_read(tmp_path):
    encode = Call(Name("_codecs", "encode"), "\0\0\0\0\0\0\x0c@", "latin1")
    kind = Call(
        Name("numpy", "dtype"), "f8", False, True,
        state=(3, "<", None, None, None, -1, -1, 0),
    )  # fmt: skip
    scalar = Call(Name("numpy.core.multiarray", "scalar"), kind, encode)
    ordered = Call(Name("collections", "OrderedDict"))
    save_torch([scalar, ordered], tmp_path / "a.pt")
    found = read_torch(tmp_path / "a.pt")
    assert found == [3.5, collections.OrderedDict()]


@pytest.mark.parametrize(
    "module, name, arguments",
    [
        ("os", "system", ("touch pwned",)),
        ("builtins", "eval", ("1",)),
        ("builtins", "getattr", ("a", "b")),
        ("torch.nn", "Linear", (1, 1)),
        ("numpy", "load", ("x",)),
    ],
)
def test_other_code_is_refused_and_never_run(
    tmp_path, monkeypatch, module, name, arguments
):
    monkeypatch.chdir(tmp_path)
    save_torch(Call(Name(module, name), *arguments), "a.pt")
    with pytest.raises(ArtifactError, match=f"holds {module}.{name}, which is refused"):
        read_torch(tmp_path / "a.pt")
    assert os.listdir(tmp_path) == ["a.pt"]


def test_what_may_be_named_cannot_be_changed(tmp_path):
    # A state of two dictionaries sets attributes, of a function as well.
    rebuild = Name("torch._utils", "_rebuild_parameter")

    def change(members):
        text = b"\x80\x02ctorch._utils\n_rebuild_parameter\n"
        members["data.pkl"] = text + b"N}X\x08\x00\x00\x00__code__K\x01s\x86b."

    save_torch(rebuild, tmp_path / "a.pt", change=change)
    with pytest.raises(ArtifactError, match="sets the attribute '__code__'"):
        read_torch(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "tensor, message",
    [
        (_tensor(size=(5,)), "beyond its storage"),
        (_tensor(offset=1), "beyond its storage"),
        (_tensor(stride=(-1,)), "beyond its storage"),
        (_tensor(size=(1 << 40,), stride=(0,)), "repeated values"),
        (_tensor(storage_size=400), "is damaged"),
    ],
)
def test_a_tensor_stays_within_its_storage(tmp_path, tensor, message):
    _save_described(tmp_path / "a.pt", tensor)
    with pytest.raises(ArtifactError, match=message):
        read_torch(tmp_path / "a.pt")


def test_what_is_no_torch_file_is_refused(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"\x80\x02l\nl.")
    with pytest.raises(ArtifactError, match="PyTorch 1.6 or later"):
        read_torch(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other", b"x")
    with pytest.raises(ArtifactError, match="none that torch.save wrote"):
        read_torch(path)
    save_torch([1], path, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(ArtifactError, match="compressed ZIP"):
        read_torch(path)
    with pytest.raises(ArtifactError, match="nowhere.pt cannot be read: No such file"):
        read_torch(tmp_path / "nowhere.pt")


def test_damage_is_one_sentence(tmp_path):
    save_torch({"a": np.ones((3, 4), np.float32)}, tmp_path / "a.pt")
    content = (tmp_path / "a.pt").read_bytes()
    refused = 0
    for offset in np.linspace(0, len(content) - 1, 60).astype(int):
        damaged = bytearray(content)
        damaged[offset] ^= 0x55
        (tmp_path / "b.pt").write_bytes(damaged)
        try:
            read_torch(tmp_path / "b.pt")
        except ArtifactError:
            refused += 1
    assert refused > 20


def test_files_of_torch_itself(tmp_path):
    torch = pytest.importorskip("torch")
    values = {
        "view": torch.arange(24.0).reshape(2, 3, 4).transpose(0, 2)[1:],
        "half": torch.tensor([1.5, -2]).to(torch.bfloat16),
        "parameter": torch.nn.Parameter(torch.ones(2)),
        "accuracy": np.float64(0.25),
        "empty": torch.zeros(0, 3),
    }
    torch.save(values, tmp_path / "a.pt")
    found = read_torch(tmp_path / "a.pt")
    for name in ("view", "half", "parameter", "empty"):
        np.testing.assert_array_equal(
            found[name], values[name].detach().float().numpy()
        )
    assert found["accuracy"] == 0.25

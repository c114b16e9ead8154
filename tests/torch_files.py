"""Writes `.pt` files as `torch.save` does, without PyTorch."""

import io
import pickle
import zipfile

import numpy as np

_STORAGES = {
    "float32": "FloatStorage",
    "float64": "DoubleStorage",
    "float16": "HalfStorage",
    "int64": "LongStorage",
    "int32": "IntStorage",
    "uint8": "ByteStorage",
    "bool": "BoolStorage",
}


class Name:
    """A global name in a pickle, whatever lies behind it."""

    def __init__(self, module, name):
        self.module, self.name = module, name

    def __call__(self):
        raise AssertionError("only written")


class Call:
    """A call of a global name in a pickle."""

    def __init__(self, name, *arguments, state=None):
        self.parts = (name, arguments, state)


class _Storage:
    def __init__(self, kind, key, count):
        self.pid = ("storage", Name("torch", kind), key, "cpu", count)


class _Pickler(pickle._Pickler):
    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, file):
        super().__init__(file, protocol=2)
        self.storages = []

    def persistent_id(self, obj):
        return obj.pid if isinstance(obj, _Storage) else None

    def save_name(self, obj):
        self.write(f"c{obj.module}\n{obj.name}\n".encode())

    def save_call(self, obj):
        function, arguments, state = obj.parts
        self.save_reduce(function, arguments, state)

    def save_tensor(self, array):
        key = str(len(self.storages))
        self.storages.append(np.ascontiguousarray(array).tobytes())
        storage = _Storage(_STORAGES[array.dtype.name], key, array.size)
        strides = np.ascontiguousarray(array).strides
        stride = tuple(s // array.itemsize for s in strides) if array.ndim else ()
        rebuild = Name("torch._utils", "_rebuild_tensor_v2")
        arguments = (storage, 0, array.shape, stride, False, None)
        self.save_reduce(rebuild, arguments)

    dispatch[Name] = save_name
    dispatch[Call] = save_call
    dispatch[np.ndarray] = save_tensor


def save_torch(value, path, compression=zipfile.ZIP_STORED, change=None):
    """Writes a value whose arrays are tensors; `change` edits the bytes by member."""
    stream = io.BytesIO()
    pickler = _Pickler(stream)
    pickler.dump(value)
    members = {"data.pkl": stream.getvalue(), "byteorder": b"little"}
    members |= {f"data/{i}": data for i, data in enumerate(pickler.storages)}
    if change:
        change(members)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(f"archive/{name}", data)

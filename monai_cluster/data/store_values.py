# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A preprocessed sample as JSON and large arrays, and back to exactly the same objects. No pickle.

What the preprocessing passes through from the row is noted by its name, not by its value: texts of the row, paths
among them, do not get into the store, and come back from the row that asks.
"""

from __future__ import annotations

import base64
import enum
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import monai.utils.enums
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

__all__ = ["Hidden", "UnstorableError", "decode_sample", "encode_sample"]

Row = Mapping[str, Any]
Coded = Mapping[str, Any]
SMALL = 2**16  # bytes of an array that may lie in the JSON, unless it has spatial axes
SPATIAL = 3  # axes from which on an array is an image


class UnstorableError(TypeError):
    """A sample with a value that the store cannot give back exactly."""


class Hidden:
    """Stands in for a row's entry that the preprocessing may pass on, drop or rename, but not look at.

    The number and the patient of a row are no part of a stored sample's key, so nothing in the sample may depend on
    them.
    """

    def __init__(self, key: str) -> None:
        self.key = key

    def __deepcopy__(self, memo: Any) -> Hidden:
        return self

    def __copy__(self) -> Hidden:
        return self

    def _refuse(self, *_: Any) -> Any:
        raise UnstorableError(
            f"a preprocessing that reads {self.key!r} cannot use the slice store, whose samples do not depend on it: "
            "leave the store out, or read another column."
        )

    __str__ = __format__ = __int__ = __index__ = __float__ = __bool__ = __eq__ = __len__ = __iter__ = _refuse
    __hash__ = object.__hash__


def encode_sample(sample: Row, row: Row, sources: Mapping[str, Sequence[Path]]) -> tuple[list[Any], list[Tensor]]:
    """Turn a sample into JSON items and the arrays that they point to.

    Args:
        sample: what the preprocessing made of the row.
        row: what it was given.
        sources: the row's paths, see :func:`source_paths`.

    Raises:
        UnstorableError: for a value of another kind than plain data, arrays and tensors, or a text with a path in it.
    """
    encoder = _Encoder(row, sources)
    items = []
    for key, value in sample.items():
        if not isinstance(key, str):
            raise UnstorableError(f"entries of a stored sample must be called by text, got {key!r}.")
        if isinstance(value, Hidden):
            items.append([key, {"type": "row", "key": value.key}])
        elif key in row and value is row[key]:
            items.append([key, {"type": "row", "key": key}])
        else:
            items.append([key, encoder.encode(value, key)])
    return items, encoder.arrays


class _Encoder:
    def __init__(self, row: Row, sources: Mapping[str, Sequence[Path]]) -> None:
        self.arrays: list[Tensor] = []
        self.sources = {str(path): (key, number) for key, paths in sources.items() for number, path in enumerate(paths)}

    def encode(self, value: Any, where: str) -> Any:
        if isinstance(value, enum.Enum):
            return self._enum(value, where)
        if value is None or type(value) in (bool, int, float):
            return value
        if type(value) is str or isinstance(value, Path):
            return self._text(value, where)
        if type(value) is list or type(value) is tuple:
            return {"type": type(value).__name__, "items": [self.encode(part, where) for part in value]}
        if type(value) is dict:
            pairs = [[self.encode(key, where), self.encode(part, f"{where}.{key}")] for key, part in value.items()]
            return {"type": "dict", "items": pairs}
        if type(value) in (torch.dtype, torch.device, torch.Size):
            return {"type": type(value).__name__, "value": list(value) if type(value) is torch.Size else str(value)}
        if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
            return self._array(value)
        if type(value) in (Tensor, MetaTensor) and value.layout is torch.strided and value.device.type == "cpu":
            return self._tensor(value, where)
        raise UnstorableError(
            f"the slice store keeps plain data, arrays and tensors, got {type(value).__module__}."
            f"{type(value).__qualname__} in {where!r}: drop or convert it in the preprocessing, or leave the store out."
        )

    def _text(self, value: str | Path, where: str) -> Any:
        kind = "Path" if isinstance(value, Path) else "str"
        if str(value) in self.sources:
            key, number = self.sources[str(value)]
            return {"type": "source", "key": key, "part": number, "as": kind}
        if kind == "Path" or any(os.sep in path and path in str(value) for path in self.sources):
            raise UnstorableError(
                f"{where!r} holds a path, which belongs to the row and not into the slice store: drop it in the "
                "preprocessing, or leave the store out."
            )
        return str(value)

    def _enum(self, value: enum.Enum, where: str) -> Any:
        kind = type(value)
        if getattr(monai.utils.enums, kind.__name__, None) is not kind:
            raise UnstorableError(f"the slice store keeps MONAI's enumerations only, got {kind.__name__} in {where!r}.")
        return {"type": "enum", "of": kind.__name__, "name": value.name}

    def _array(self, value: np.ndarray[Any, Any] | np.generic) -> Any:
        array = np.asarray(value)
        if array.ndim >= SPATIAL or array.nbytes > SMALL:
            try:
                tensor = torch.from_numpy(array.copy(order="K"))
            except TypeError as error:
                raise UnstorableError(f"large arrays must be numbers, got {array.dtype}.") from error
            return {"type": "large array", "dtype": array.dtype.str, "tensor": self._tensor(tensor, "array")}
        kind = "array" if isinstance(value, np.ndarray) else "scalar"
        return {"type": kind, "dtype": array.dtype.str, "shape": list(array.shape), "data": _base64(array)}

    def _tensor(self, value: Tensor, where: str) -> Any:
        plain = value.detach().as_subclass(Tensor)
        coded: dict[str, Any] = {"type": "tensor", "dtype": _dtype_name(plain.dtype), "shape": list(plain.shape)}
        if plain.ndim >= SPATIAL or plain.numel() * plain.element_size() > SMALL:
            coded |= {"array": len(self.arrays), "order": _order(plain)}
            self.arrays.append(plain)
        else:
            coded["data"] = _base64(plain.contiguous().reshape(-1).view(torch.uint8).numpy())
        if isinstance(value, MetaTensor):
            coded |= {"type": "MetaTensor", "state": self.encode(dict(value.__dict__), where)}
        return coded


def decode_sample(items: Sequence[Any], row: Row, read: Callable[[Coded], Tensor]) -> dict[str, Any]:
    """The sample again.

    Args:
        items: as encoded.
        row: the row that asks.
        read: gives the large array that a tensor's JSON points to, of the type, shape and order of axes named there.
    """
    sources = {key: value if isinstance(value, (list, tuple)) else [value] for key, value in row.items()}

    def decode(coded: Any) -> Any:
        if not isinstance(coded, dict):
            return coded
        kind = coded["type"]
        if kind == "row":
            return row[coded["key"]]
        if kind == "source":
            return (Path if coded["as"] == "Path" else str)(sources[coded["key"]][coded["part"]])
        if kind in ("list", "tuple"):
            parts = [decode(part) for part in coded["items"]]
            return parts if kind == "list" else tuple(parts)
        if kind == "dict":
            return {decode(key): decode(part) for key, part in coded["items"]}
        if kind in ("tensor", "MetaTensor"):
            return _decoded_tensor(coded, decode, read)
        return _decoded_constant(coded, decode)

    return {key: decode(coded) for key, coded in items}


def _decoded_tensor(coded: Coded, decode: Callable[[Any], Any], read: Callable[[Coded], Tensor]) -> Tensor:
    if "array" in coded:
        tensor = read(coded)
    else:
        tensor = torch.empty(coded["shape"], dtype=_dtype(coded["dtype"]))
        data = torch.frombuffer(bytearray(_bytes(coded) or b"0"), dtype=torch.uint8)
        tensor.view(-1).view(torch.uint8).copy_(data[: tensor.numel() * tensor.element_size()])
    if coded["type"] == "tensor":
        return tensor
    result = tensor.as_subclass(MetaTensor)
    result.__dict__.update(decode(coded["state"]))
    return result


def _decoded_constant(coded: Any, decode: Callable[[Any], Any]) -> Any:
    kind = coded["type"]
    if kind in ("array", "scalar"):
        array = np.frombuffer(_bytes(coded), dtype=np.dtype(coded["dtype"])).reshape(coded["shape"]).copy()
        return array if kind == "array" else array[()]
    if kind == "large array":
        return decode(coded["tensor"]).numpy()
    if kind == "enum":
        return getattr(monai.utils.enums, coded["of"])[coded["name"]]
    if kind == "Size":
        return torch.Size(coded["value"])
    return torch.device(coded["value"]) if kind == "device" else _dtype(coded["value"].removeprefix("torch."))


def _order(tensor: Tensor) -> list[int]:
    """Axes from the slowest to the fastest in memory; the plain order where there is no such thing."""
    plain = list(range(tensor.ndim))
    if tensor.is_contiguous():
        return plain
    order = sorted(plain, key=tensor.stride, reverse=True)
    return order if tensor.permute(order).is_contiguous() else plain


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)
    return found


def _base64(array: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode("ascii")


def _bytes(coded: Any) -> bytes:
    return base64.b64decode(coded["data"])

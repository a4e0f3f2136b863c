# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A transform as text: the same in every process, another as soon as an argument, its code or a library changes.

The text becomes part of the key under which the slice store files a sample. What cannot be told apart by its text (a
lambda, a generator, an open file) is refused: two transforms under one key would hand out each other's samples.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import importlib.metadata
import json
import re
import sys
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

__all__ = ["DescriptionError", "describe", "describe_transform"]

LIBRARIES = ("torch", "monai", "numpy", "nibabel", "SimpleITK", "pydicom", "pillow", "scipy")
OWN_ROOMS = ("data", "transforms")
# Set while a transform runs, never by an argument: a random state that deterministic transforms do not use, a warning
# that is given once, MONAI's notes of whether a thread traces and of what a reader read last.
STATE = {"R", "_warned", "_tracing", "filenames"}
PLAIN = (type(None), bool, int, str)


class DescriptionError(ValueError):
    """Something in a transform or a row that has no stable description."""


def describe_transform(transform: Any) -> str:
    """Canonical text of a deterministic transform with its code's digest and the libraries' versions.

    Args:
        transform: any callable: a MONAI ``Compose``, a transform, a function of a module.

    Raises:
        DescriptionError: for lambdas, functions inside functions, and values without a stable text; names the place.
    """
    parts = {"transform": describe(transform), "libraries": _library_versions()}
    return json.dumps(parts, sort_keys=True)


def describe(value: Any, where: str = "the preprocessing") -> Any:
    """Nested lists and texts that tell a value from every other.

    Args:
        value: plain data, arrays, tensors, functions, or objects of Python classes, whose attributes are walked.
        where: name of the value in messages.

    Raises:
        DescriptionError: see :func:`describe_transform`.
    """
    return _Walk().describe(value, where)


class _Walk:
    def __init__(self) -> None:
        self.above: list[int] = []

    def describe(self, value: Any, where: str) -> Any:
        if type(value) in PLAIN:
            return [type(value).__name__, value]
        if id(value) in self.above:
            raise DescriptionError(f"{where} contains itself and cannot be described for the slice store.")
        self.above.append(id(value))
        try:
            return self._structure(value, where)
        finally:
            self.above.pop()

    def _structure(self, value: Any, where: str) -> Any:
        simple = _simple(value)
        if simple is not None:
            return simple
        if isinstance(value, (list, tuple)):
            items: Any = [self.describe(item, f"{where}[{number}]") for number, item in enumerate(value)]
            return self._with_class(value, items, where)
        if isinstance(value, (set, frozenset)):
            return self._with_class(value, sorted(json.dumps(self.describe(item, where)) for item in value), where)
        if isinstance(value, Mapping):
            items = [[self.describe(k, where), self.describe(v, f"{where}[{k!r}]")] for k, v in value.items()]
            return self._with_class(value, items, where)
        if isinstance(value, functools.partial):
            parts = [value.func, list(value.args), dict(value.keywords)]
            return ["partial", *[self.describe(part, f"{where}.{type(value).__name__}") for part in parts]]
        if isinstance(value, types.MethodType):
            return ["method", value.__func__.__qualname__, self.describe(value.__self__, where)]
        if isinstance(value, (types.FunctionType, types.BuiltinFunctionType, np.ufunc, type)):
            return ["code", _code(value, where)]
        return self._object(value, where)

    def _with_class(self, value: Any, items: Any, where: str) -> Any:
        if type(value) in (list, tuple, set, frozenset, dict):
            return [type(value).__name__, items]
        return [_code(type(value), where), items, self._attributes(value, where)]

    def _object(self, value: Any, where: str) -> Any:
        kind = type(value)
        compiled = [parent for parent in kind.__mro__[:-1] if _source_file(parent) is None]
        if compiled or not hasattr(value, "__dict__"):
            raise DescriptionError(
                f"{where} holds a {kind.__module__}.{kind.__qualname__}, which has no stable description for the "
                "slice store: replace it by plain values, or leave the store out."
            )
        return ["object", _code(kind, where), self._attributes(value, where)]

    def _attributes(self, value: Any, where: str) -> list[Any]:
        names = sorted(name for name in getattr(value, "__dict__", {}) if name not in STATE)
        return [[name, self.describe(value.__dict__[name], f"{where}.{name}")] for name in names]


def _simple(value: Any) -> Any:
    """Text of values without parts, or None."""
    if isinstance(value, enum.Enum):
        return ["enum", f"{type(value).__module__}.{type(value).__qualname__}", value.name]
    if type(value) is float:
        return ["float", value.hex()]
    if type(value) in (complex, bytes, range, slice) or isinstance(value, (torch.dtype, torch.device, torch.Size)):
        return [type(value).__name__, repr(value)]
    if isinstance(value, np.dtype):
        return ["numpy.dtype", value.str]
    if isinstance(value, re.Pattern):
        return ["pattern", value.pattern, value.flags]
    if isinstance(value, Path):
        return ["path", str(value)]
    if isinstance(value, torch.Tensor):
        meta = getattr(value, "affine", None)
        own = ["tensor", str(value.dtype), *_array(_bytes_of(value))]
        return own if meta is None or meta is value else [*own, _simple(meta)]
    if isinstance(value, (np.ndarray, np.generic)) and not value.dtype.hasobject:
        return ["array", *_array(np.asarray(value))]
    return None


def _bytes_of(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    plain = tensor.detach().cpu().as_subclass(torch.Tensor).contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy().reshape(*plain.shape, -1)


def _array(array: np.ndarray[Any, Any]) -> list[Any]:
    return [array.dtype.str, list(array.shape), hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()]


def _code(thing: Any, where: str) -> str:
    """Name of a class or function, and the digest of the code that it comes from."""
    module, name = getattr(thing, "__module__", None) or "builtins", getattr(thing, "__qualname__", thing.__name__)
    if "<" in name:
        raise DescriptionError(
            f"{where} holds {name} of {module}, which two processes cannot tell apart from others: give it a name at "
            "the top of a module, so that the slice store knows it again."
        )
    room = module.split(".")[0]
    if room == "monai_cluster":
        return f"{module}.{name} {_own_code()}"
    if room in LIBRARIES or (room in sys.stdlib_module_names and room != "__main__"):
        return f"{module}.{name}"
    file = _source_file(thing)
    if file is None:
        raise DescriptionError(
            f"{where} holds {module}.{name}, whose source cannot be read: put it into a module (a .py file), so that "
            "the slice store notices when it changes."
        )
    return f"{module}.{name} {_file_digest(file, file.stat().st_mtime_ns)}"


def _source_file(thing: Any) -> Path | None:
    file = getattr(sys.modules.get(getattr(thing, "__module__", "") or ""), "__file__", None)
    return Path(file) if file and file.endswith(".py") and Path(file).is_file() else None


@functools.cache
def _file_digest(file: Path, changed: int) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


@functools.cache
def _own_code() -> str:
    """Digest of the rooms that preprocessing comes from, so that no entry outlives a change of a reader."""
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for file in sorted(file for room in OWN_ROOMS for file in (root / room).glob("*.py")):
        digest.update(f"{file.name} {_file_digest(file, 0)}".encode())
    return digest.hexdigest()[:16]


@functools.cache
def _library_versions() -> str:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = importlib.metadata.version(library)
        except importlib.metadata.PackageNotFoundError:
            found[library] = "none"
    return json.dumps(found)

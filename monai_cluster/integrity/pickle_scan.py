# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The instructions of a checkpoint's pickle, listed and never carried out: what would it import?"""

from __future__ import annotations

import pickletools
from dataclasses import dataclass
from typing import Any

from .byte_stream import refuse

__all__ = ["StoredValues", "scan_pickle"]

RULE = "a checkpoint's pickle must hold nothing but tensors and plain values"
FIX = "refused as unsafe; ask for the weights as safetensors, and never load it with weights_only=False"
# instructions that torch.load(weights_only=True) carries out; anything else ends it too
OPCODES = frozenset(
    [
        "PROTO",
        "STOP",
        "GLOBAL",
        "NEWOBJ",
        "REDUCE",
        "BUILD",
        "APPEND",
        "APPENDS",
        "SETITEM",
        "SETITEMS",
        "MARK",
        "TUPLE",
        "TUPLE1",
        "TUPLE2",
        "TUPLE3",
        "NONE",
        "NEWFALSE",
        "NEWTRUE",
        "EMPTY_TUPLE",
        "EMPTY_LIST",
        "EMPTY_DICT",
        "EMPTY_SET",
        "BININT",
        "BININT1",
        "BININT2",
        "BINFLOAT",
        "BINUNICODE",
        "SHORT_BINSTRING",
        "BINPERSID",
        "BINGET",
        "LONG_BINGET",
        "BINPUT",
        "LONG_BINPUT",
        "LONG1",
    ]
)
STORAGES = {
    "FloatStorage": "F32", "DoubleStorage": "F64", "HalfStorage": "F16", "BFloat16Storage": "BF16",
    "LongStorage": "I64", "IntStorage": "I32", "ShortStorage": "I16", "CharStorage": "I8", "ByteStorage": "U8",
    "BoolStorage": "BOOL", "ComplexFloatStorage": "C64",
}  # fmt: skip
REBUILD = [
    "_rebuild_tensor",
    "_rebuild_tensor_v2",
    "_rebuild_tensor_v3",
    "_rebuild_parameter",
    "_rebuild_parameter_with_state",
    "_rebuild_qtensor",
    "_rebuild_sparse_tensor",
    "_rebuild_meta_tensor_no_storage",
    "_rebuild_nested_tensor",
]
DTYPES = [
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "half",
    "float",
    "double",
    "int8",
    "int16",
    "int32",
    "int64",
    "short",
    "int",
    "long",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
    "complex32",
    "complex64",
    "complex128",
    "float8_e4m3fn",
    "float8_e5m2",
]
PLAIN = (
    "collections OrderedDict", "collections Counter", "torch.nn.parameter Parameter", "torch Size", "torch Tensor",
    "torch device", "torch.serialization _get_layout", "torch._tensor _rebuild_from_type_v2", "_codecs encode",
    "builtins bytearray", "builtins set", "builtins complex", "__builtin__ bytearray", "__builtin__ set",
    "__builtin__ complex", "torch.storage UntypedStorage",
)  # fmt: skip
GLOBALS = frozenset(
    [*PLAIN]
    + [f"torch._utils {name}" for name in REBUILD]
    + [f"torch {name}" for name in DTYPES]
    + [f"torch {name}" for name in STORAGES]
)


@dataclass(frozen=True)
class StoredValues:
    """One storage that the pickle names: its type as in safetensors, and how many values it must hold."""

    dtype: str
    count: int


def scan_pickle(data: bytes) -> dict[str, StoredValues]:
    """Storages that a pickle refers to, by their key.

    Raises:
        InputRefusedError: PICKLE for instructions or globals that ``torch.load(weights_only=True)`` would refuse, for
            malformed instructions and for bytes behind the last one.
    """
    stored: dict[str, StoredValues] = {}
    memo: dict[int, Any] = {}
    recent: list[Any] = []  # the last values, enough for the reference to one storage
    end = -1
    for name, argument, position in _instructions(data):
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = recent[-1] if recent else None
        elif name == "BINPERSID":
            _take_storage(recent[-5:], stored)
            recent = [None]
        elif name == "STOP":
            end = position or 0
        elif name not in ("TUPLE", "PROTO", "MARK"):
            value = memo.get(argument) if name.endswith("BINGET") else argument
            recent = [*recent[-8:], value]
    if end + 1 != len(data):
        raise refuse("PICKLE", RULE, "bytes behind the end of the pickle (corrupt or hidden data)", FIX)
    return stored


def _instructions(data: bytes) -> list[tuple[str, Any, int | None]]:
    found: list[tuple[str, Any, int | None]] = []
    try:
        for opcode, argument, position in pickletools.genops(data):
            if opcode.name not in OPCODES:
                what = f"an instruction that is not allowed ({opcode.name})"
                raise refuse("PICKLE", RULE, what, FIX)
            if opcode.name == "GLOBAL" and argument not in GLOBALS:
                raise refuse("PICKLE", RULE, "a global (function or class) that is not allowed", FIX)
            found.append((opcode.name, argument, position))
    except (EOFError, IndexError, OverflowError, UnicodeError):
        raise refuse("PICKLE", RULE, "instructions that cannot be read (corrupt)", FIX) from None
    except ValueError as error:
        if hasattr(error, "findings"):
            raise
        raise refuse("PICKLE", RULE, "instructions that cannot be read (corrupt)", FIX) from None
    return found


def _take_storage(values: list[Any], stored: dict[str, StoredValues]) -> None:
    """Values of one reference: the word storage, its class, its key, a device and the number of values."""
    if len(values) < 5 or values[0] != "storage" or not isinstance(values[2], str):
        raise refuse("PICKLE", RULE, "a reference to something other than a storage", FIX)
    if type(values[4]) is not int or values[4] < 0:
        raise refuse("PICKLE", RULE, "a storage without a count of values", FIX)
    dtype = STORAGES.get(str(values[1]).removeprefix("torch "), "U8")
    stored[values[2]] = StoredValues(dtype, values[4])

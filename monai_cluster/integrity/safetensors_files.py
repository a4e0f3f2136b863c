# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A safetensors file, byte for byte: a length, a JSON header, and tensors one after the other without a gap."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np

from .byte_stream import open_regular, refuse
from .findings import Inspection
from .identifiers import warn_of_identifiers
from .limits import Limits
from .strict_json import read_json

__all__ = ["BITS", "check_safetensors", "count_nonfinite"]

MAX_HEADER_BYTES = 100_000_000  # the limit of the format's own reader
PART = 16 * 2**20
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "F8_E4M3": 8, "F8_E5M2": 8, "C64": 64,
}  # fmt: skip
# a float is NaN or infinite where all bits of its exponent are set: (unsigned type, mask)
EXPONENT: dict[str, tuple[np.dtype[Any], int]] = {
    "F16": (np.dtype("<u2"), 0x7C00),
    "BF16": (np.dtype("<u2"), 0x7F80),
    "F32": (np.dtype("<u4"), 0x7F800000),
    "C64": (np.dtype("<u4"), 0x7F800000),
    "F64": (np.dtype("<u8"), 0x7FF0000000000000),
    "F8_E5M2": (np.dtype("u1"), 0x7C),
    "F8_E4M3": (np.dtype("u1"), 0x7F),  # no infinities; NaN alone has all seven bits set
}
RULE, FIX = "a safetensors file must follow its format", "export the weights again"


@dataclass(frozen=True)
class _Tensor:
    dtype: str
    start: int
    end: int


def check_safetensors(path: str | os.PathLike[str], limits: Limits, inspection: Inspection) -> None:
    """Judge header, offsets and values.

    Raises:
        InputRefusedError: HEADER, TRUNCATED, TRAILING, TOO_LARGE, and what ``open_regular`` and ``read_json`` raise.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        inspection.facts.num_bytes = size
        header, begin = _header(file, size)
        texts = _metadata(header)
        tensors = [_tensor(entry) for name, entry in header.items() if name != "__metadata__"]
        _check_layout(tensors, size - begin)
        warn_of_identifiers(texts, "the metadata or names of a weights file", inspection)
        if not tensors:
            inspection.reject("EMPTY", "a weights file must hold tensors", "0 tensors", FIX)
        _check_values(file, begin, tensors, inspection)


def _header(file: BinaryIO, size: int) -> tuple[dict[str, Any], int]:
    if size < 8:
        raise refuse("TRUNCATED", RULE, f"{size} bytes where the length of the header takes 8 (truncated)", FIX)
    length = int.from_bytes(file.read(8), "little")
    if length < 2 or length > MAX_HEADER_BYTES:
        found = f"a header length of {length} (invalid: 2 to {MAX_HEADER_BYTES})"
        raise refuse("HEADER", RULE, found, FIX)
    if 8 + length > size:
        found = f"a header of {length} bytes in a file of {size} (truncated)"
        raise refuse("TRUNCATED", RULE, found, FIX)
    header = read_json(file.read(length), "HEADER")
    if not isinstance(header, dict):
        raise refuse("HEADER", RULE, "a header that is no object", FIX)
    return header, 8 + length


def _metadata(header: dict[str, Any]) -> list[str]:
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(one, str) for one in metadata.values()):
        raise refuse("HEADER", RULE, "metadata that are no object of texts", FIX)
    names = [name for name in header if name != "__metadata__"]
    return [f"{name}: {text}" for name, text in metadata.items()] + names


def _tensor(entry: Any) -> _Tensor:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise refuse("HEADER", RULE, "a tensor without exactly dtype, shape and data_offsets", FIX)
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in BITS:
        raise refuse("HEADER", RULE, "a tensor of an unknown dtype", "store it as one of F32, F16 or BF16")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2 or len(shape) > 64:
        raise refuse("HEADER", RULE, "a shape or offsets that are no list of natural numbers (invalid)", FIX)
    size = BITS[dtype] // 8
    for side in shape:
        size *= side
    if offsets[1] - offsets[0] != size:
        found = f"offsets that span {offsets[1] - offsets[0]} bytes where dtype and shape need {min(size, 2**63)}"
        raise refuse("HEADER", RULE, found, FIX)
    return _Tensor(dtype, offsets[0], offsets[1])


def _counts(value: Any) -> bool:
    return isinstance(value, list) and all(type(one) is int and 0 <= one < 2**63 for one in value)


def _check_layout(tensors: list[_Tensor], payload: int) -> None:
    end = 0
    for tensor in sorted(tensors, key=lambda one: (one.start, one.end)):
        if tensor.start != end:
            what = "that overlap" if tensor.start < end else "with a gap between them"
            raise refuse("HEADER", RULE, f"offsets of tensors {what}", FIX)
        end = tensor.end
    if end > payload:
        found = f"{payload} bytes of values where the offsets need {end} (truncated)"
        raise refuse("TRUNCATED", RULE, found, "copy the file again and compare checksums")
    if end < payload:
        raise refuse("TRAILING", RULE, f"{payload - end} bytes after the last tensor", FIX)


def _check_values(file: BinaryIO, begin: int, tensors: list[_Tensor], inspection: Inspection) -> None:
    """Stream through the tensors of floats and count values that are NaN or infinite."""
    bad = total = 0
    for tensor in tensors:
        if tensor.dtype not in EXPONENT:
            continue
        file.seek(begin + tensor.start)
        left = tensor.end - tensor.start
        while left:
            part = np.frombuffer(file.read(min(left, PART)), dtype=np.uint8)
            if not part.size:  # somebody shortened the file meanwhile
                raise refuse("TRUNCATED", RULE, "fewer bytes than a moment ago (truncated)", FIX)
            count, size = count_nonfinite(part, tensor.dtype)
            bad, total, left = bad + count, total + size, left - part.size
    if bad:
        rule = "weights must be finite"
        inspection.reject(
            "NONFINITE", rule, f"{bad} of {total} values NaN or infinite", "train again with a lower rate"
        )


def count_nonfinite(data: np.ndarray[Any, Any], dtype: str, swapped: bool = False) -> tuple[int, int]:
    """How many values are NaN or infinite, and how many there are.

    Args:
        data: bytes ``N`` uint8.
        dtype: name as in safetensors.
        swapped: the bytes are big-endian.
    """
    if dtype not in EXPONENT:
        return 0, 0
    kind, mask = EXPONENT[dtype]
    whole = data[: data.size // kind.itemsize * kind.itemsize]
    values = whole.view(kind.newbyteorder() if swapped else kind)
    return int(np.count_nonzero((values & kind.type(mask)) == mask)), values.size

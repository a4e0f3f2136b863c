# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Damage sound files at random, but as files are really damaged: cut, flipped, repeated, and with fields that lie.

For any format: ``mutate`` takes bytes and the places of the fields that are worth lying in; ``lie_in_text`` is for
headers that are text. Everything follows from the generator, so that a failing case can be built again from its seed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Sequence

import numpy as np

__all__ = ["Field", "lie_in_text", "mutate"]

Field = tuple[int, str]  # offset, and format of the struct module for one value with byte order, such as "<h"

INTEGER_LIES = (
    0,
    1,
    -1,
    2,
    3,
    4,
    7,
    8,
    9,
    127,
    255,
    256,
    4096,
    2**15 - 1,
    2**16 - 1,
    2**31 - 1,
    2**40,
    2**63 - 1,
    -(2**15),
)
FLOAT_LIES = (0.0, -0.0, 1.0, -1.0, 0.5, 2.0, 1e-3, 1e3, 351.0, 353.0, 368.0, 1e9, 1e30, 1e-30, np.nan, np.inf, -np.inf)
TEXT_LIES = (
    "0",
    "-1",
    "1",
    "7",
    "1e9",
    "nan",
    "inf",
    "99999999",
    "2147483648",
    "",
    "True",
    "False",
    "x",
    "0.5",
    "none",
)
NUMBER_OR_WORD = re.compile(rb"[-+.\w]+")


def mutate(data: bytes, rng: np.random.Generator, fields: Sequence[Field] = ()) -> bytes:
    """Damage ``data`` in one to three ways.

    Args:
        data: a sound file, of at least 16 bytes.
        rng: source of everything that is random here.
        fields: places of numbers in it; half of the damage goes there if there are any.
    """
    for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
        if fields and rng.random() < 0.5:
            data = _lie(data, rng, fields)
        else:
            damage = DAMAGES[int(rng.integers(len(DAMAGES)))]
            data = damage(data, rng)
    return data


def _lie(data: bytes, rng: np.random.Generator, fields: Sequence[Field]) -> bytes:
    """Overwrite one field by a value that is legal for its type and seldom true."""
    offset, form = fields[int(rng.integers(len(fields)))]
    size = struct.calcsize(form)
    if offset + size > len(data):
        return data
    if form[-1] in "efd":
        value: float = FLOAT_LIES[int(rng.integers(len(FLOAT_LIES)))]
        packed = struct.pack(form, np.float32(value) if form[-1] != "d" else value)
    else:
        bits, whole = 8 * size, INTEGER_LIES[int(rng.integers(len(INTEGER_LIES)))]
        whole &= 2**bits - 1
        packed = whole.to_bytes(size, "big" if form[0] in ">!" else "little")
    return data[:offset] + packed + data[offset + size :]


def lie_in_text(data: bytes, rng: np.random.Generator, end: int) -> bytes:
    """Replace, repeat or remove one word or line among the first ``end`` bytes, which are text."""
    if rng.random() < 0.25:
        lines = data[:end].splitlines(keepends=True)
        which = int(rng.integers(len(lines)))
        lines[which : which + 1] = [] if rng.random() < 0.5 else [lines[which]] * 2
        return b"".join(lines) + data[end:]
    words = list(NUMBER_OR_WORD.finditer(data, 0, end))
    word = words[int(rng.integers(len(words)))]
    lie = str(rng.choice(TEXT_LIES)).encode()
    return data[: word.start()] + lie + data[word.end() :]


def _place(data: bytes, rng: np.random.Generator) -> int:
    """Anywhere, but often near the beginning, where headers are."""
    near = min(len(data), 600) if rng.random() < 0.5 else len(data)
    return int(rng.integers(max(1, near)))


def _flip_bit(data: bytes, rng: np.random.Generator) -> bytes:
    at = _place(data, rng)
    return data[:at] + bytes([data[at] ^ 1 << int(rng.integers(8))]) + data[at + 1 :] if data else data


def _cut(data: bytes, rng: np.random.Generator) -> bytes:
    lost = int(rng.integers(1, 17)) if rng.random() < 0.3 else len(data) - _place(data, rng)
    return data[: max(0, len(data) - lost)]


def _insert(data: bytes, rng: np.random.Generator) -> bytes:
    at = len(data) if rng.random() < 0.2 else _place(data, rng)
    return data[:at] + rng.bytes(int(rng.choice([1, 2, 4, 16, 100, 4096]))) + data[at:]


def _remove(data: bytes, rng: np.random.Generator) -> bytes:
    at = _place(data, rng)
    return data[:at] + data[at + int(rng.choice([1, 2, 4, 16, 100, 1000])) :]


def _repeat(data: bytes, rng: np.random.Generator) -> bytes:
    at, size = _place(data, rng), int(rng.choice([4, 16, 348, 512, 4096]))
    return data[: at + size] + data[at : at + size] + data[at + size :]


def _overwrite(data: bytes, rng: np.random.Generator) -> bytes:
    at, size = _place(data, rng), int(rng.choice([4, 64, 512, 4096]))
    size = min(size, len(data) - at)
    return data[:at] + (bytes(size) if rng.random() < 0.5 else b"\xff" * size) + data[at + size :]


DAMAGES: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _flip_bit,
    _cut,
    _insert,
    _remove,
    _repeat,
    _overwrite,
)

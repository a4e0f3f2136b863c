# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What a text header (MetaImage, NRRD) says of its voxels, and the reading of its lines and numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np

from .byte_stream import refuse

__all__ = ["EXPORT", "RasterHeader", "header_lines", "lps_affine", "read_floats", "read_integers"]

EXPORT = "export the item again"
MAX_LINE, MAX_HEADER = 1 << 16, 1 << 20
INTEGER = re.compile(r"[+-]?\d{1,18}")


@dataclass
class RasterHeader:
    """A text header whose structure is sound.

    Attributes:
        dims: length of every axis, the fastest first.
        dtype: stored type with byte order.
        affine: ``4 4`` in RAS mm.
        encoding: ``raw``, ``gzip`` or ``zlib``.
        data_file: name of the file with the voxels; None where they follow the header.
        compressed_size: stored bytes of a compressed payload, where the header states them.
        modality: where the header knows it.
        texts: values that may be free text.
    """

    dims: tuple[int, ...]
    dtype: np.dtype[Any]
    affine: np.ndarray
    encoding: str
    data_file: str | None
    compressed_size: int | None = None
    modality: str | None = None
    texts: list[str] = field(default_factory=list)


def header_lines(file: BinaryIO) -> Iterator[str]:
    """The lines of a text header, one after the other, without their ends; the file then stands behind the last.

    Raises:
        InputRefusedError: HEADER where this is no text, or does not end.
    """
    total = 0
    while line := file.readline(MAX_LINE):
        total += len(line)
        if total > MAX_HEADER or len(line) == MAX_LINE or b"\0" in line:
            rule = f"a text header must have at most {MAX_HEADER} characters and no null characters"
            raise refuse("HEADER", rule, "one that does not end where it should", EXPORT)
        yield line.rstrip(b"\r\n").decode("utf-8", "replace")


def read_integers(text: str, count: int, name: str) -> tuple[int, ...]:
    """Exactly ``count`` integers.

    Raises:
        InputRefusedError: HEADER.
    """
    words = text.split()
    if len(words) != count or not all(INTEGER.fullmatch(word) for word in words):
        found = f"{len(words)} words, or some that are no integers"
        raise refuse("HEADER", f"{name} must be {count} integers (a size per axis)", found, EXPORT)
    return tuple(int(word) for word in words)


def read_floats(text: str, count: int, name: str) -> np.ndarray:
    """Exactly ``count`` numbers, which may be NaN or infinite.

    Raises:
        InputRefusedError: HEADER.
    """
    words = text.split()
    try:
        values = np.array([float(word) for word in words], dtype=np.float64)
    except ValueError:
        raise refuse("HEADER", f"{name} must be {count} numbers", "text", EXPORT) from None
    if len(words) != count:
        raise refuse("HEADER", f"{name} must be {count} numbers", f"{len(words)}", EXPORT)
    return values


def lps_affine(columns: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Affine ``4 4`` in RAS from the steps along the axes (columns ``D D``) and the origin, both LPS and mm."""
    affine, axes = np.eye(4), min(3, len(columns))
    affine[:axes, :axes] = columns[:axes, :axes]
    affine[:axes, 3] = origin[:axes]
    affine[:2] *= -1
    return affine

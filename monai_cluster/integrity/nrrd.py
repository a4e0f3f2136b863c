# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The header of a NRRD file, attached or detached: what ITK's reader takes of it."""

from __future__ import annotations

import re
from typing import BinaryIO

import numpy as np

from .byte_stream import refuse
from .findings import Inspection
from .raster_header import EXPORT, RasterHeader, header_lines, lps_affine, read_floats, read_integers

__all__ = ["parse_nrrd"]

DTYPES = {
    "i1": ("signed char", "int8", "int8_t"),
    "u1": ("uchar", "unsigned char", "uint8", "uint8_t"),
    "i2": ("short", "short int", "signed short", "signed short int", "int16", "int16_t"),
    "u2": ("ushort", "unsigned short", "unsigned short int", "uint16", "uint16_t"),
    "i4": ("int", "signed int", "int32", "int32_t"),
    "u4": ("uint", "unsigned int", "uint32", "uint32_t"),
    "i8": ("longlong", "long long", "long long int", "signed long long", "signed long long int", "int64", "int64_t"),
    "u8": ("ulonglong", "unsigned long long", "unsigned long long int", "uint64", "uint64_t"),
    "f4": ("float",),
    "f8": ("double",),
}
ENCODINGS = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}
TO_LPS = {
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
}
SPATIAL_KINDS = ("domain", "space", "???", "none")
MAX_AXES = 16
VECTOR = re.compile(r"none|\([^()]*\)", re.I)
TEXTS = ("content", "labels", "sample units", "comment")


def parse_nrrd(file: BinaryIO, inspection: Inspection) -> RasterHeader:
    """Read a NRRD header; the file then stands at the first byte after it.

    Raises:
        InputRefusedError: HEADER, DTYPE, NDIM, CODEC and SPACING.
    """
    fields, texts = _fields(file)
    axes = read_integers(_need(fields, "dimension"), 1, "dimension")[0]
    if not 1 <= axes <= MAX_AXES:
        raise refuse("HEADER", f"a header must state 1 to {MAX_AXES} axes (dimension)", f"{axes}", EXPORT)
    dims = read_integers(_need(fields, "sizes"), axes, "sizes")
    _check_layout(fields, axes)
    encoding = _need(fields, "encoding").lower()
    if encoding not in ENCODINGS:
        found = "bzip2 or text (ASCII, hex), or an unknown encoding"
        raise refuse("CODEC", "the encoding must be raw or gzip, which ITK reads", found, "save it with gzip")
    return RasterHeader(
        dims,
        _dtype(fields),
        _affine(fields, axes, inspection),
        ENCODINGS[encoding],
        fields.get("data file", fields.get("datafile")),
        texts=texts,
    )


def _fields(file: BinaryIO) -> tuple[dict[str, str], list[str]]:
    """Fields by lower-case name, and free texts: comments, keys with values, and fields that hold any text."""
    fields: dict[str, str] = {}
    texts: list[str] = []
    lines = header_lines(file)
    if not re.fullmatch(r"NRRD000[1-5]", next(lines, "")):
        raise refuse("HEADER", "a NRRD file must begin with its magic mark, NRRD0001 to NRRD0005", "another", EXPORT)
    for line in lines:
        if not line:
            return fields, texts + [fields[name] for name in TEXTS if name in fields]
        if line.startswith("#"):
            texts.append(line)
            continue
        key, mark, value = line.partition(":")
        if value.startswith("="):
            texts.append(f"{key} {value[1:]}")
            continue
        key = key.strip().lower()
        if not mark or key in fields:
            raise refuse("HEADER", "every line of the header must be 'field: value', once", "another line", EXPORT)
        fields[key] = value.strip()
    if "data file" in fields or "datafile" in fields:
        return fields, texts
    raise refuse("TRUNCATED", "a NRRD header must end with an empty line", "a header without it (truncated)", EXPORT)


def _need(fields: dict[str, str], name: str) -> str:
    if not fields.get(name):
        raise refuse("HEADER", f"a NRRD header must state '{name}'", "none", EXPORT)
    return fields[name]


def _check_layout(fields: dict[str, str], axes: int) -> None:
    for name in ("line skip", "lineskip", "byte skip", "byteskip"):
        if name in fields and read_integers(fields[name], 1, name)[0]:
            found, fix = f"another {name}", "convert the file to NIfTI or a plain NRRD file"
            raise refuse("HEADER", "the voxels must begin where the header ends", found, fix)
    kinds = fields.get("kinds", "").lower().split()
    if kinds and len(kinds) != axes:
        raise refuse("HEADER", f"kinds must be {axes} words", f"{len(kinds)}", EXPORT)
    directions = VECTOR.findall(fields.get("space directions", ""))
    channels = [kind for kind in kinds if kind not in SPATIAL_KINDS]
    if channels or "none" in [one.lower() for one in directions]:
        found = "an axis of channels or time (a vector, RGB or a list)"
        raise refuse("NDIM", "an item must have one value per voxel", found, "save every channel as a file of its own")


def _dtype(fields: dict[str, str]) -> np.dtype[np.generic]:
    name = _need(fields, "type").lower()
    code = next((code for code, names in DTYPES.items() if name in names), None)
    if code is None:
        rule = "the data type must be an integer of 8 to 64 or a float of 32 or 64 bits"
        raise refuse("DTYPE", rule, "a block or an unknown type", "save real values")
    order = fields.get("endian", "").lower()
    if code[1] != "1" and order not in ("little", "big"):
        raise refuse("HEADER", "a NRRD header must state its byte order (endian)", "none, or another word", EXPORT)
    dtype: np.dtype[np.generic] = np.dtype(code).newbyteorder(">" if order == "big" else "<")
    return dtype


def _affine(fields: dict[str, str], axes: int, inspection: Inspection) -> np.ndarray:
    space = fields.get("space", "").lower()
    if space not in TO_LPS:
        found = "none, or one without an anatomy: the orientation is unknown, and left may be right"
        fix = "it is read as if the axes were left, posterior, superior; export it with its space"
        inspection.warn("ORIENTATION", "a header should state an anatomical space", found, fix)
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", fields.get("units", ""))))
    if units - {"mm", "", "???"}:
        found = "another unit than mm, which the reader does not look at"
        inspection.warn("SPACING", "the unit of lengths (space units) should be mm", found, "convert it to mm")
    if "space directions" in fields:
        columns, origin = _oriented(fields, axes)
    else:
        columns, origin = _spaced(fields, axes, inspection)
    flip = np.ones(axes)
    flip[:3] = TO_LPS.get(space, (1, 1, 1))[:axes]
    return lps_affine(flip[:, None] * columns, flip * origin)


def _oriented(fields: dict[str, str], axes: int) -> tuple[np.ndarray, np.ndarray]:
    text = fields["space directions"]
    vectors = VECTOR.findall(text)
    if len(vectors) != axes or VECTOR.sub("", text).strip():
        raise refuse("HEADER", f"space directions must be {axes} vectors", f"{len(vectors)}", EXPORT)
    columns = np.stack([_vector(one, axes, "a space direction") for one in vectors], axis=1)
    lengths = np.linalg.norm(columns, axis=0)
    if not np.isfinite(columns).all() or (lengths == 0).any():
        found = "NaN, Inf, or a vector of length zero (spacing 0)"
        raise refuse("SPACING", "every space direction must be a finite vector other than 0", found, EXPORT)
    origin = fields.get("space origin")
    return columns, np.zeros(axes) if origin is None else _vector(origin, axes, "space origin")


def _vector(text: str, axes: int, name: str) -> np.ndarray:
    if not (text.startswith("(") and text.endswith(")")):
        raise refuse("HEADER", f"{name} must be a vector in brackets", "none", EXPORT)
    return read_floats(text[1:-1].replace(",", " "), axes, name)


def _spaced(fields: dict[str, str], axes: int, inspection: Inspection) -> tuple[np.ndarray, np.ndarray]:
    if "spacings" not in fields:
        found, fix = "neither: 1 mm is taken", "export the item again with its voxel size"
        inspection.warn("SPACING", "a header should state space directions or spacings", found, fix)
    spacing = read_floats(fields.get("spacings", " ".join(["1"] * axes)), axes, "spacings")
    if not (spacing > 0).all() or not np.isfinite(spacing).all():
        kind = "NaN or Inf" if not np.isfinite(spacing).all() else "zero or negative"
        raise refuse("SPACING", "every spacing must be a positive number of mm", kind, EXPORT)
    mins = fields.get("axis mins", fields.get("axismins"))
    origin = np.full(axes, np.nan) if mins is None else read_floats(mins, axes, "axis mins")
    if not np.isfinite(origin).all():
        return np.diag(spacing), np.zeros(axes)
    centres = fields.get("centerings", fields.get("centers", "")).lower().split()
    # borders of the first voxel, unless the values stand at the nodes
    return np.diag(spacing), origin + (0.0 if centres == ["node"] * axes else 0.5) * spacing

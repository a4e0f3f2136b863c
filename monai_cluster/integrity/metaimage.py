# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The header of a MetaImage file (MHA, MHD): what ITK's reader takes of it, and what that reader gets wrong."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from .byte_stream import refuse
from .findings import Inspection
from .raster_header import EXPORT, RasterHeader, header_lines, lps_affine, read_floats, read_integers

__all__ = ["parse_metaimage"]

DTYPES = {
    "MET_CHAR": "i1",
    "MET_UCHAR": "u1",
    "MET_SHORT": "i2",
    "MET_USHORT": "u2",
    "MET_INT": "i4",
    "MET_UINT": "u4",
    "MET_LONG": "i4",  # of four bytes, whatever the machine
    "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8",
    "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}
TRUTH = {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}
MAX_AXES = 10
MATRIX = ("TransformMatrix", "Rotation", "Orientation")
ORIGIN = ("Offset", "Position", "Origin")
BYTE_ORDER = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
LOCAL = ("LOCAL", "Local", "local")


def parse_metaimage(file: BinaryIO, inspection: Inspection) -> RasterHeader:
    """Read a MetaImage header; the file then stands at the first byte after it.

    Raises:
        InputRefusedError: HEADER, DTYPE, NDIM, CODEC and SPACING.
    """
    fields = _fields(file)
    axes = read_integers(_need(fields, "NDims"), 1, "NDims")[0]
    if not 1 <= axes <= MAX_AXES:
        raise refuse("HEADER", f"a header must state 1 to {MAX_AXES} axes (NDims)", f"{axes}", EXPORT)
    if fields.get("ObjectType", "Image") != "Image":
        raise refuse("HEADER", "a MetaImage must hold an object of type Image", "another type", EXPORT)
    _check_layout(fields, inspection)
    dims = read_integers(_need(fields, "DimSize"), axes, "DimSize")
    encoding, compressed_size = _encoding(fields)
    name = _need(fields, "ElementDataFile")
    return RasterHeader(
        dims,
        _dtype(fields),
        _affine(fields, axes, inspection),
        encoding,
        None if name in LOCAL else name,
        compressed_size,
        fields["Modality"].removeprefix("MET_MOD_") if fields.get("Modality", "").startswith("MET_MOD_") else None,
        [f"{key} {value}" for key, value in fields.items() if key != "ElementDataFile"],
    )


def _fields(file: BinaryIO) -> dict[str, str]:
    fields: dict[str, str] = {}
    for line in header_lines(file):
        key, mark, value = line.partition("=") if "=" in line else line.partition(":")
        key, value = key.strip(), value.strip()
        if not line.strip():
            continue
        if not mark or not key:
            raise refuse("HEADER", "every line of the header must read 'name = value'", "another line", EXPORT)
        if key in fields and key != "Comment":
            raise refuse("HEADER", "every field of the header must come once", "one that is repeated", EXPORT)
        fields[key] = value
        if key == "ElementDataFile":
            return fields
    rule = "a MetaImage header must end with ElementDataFile"
    raise refuse("TRUNCATED", rule, "a header without it (truncated)", EXPORT)


def _need(fields: dict[str, str], name: str) -> str:
    if not fields.get(name):
        raise refuse("HEADER", f"a MetaImage header must state {name}", "none", EXPORT)
    return fields[name]


def _first(fields: dict[str, str], names: tuple[str, ...]) -> str | None:
    found = [name for name in names if name in fields]
    if len(found) > 1:
        raise refuse("HEADER", f"only one of {', '.join(names)} may be given", f"{len(found)}", EXPORT)
    return fields[found[0]] if found else None


def _flag(text: str | None, default: bool, name: str) -> bool:
    if text is None:
        return default
    if text.lower() not in TRUTH:
        raise refuse("HEADER", f"{name} must be True or False", "another word", EXPORT)
    return TRUTH[text.lower()]


def _check_layout(fields: dict[str, str], inspection: Inspection) -> None:
    if not _flag(fields.get("BinaryData"), True, "BinaryData"):
        found, fix = "values as text (ASCII)", "save it with binary data"
        raise refuse("CODEC", "voxels must be stored in binary form", found, fix)
    if read_integers(fields.get("HeaderSize", "0"), 1, "HeaderSize")[0]:
        found, fix = "another HeaderSize", "convert the file to NIfTI or a plain MHA file"
        raise refuse("HEADER", "a data file must begin with the voxels (HeaderSize 0)", found, fix)
    channels = read_integers(fields.get("ElementNumberOfChannels", "1"), 1, "ElementNumberOfChannels")[0]
    if channels != 1:
        found, fix = f"{channels} channels (a vector or RGB)", "save every channel as a file of its own"
        raise refuse("NDIM", "an item must have one value per voxel", found, fix)
    slope = read_floats(fields.get("ElementToIntensityFunctionSlope", "1"), 1, "the slope")[0]
    offset = read_floats(fields.get("ElementToIntensityFunctionOffset", "0"), 1, "the offset")[0]
    if slope != 1 or offset != 0:
        found = f"a slope of {slope:.6g} and an offset of {offset:.6g}, which ITK does not apply"
        inspection.warn("SCALE", "values should be stored as they are meant", found, "apply them and save it again")
    unit = fields.get("DistanceUnits", "mm")
    if unit not in ("mm", "", "?"):
        found = "another unit than mm, which no reader looks at"
        inspection.warn("SPACING", "the unit of lengths (DistanceUnits) should be mm", found, "convert it to mm")


def _encoding(fields: dict[str, str]) -> tuple[str, int | None]:
    if not _flag(fields.get("CompressedData"), False, "CompressedData"):
        return "raw", None
    # without the size, or with a wrong one, ITK decodes noise and says nothing
    return "zlib", read_integers(_need(fields, "CompressedDataSize"), 1, "CompressedDataSize")[0]


def _dtype(fields: dict[str, str]) -> np.dtype[np.generic]:
    name = _need(fields, "ElementType")
    if name not in DTYPES:
        found = "a list or an unknown type" if not name.endswith("_ARRAY") else "an array per voxel"
        rule = "the data type (ElementType) must be an integer of 8 to 64 or a float of 32 or 64 bits"
        raise refuse("DTYPE", rule, found, "save real values")
    big = _flag(_first(fields, BYTE_ORDER), False, "the byte order")
    dtype: np.dtype[np.generic] = np.dtype(DTYPES[name]).newbyteorder(">" if big else "<")
    return dtype


def _affine(fields: dict[str, str], axes: int, inspection: Inspection) -> np.ndarray:
    given = fields.get("ElementSpacing", fields.get("ElementSize"))
    if given is None:
        found, fix = "none: 1 mm is taken", "export the item again with its voxel size"
        inspection.warn("SPACING", "a header should state ElementSpacing", found, fix)
    spacing = np.ones(axes) if given is None else read_floats(given, axes, "ElementSpacing")
    if not (spacing[:3] > 0).all() or not np.isfinite(spacing).all():
        kind = "NaN or Inf" if not np.isfinite(spacing).all() else "zero or negative"
        raise refuse("SPACING", "every spacing (ElementSpacing) must be a positive number of mm", kind, EXPORT)
    matrix, origin = _first(fields, MATRIX), _first(fields, ORIGIN)
    if matrix is None:
        found = "none: the orientation is unknown, and left may be right"
        fix = "it is read as if the axes ran to the left, the back and the head; export it with its orientation"
        inspection.warn("ORIENTATION", "a header should state TransformMatrix", found, fix)
    rows = np.eye(axes) if matrix is None else read_floats(matrix, axes * axes, "TransformMatrix").reshape(axes, axes)
    start = np.zeros(axes) if origin is None else read_floats(origin, axes, "Offset")
    return lps_affine(rows.T * spacing, start)

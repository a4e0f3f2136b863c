# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The header of a NIfTI-1 or NIfTI-2 file: whether its fields agree with one another, and what they say."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, Literal

import nibabel as nib
import numpy as np

from .byte_stream import ByteStream, file_format, refuse
from .findings import Inspection

__all__ = ["NiftiHeader", "read_nifti_header", "stored_dtype", "value_scaling"]

EXPORT = "export the item again"
SIZES = {348: nib.nifti1.header_dtype, 540: nib.nifti2.header_dtype}
MAGIC = {348: (b"n+1\0", b"ni1\0"), 540: (b"n+2\0\r\n\x1a\n", b"ni2\0\r\n\x1a\n")}
MAX_AXES = 7
MAX_OFFSET = 1 << 26  # bytes of extensions that are held in memory
DTYPES = {2: "u1", 4: "i2", 8: "i4", 16: "f4", 64: "f8", 256: "i1", 512: "u2", 768: "u4", 1024: "i8", 1280: "u8"}
REFUSED_DTYPES = {
    1: "binary (1 bit)",
    32: "complex64",
    128: "RGB colour",
    1536: "float128",
    1792: "complex128",
    2048: "complex256",
    2304: "RGBA colour",
}
SCALES = (1e-15, 1e15)  # slopes that scanners and converters write lie well inside


@dataclass(frozen=True)
class NiftiHeader:
    """A header whose structure is sound.

    Attributes:
        fields: named as in the standard, in the file's byte order.
        order: byte order, ``<`` or ``>``.
        size: 348 for NIfTI-1, 540 for NIfTI-2.
        dims: length of every axis.
        offset: of the first voxel, in bytes.
    """

    fields: np.void
    order: Literal["<", ">"]
    size: int
    dims: tuple[int, ...]
    offset: int

    def number(self, name: str) -> float:
        """A field that holds one number."""
        return float(self.fields[name])

    def text(self, name: str) -> str:
        """A field that holds text, with what comes after its end mark."""
        return bytes(self.fields[name]).replace(b"\0", b" ").decode("latin-1").strip()


def read_nifti_header(stream: ByteStream) -> NiftiHeader:
    """Read and check the header; the stream then stands behind it.

    Raises:
        InputRefusedError: NOT_AN_IMAGE, CONTAINER, TRUNCATED, and HEADER for fields that contradict the standard.
    """
    order, size, start = _start(stream)
    block = start + stream.read_exactly(size - len(start), "NIfTI header")
    fields = np.frombuffer(block, dtype=SIZES[size].newbyteorder(order))[0]
    _check_magic(block, size)
    count = int(fields["dim"][0])
    if not 1 <= count <= MAX_AXES:
        raise refuse("HEADER", f"a header must state 1 to {MAX_AXES} axes", f"dim[0] = {count}", EXPORT)
    dims = tuple(int(side) for side in fields["dim"][1 : count + 1])
    return NiftiHeader(fields, order, size, dims, _offset(fields, size, stream))


def _start(stream: ByteStream) -> tuple[Literal["<", ">"], int, bytes]:
    """Byte order, header size and the first bytes; refuses everything that is no NIfTI file."""
    start = stream.read(348)
    name = file_format(start)
    if name == "gzip":
        found, fix = "a file that was compressed twice (double gzip)", "decompress it once"
        raise refuse("CONTAINER", "a NIfTI file must be compressed at most once", found, fix)
    if name not in (None, "nifti", "nifti pair"):
        code = "NOT_AN_IMAGE" if name in ("html", "pdf", "zip") else "CONTAINER"
        found = f"content of another file type ({name}), not a NIfTI header"
        raise refuse(code, "a NIfTI file must begin with its header", found, "download or export it again")
    orders: tuple[Literal["<", ">"], ...] = ("<", ">")
    for order in orders:
        size = struct.unpack(f"{order}i", start[:4].ljust(4, b"\0"))[0]
        if size in SIZES:
            return order, size, start
    rule = "sizeof_hdr, the first field of a NIfTI header, must be 348 or 540"
    if name is not None:
        raise refuse("HEADER", rule, f"{struct.unpack('<i', start[:4])[0]}", EXPORT)
    raise refuse("NOT_AN_IMAGE", rule, "a file of another type (unknown), not an image", "take it off the list")


def _check_magic(block: bytes, size: int) -> None:
    single, pair = MAGIC[size]
    magic = block[344:348] if size == 348 else block[4:12]
    if magic == pair:
        found, fix = "one part of a .hdr/.img pair", "convert the pair to one .nii.gz file"
        raise refuse("CONTAINER", "NIfTI must come as a single file", found, fix)
    if magic != single:
        found = "another one" if any(magic) else "none (an Analyze 7.5 header?)"
        if size == 540 and magic[:3] == single[:3]:
            found = "one whose line ends were changed (copied as text)"
        raise refuse("HEADER", "a header must carry the magic mark of NIfTI", found, EXPORT)


def _offset(fields: np.void, size: int, stream: ByteStream) -> int:
    offset, least = float(fields["vox_offset"]), size + 4
    rule = f"vox_offset, where the voxels begin, must be a whole number from {least} on"
    if not math.isfinite(offset) or offset != int(offset) or offset < least:
        raise refuse("HEADER", rule, f"an offset of {offset:g} (inside the header, or no number)", EXPORT)
    if offset > MAX_OFFSET or (not stream.compressed and offset > stream.size):
        found = f"an offset of {offset:.4g}, past the end of the file or of any header"
        raise refuse("HEADER", rule, found, EXPORT)
    return int(offset)


def stored_dtype(header: NiftiHeader, inspection: Inspection) -> np.dtype[Any]:
    """Type of the voxels.

    Raises:
        InputRefusedError: DTYPE for complex numbers, colours, binary, 128 bits and unknown codes.
    """
    code, bits = int(header.fields["datatype"]), int(header.fields["bitpix"])
    if code not in DTYPES:
        found = f"{REFUSED_DTYPES.get(code, 'an unknown type')} (datatype code {code})"
        fix = "save real values (magnitude, grey) as integers or floats"
        raise refuse("DTYPE", "voxels must be integers of 8 to 64 or floats of 32 or 64 bits", found, fix)
    dtype: np.dtype[Any] = np.dtype(DTYPES[code]).newbyteorder(header.order)
    if bits != dtype.itemsize * 8:
        found = f"bitpix {bits} for {dtype.name}"
        fix = "the datatype is believed; export the item again"
        inspection.warn("HEADER", "bitpix must be the size of the datatype", found, fix)
    return dtype


def value_scaling(header: NiftiHeader, inspection: Inspection) -> tuple[float, float]:
    """Slope and intercept as nibabel applies them: a slope of zero, NaN or infinity means unscaled.

    Raises:
        InputRefusedError: SCALE for a slope with an intercept that is not finite.
    """
    slope, intercept = header.number("scl_slope"), header.number("scl_inter")
    rule = "slope and intercept (scl_slope, scl_inter) should be finite"
    fix = "check the values; what a reader makes of them depends on the reader"
    if slope == 0 or not math.isfinite(slope):
        # NaN in both is how nibabel itself writes unscaled files
        if math.isinf(slope) or (math.isnan(slope) and math.isfinite(intercept) and intercept != 0):
            found = f"a slope of {slope:g} with an intercept of {intercept:.6g}, which is read as unscaled"
            inspection.warn("SCALE", rule, found, fix)
        return 1.0, 0.0
    if not math.isfinite(intercept):
        found = f"an intercept of {intercept} (not finite) beside a slope of {slope:.6g}"
        raise refuse("SCALE", "slope and intercept (scl_slope, scl_inter) must be finite", found, EXPORT)
    if slope < 0:
        found = f"a slope of {slope:.6g}, which turns grey values round"
        inspection.warn("SCALE", "a slope (scl_slope) should be positive", found, fix)
    elif not SCALES[0] < slope < SCALES[1]:
        rule = f"a slope (scl_slope) should lie in {SCALES[0]:g}..{SCALES[1]:g}"
        inspection.warn("SCALE", rule, f"a slope of {slope:.3g}", fix)
    return slope, intercept

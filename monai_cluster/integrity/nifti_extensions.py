# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What stands between the header of a NIfTI file and its voxels: extensions, which may hold whole DICOM headers."""

from __future__ import annotations

import struct

from .byte_stream import ByteStream, refuse
from .findings import Inspection
from .nifti_header import NiftiHeader

__all__ = ["gzip_texts", "read_extensions"]

DICOM = 2
RUNNING = {16: "a Python pickle", 38: "code for MATLAB"}
HAS_EXTRA, HAS_NAME, HAS_COMMENT = 4, 8, 16  # flags of a gzip header


def read_extensions(stream: ByteStream, header: NiftiHeader, inspection: Inspection) -> list[str]:
    """Read up to the first voxel and judge the extensions; the texts in them, for a look at identifiers.

    Raises:
        InputRefusedError: HEADER for extensions that do not fit, TRUNCATED.
    """
    data = stream.read_exactly(header.offset - header.size, "header and extensions, up to vox_offset")
    if not data[0]:
        if any(data[4:]):
            found = f"{len(data) - 4} bytes there, not all zero, that no extension declares"
            rule = "between header and voxels (vox_offset) there should be extensions only"
            inspection.warn("HEADER", rule, found, "look at them, and export the item again")
        return [_text(data[4:])]
    texts, at = [], 4
    while at + 16 <= len(data) or at == 4:
        size, code = struct.unpack(f"{header.order}ii", data[at : at + 8].ljust(8, b"\0"))
        if not 16 <= size <= len(data) - at:
            found = f"an extension of {size} bytes where {len(data) - at} remain before the voxels"
            rule = "header extensions must have a size of at least 16 bytes and end before vox_offset"
            raise refuse("HEADER", rule, found, "export the item again")
        if size % 16:
            found = f"an extension of {size} bytes"
            rule = "header extensions must have a size that is a multiple of 16"
            inspection.warn("HEADER", rule, found, "export the item again")
        _check_code(code, inspection)
        texts.append(_text(data[at + 8 : at + size]))
        at += size
    return texts


def _check_code(code: int, inspection: Inspection) -> None:
    if code == DICOM:
        found = "a header extension with a DICOM header"
        fix = "de-identify the files before they leave the hospital; nothing of it is kept"
        inspection.warn("PHI", "headers should not identify a patient", found, fix)
    elif code in RUNNING:
        fix = "nothing here reads it; save the item without it"
        rule = "header extensions should hold no code"
        inspection.warn("PICKLE", rule, f"a header extension with {RUNNING[code]}", fix)


def _text(data: bytes) -> str:
    return data.replace(b"\0", b" ").decode("latin-1")


def gzip_texts(head: bytes) -> list[str]:
    """File name and comment that a gzip header carries; ``head`` is its beginning."""
    flags, at, texts = head[3] if len(head) > 10 else 0, 10, []
    if flags & HAS_EXTRA:
        at += 2 + int.from_bytes(head[at : at + 2], "little")
    for flag in (HAS_NAME, HAS_COMMENT):
        if flags & flag:
            end = head.find(b"\0", at)
            end = len(head) if end < 0 else end
            texts.append(head[at:end].decode("latin-1"))
            at = end + 1
    return texts

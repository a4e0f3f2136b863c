# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""NIfTI, MetaImage and NRRD files byte by byte, with every field as a test wants it, legal or not."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from monai_cluster.integrity.findings import Inspection

__all__ = ["codes", "metaimage", "nifti", "nrrd", "phantom", "write"]

DATATYPES = {"u1": 2, "i2": 4, "i4": 8, "f4": 16, "c8": 32, "f8": 64, "i1": 256, "u2": 512, "u4": 768, "i8": 1024}
LPS = ((-1.0, 0, 0, 10), (0, -1.0, 0, 12), (0, 0, 2.0, -30))


def phantom(shape: Sequence[int] = (12, 14, 10), seed: int = 0) -> np.ndarray:
    """Smooth int16 values with noise: a ball in air."""
    axes = np.meshgrid(*[np.linspace(-1, 1, side) for side in shape], indexing="ij")
    radius = np.sqrt(sum(axis**2 for axis in axes))
    noise = np.random.default_rng(seed).normal(0, 10, shape)
    return (-1000 + 1000 * (radius < 0.8) + 60 * axes[0] + noise).astype(np.int16)


def nifti(
    values: np.ndarray,
    *,
    dim: Sequence[int] | None = None,
    pixdim: Sequence[float] = (1, 1, 1, 2),
    sform: Sequence[Sequence[float]] = LPS,
    codes: tuple[int, int] = (0, 1),
    quaternion: Sequence[float] = (0, 0, 0),
    qoffset: Sequence[float] = (0, 0, 0),
    scaling: tuple[float, float] = (1, 0),
    datatype: int | None = None,
    bitpix: int | None = None,
    vox_offset: float | None = None,
    sizeof_hdr: int = 348,
    magic: bytes = b"n+1\0",
    units: int = 2,
    descrip: bytes = b"",
    aux_file: bytes = b"",
    extension: bytes = b"",
    order: str = "<",
) -> bytes:
    """A NIfTI-1 file; ``codes`` are those of qform and sform, ``dim`` without its count is that of ``values``."""
    dims = [values.ndim, *values.shape] if dim is None else list(dim)
    kind = f"{values.dtype.kind}{values.dtype.itemsize}"
    header = struct.pack(f"{order}i35xB", sizeof_hdr, 0) + struct.pack(f"{order}8h", *(dims + [1] * 8)[:8])
    header += struct.pack(f"{order}3f", 0, 0, 0)
    header += struct.pack(
        f"{order}4h",
        0,
        DATATYPES[kind] if datatype is None else datatype,
        values.dtype.itemsize * 8 if bitpix is None else bitpix,
        0,
    )
    header += struct.pack(f"{order}8f", *([*pixdim] + [1.0] * 8)[:8])
    offset = 352 + len(extension) if vox_offset is None else vox_offset
    header += struct.pack(f"{order}3f", offset, *scaling) + struct.pack(f"{order}hBB", 0, 0, units)
    header += bytes(24) + descrip.ljust(80, b"\0") + aux_file.ljust(24, b"\0")
    header += struct.pack(f"{order}2h6f", *codes, *quaternion, *qoffset)
    header += struct.pack(f"{order}12f", *np.asarray(sform, dtype=float).ravel()) + bytes(16) + magic
    assert len(header) == 348
    stored = values.astype(values.dtype.newbyteorder(order)).tobytes(order="F")
    return header + (b"\1\0\0\0" if extension else bytes(4)) + extension + stored


def metaimage(**changed: str | None) -> bytes:
    """A MetaImage header of int16 ``12 14 10``; fields are replaced, added, or left out where None."""
    fields: dict[str, str | None] = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "5 6 7",
        "ElementSpacing": "1 1 2",
        "DimSize": "12 14 10",
        "ElementType": "MET_SHORT",
    }
    fields |= {key: value for key, value in changed.items() if key != "ElementDataFile"}
    fields["ElementDataFile"] = changed.get("ElementDataFile", "LOCAL")
    return "".join(f"{key} = {value}\n" for key, value in fields.items() if value is not None).encode()


def nrrd(extra: str = "", **changed: str | None) -> bytes:
    """A NRRD header of int16 ``12 14 10``; fields are replaced, added (``_`` for a blank), or left out where None."""
    fields: dict[str, str | None] = {
        "type": "short",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "12 14 10",
        "space directions": "(1,0,0) (0,1,0) (0,0,2)",
        "kinds": "domain domain domain",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(5,6,7)",
    }
    fields |= {key.replace("_", " "): value for key, value in changed.items()}
    lines = "".join(f"{key}: {value}\n" for key, value in fields.items() if value is not None)
    return f"NRRD0004\n{lines}{extra}\n".encode()


def write(path: Path, data: bytes) -> Path:
    """Write ``data``, compressed where the name ends in .gz."""
    path.write_bytes(gzip.compress(data, mtime=0) if path.suffix == ".gz" else data)
    return path


def codes(inspection: Inspection) -> set[tuple[str, str]]:
    """Severity and code of every finding."""
    return {(one.severity, one.code) for one in inspection.findings}

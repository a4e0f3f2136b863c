# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Inspect MetaImage (MHA, MHD) and NRRD (NRRD, NHDR) files: the text header, where the voxels lie, and every value."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import BinaryIO, Literal

import numpy as np
import SimpleITK as sitk

from .byte_stream import file_format, open_regular, refuse
from .findings import Inspection
from .geometry import check_affine, check_shape, same_grid
from .guarding import guarded
from .identifiers import warn_of_identifiers
from .limits import Limits
from .metaimage import parse_metaimage
from .nrrd import parse_nrrd
from .payloads import Payload, data_file_path
from .raster_header import RasterHeader
from .values import ValueScan
from .voxels import MAX_TRAILING, VoxelGrid, check_size, check_trailing, scan_voxels, spatial_axes

__all__ = ["inspect_metaimage", "inspect_nrrd"]

Path = str | os.PathLike[str]
Parse = Callable[[BinaryIO, Inspection], RasterHeader]
Kind = Literal["volume", "image"] | None

SUFFIXES = {"metaimage": (".mha", ".mhd"), "nrrd": (".nrrd", ".nhdr")}
PARSERS: dict[str, Parse] = {"metaimage": parse_metaimage, "nrrd": parse_nrrd}
DICOM_NAMES = ("0010|0010", "0010|0020", "0010|0030", "DICOM_0010_0010", "DICOM_0010_0020", "DICOM_0010_0030")


def inspect_metaimage(
    path: Path, kind: Kind = None, limits: Limits | None = None, *, scan: ValueScan | None = None
) -> Inspection:
    """Inspect one ``.mha`` or ``.mhd`` file without trusting it.

    Args:
        path: of the file.
        kind: what the list says it is; None lets the shape decide.
        limits: sizes that are refused.
        scan: takes the values in the place of a scan of grey values, which are then not judged (label maps).

    Returns:
        facts in the order of the file's axes, with the affine of SimpleITK in RAS, and findings.
    """
    return _inspect(path, "metaimage", kind, limits or Limits(), scan)


def inspect_nrrd(
    path: Path, kind: Kind = None, limits: Limits | None = None, *, scan: ValueScan | None = None
) -> Inspection:
    """Inspect one ``.nrrd`` or ``.nhdr`` file without trusting it.

    Args:
        path: of the file.
        kind: what the list says it is; None lets the shape decide.
        limits: sizes that are refused.
        scan: takes the values in the place of a scan of grey values, which are then not judged (label maps).

    Returns:
        facts in the order of the file's axes, with the affine of SimpleITK in RAS, and findings.
    """
    return _inspect(path, "nrrd", kind, limits or Limits(), scan)


def _inspect(path: Path, form: str, kind: Kind, limits: Limits, scan: ValueScan | None) -> Inspection:
    inspection = Inspection()
    with guarded(inspection), open_regular(path) as file:
        facts = inspection.facts
        facts.num_bytes = os.fstat(file.fileno()).st_size
        _check_format(path, form, file)
        header = PARSERS[form](file, inspection)
        facts.kind, shape = spatial_axes(header.dims, kind, inspection, limits)
        facts.modality = header.modality
        grid = VoxelGrid(shape, header.dtype)
        check_size(grid, limits)
        check_shape(shape, inspection, limits)
        _check_texts(header.texts, inspection)
        check_affine(header.affine, (*shape, 1)[:3], inspection, limits)
        if facts.spacing is not None:
            facts.spacing = facts.spacing[: len(shape)]
        with _payload(path, file, header, inspection) as payload:
            scan_voxels(payload.read, grid, inspection, limits, scan)
            check_trailing(payload.read, grid, inspection)
            _check_stored(payload, header, inspection)
        if inspection.verdict != "reject":
            _check_reader(path, header)
    return inspection


def _check_format(path: Path, form: str, file: BinaryIO) -> None:
    """Whether content and suffix are those of the format; ITK goes by the suffix.

    Raises:
        InputRefusedError: CONTAINER and NOT_AN_IMAGE.
    """
    name = file_format(file.read(560))
    file.seek(0)
    if not os.fsdecode(path).lower().endswith(SUFFIXES[form]):
        found, rule = "another suffix (extension)", f"the suffix must be {' or '.join(SUFFIXES[form])}"
        raise refuse("CONTAINER", rule, found, "rename the file")
    if name not in (form, None) or (form == "nrrd" and name is None):
        code = "NOT_AN_IMAGE" if name in ("html", "pdf", "zip", None) else "CONTAINER"
        found = f"content of another file type ({name or 'unknown'})"
        raise refuse(code, "a file must begin with the header that its suffix says", found, "export it again")


def _check_texts(texts: list[str], inspection: Inspection) -> None:
    if any(text.startswith(DICOM_NAMES) and len(text.split()) > 1 for text in texts):
        found, fix = "a name, number or date of birth copied from DICOM in the header", "de-identify the files"
        inspection.warn("PHI", "headers should not identify a patient", found, fix)
    else:
        warn_of_identifiers(texts, "the header's texts", inspection)


@contextlib.contextmanager
def _payload(path: Path, file: BinaryIO, header: RasterHeader, inspection: Inspection) -> Iterator[Payload]:
    """The voxels behind the header, or in the file that it names."""
    if header.data_file is None:
        yield Payload(file, header.encoding)
        return
    with open_regular(data_file_path(path, header.data_file)) as data:
        inspection.facts.num_files = 2
        inspection.facts.num_bytes += os.fstat(data.fileno()).st_size
        yield Payload(data, header.encoding)


def _check_stored(payload: Payload, header: RasterHeader, inspection: Inspection) -> None:
    """Whether a compressed payload is as long as the header states, and ends the file."""
    if header.compressed_size is not None and payload.compressed_size() != header.compressed_size:
        rule = "CompressedDataSize must be the size of the compressed voxels"
        found = f"{header.compressed_size} bytes for a stream of {payload.compressed_size()}"
        fix = "ITK decodes noise from such files without a word; export the item again"
        inspection.reject("HEADER", rule, found, fix)
    rest = payload.rest(MAX_TRAILING)
    if rest:
        found, fix = f"{rest} trailing bytes after the compressed voxels", "they are not read; export the item again"
        inspection.warn("TRAILING", "a file must end with the voxels that its header states", found, fix)


def _check_reader(path: Path, header: RasterHeader) -> None:
    """Whether SimpleITK, which reads the values later, sees the same header; it reads no voxels here.

    Raises:
        InputRefusedError: HEADER.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(os.fsdecode(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        found = "one that SimpleITK refuses: a field that it does not know, or a value that it does not take"
        raise refuse("HEADER", "a header must be readable", found, "export the item again") from None
    axes = reader.GetDimension()
    seen = np.eye(4)
    space = min(3, axes)
    direction = np.array(reader.GetDirection()).reshape(axes, axes)[:space, :space]
    seen[:space, :space] = direction * np.array(reader.GetSpacing())[:space]
    seen[:space, 3] = np.array(reader.GetOrigin())[:space]
    seen[:2] *= -1
    same = tuple(reader.GetSize()) == header.dims and reader.GetNumberOfComponents() == 1
    dtype = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if not same or dtype != _itk_name(header.dtype) or same_grid(seen, header.affine, (*header.dims, 1, 1)[:3]) > 1:
        found = "a shape, type or orientation that SimpleITK reads in another way"
        raise refuse("HEADER", "readers must agree on a header", found, "export the item again")


def _itk_name(dtype: np.dtype[np.generic]) -> str:
    bits = dtype.itemsize * 8
    if dtype.kind == "f":
        return f"{bits}-bit float"
    return f"{bits}-bit {'signed' if dtype.kind == 'i' else 'unsigned'} integer"

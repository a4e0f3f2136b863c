# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Inspect one NIfTI file: header, extensions, geometry and every value, to the last byte of the file."""

from __future__ import annotations

import os
from typing import Literal

import nibabel as nib
import numpy as np

from .byte_stream import ByteStream, refuse
from .findings import Inspection
from .geometry import check_shape
from .guarding import guarded
from .identifiers import warn_of_identifiers
from .limits import Limits
from .nifti_extensions import gzip_texts, read_extensions
from .nifti_geometry import NiftiForms, check_nifti_geometry
from .nifti_header import read_nifti_header, stored_dtype, value_scaling
from .values import ValueScan
from .voxels import VoxelGrid, check_size, check_trailing, scan_voxels, spatial_axes

__all__ = ["inspect_nifti"]

TEXTS = {
    348: ("descrip", "aux_file", "db_name", "intent_name", "data_type"),
    540: ("descrip", "aux_file", "intent_name"),
}


def inspect_nifti(
    path: str | os.PathLike[str],
    kind: Literal["volume", "image"] | None = None,
    limits: Limits | None = None,
    *,
    scan: ValueScan | None = None,
) -> Inspection:
    """Inspect one ``.nii`` or ``.nii.gz`` file without trusting it.

    Args:
        path: of the file.
        kind: what the list says it is; None lets the shape decide.
        limits: sizes that are refused.
        scan: takes the values in the place of a scan of grey values, which are then not judged (label maps).

    Returns:
        facts in the order of the file's axes, with the affine that MONAI's reader gives, and findings.
    """
    limits, inspection = limits or Limits(), Inspection()
    with guarded(inspection), ByteStream(path) as stream:
        inspection.facts.num_bytes = stream.size
        _check_suffix(path, stream)
        header = read_nifti_header(stream)
        inspection.facts.kind, shape = spatial_axes(header.dims, kind, inspection, limits)
        dtype = stored_dtype(header, inspection)
        grid = VoxelGrid(shape, dtype, *value_scaling(header, inspection))
        check_size(grid, limits)
        check_shape(shape, inspection, limits)
        texts = read_extensions(stream, header, inspection)
        names = [header.text(name) for name in TEXTS[header.size]]
        warn_of_identifiers(names, "the header's texts (descrip, aux_file, db_name, intent_name)", inspection)
        warn_of_identifiers(texts, "a header extension", inspection)
        warn_of_identifiers(gzip_texts(stream.head) if stream.compressed else [], "the gzip header", inspection)
        forms = check_nifti_geometry(header, shape, inspection, limits)
        scan_voxels(stream.read, grid, inspection, limits, scan)
        check_trailing(stream.read, grid, inspection)
        if inspection.verdict != "reject":
            _check_reader(path, header.dims, forms)
    return inspection


def _check_suffix(path: str | os.PathLike[str], stream: ByteStream) -> None:
    """Whether the suffix says what nibabel needs: it goes by the suffix, not by the content.

    Raises:
        InputRefusedError: CONTAINER.
    """
    name = os.fsdecode(path).lower()
    if name.endswith((".hdr", ".img", ".hdr.gz", ".img.gz")):
        found, fix = "one part of a .hdr/.img pair", "convert the pair to one .nii.gz file"
        raise refuse("CONTAINER", "NIfTI must come as a single file", found, fix)
    rule = "the suffix must say whether a file is compressed: .nii, or .nii.gz for gzip"
    if not name.endswith((".nii", ".nii.gz")):
        raise refuse("CONTAINER", rule, "another suffix (extension)", "rename the file")
    if name.endswith(".gz") and not stream.compressed and stream.head[:4] in (b"\\\1\0\0", b"\0\0\1\\"):
        raise refuse("CONTAINER", rule, "a file named .nii.gz that is not gzip but plain NIfTI", "rename it to .nii")
    if name.endswith(".nii") and stream.compressed:
        raise refuse("CONTAINER", rule, "a gzip file named .nii, without .gz", "rename it to .nii.gz")


def _check_reader(path: str | os.PathLike[str], dims: tuple[int, ...], forms: NiftiForms) -> None:
    """Whether nibabel, which reads the values later, sees the same header; it reads no voxels here.

    Raises:
        InputRefusedError: HEADER.
    """
    try:
        image = nib.load(os.fsdecode(path))
    except Exception as error:  # extensions are parsed by other libraries
        found, fix = f"one that nibabel refuses ({type(error).__name__})", "export the item again"
        raise refuse("HEADER", "a header must be readable", found, fix) from None
    nominal = np.asarray(forms.nominal)
    if tuple(image.shape) != dims or not np.allclose(image.affine, nominal, rtol=1e-4, atol=1e-4):
        found = "a shape or orientation that nibabel reads in another way"
        raise refuse("HEADER", "readers must agree on a header", found, "export the item again")

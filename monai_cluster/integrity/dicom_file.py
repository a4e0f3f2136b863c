# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Inspect one DICOM file: a 2D image, or an enhanced multi-frame volume."""

from __future__ import annotations

import os

from .dicom_records import FileRecord, read_record
from .dicom_stack import check_stack, stack_order
from .dicom_values import check_meaning, check_scaling, scan_frames
from .findings import Inspection
from .geometry import check_shape
from .guarding import guarded
from .limits import Limits

__all__ = ["inspect_dicom_image", "inspect_frames"]


def inspect_dicom_image(
    path: str | os.PathLike[str], kind: str | None = None, limits: Limits | None = None
) -> Inspection:
    """Inspect one DICOM file without trusting it.

    Args:
        path: of the file.
        kind: ``image`` or ``volume``, as the list says; None lets the file decide.
        limits: sizes that are refused.

    Returns:
        facts with shape ``rows columns`` for an image, ``x y z`` for a multi-frame volume, and findings.
    """
    limits, inspection = limits or Limits(), Inspection()
    with guarded(inspection):
        record = read_record(path, limits)
        inspection.facts.num_bytes = record.num_bytes
        if record.declared.frames > 1:
            _inspect_frames_of(record, kind, inspection, limits)
        elif kind == "volume":
            fix = "list it under images, or give the folder of its series"
            inspection.reject("NDIM", "a volume must have several slices", "a 2D file of one frame", fix)
        else:
            _inspect_picture(record, inspection, limits)
    return inspection


def _inspect_picture(record: FileRecord, inspection: Inspection, limits: Limits) -> None:
    facts, declared, frame = inspection.facts, record.declared, record.frames[0]
    facts.kind, facts.shape = "image", (declared.rows, declared.columns)
    facts.dtype, facts.modality = str(declared.dtype), record.modality or None
    check_shape(facts.shape, inspection, limits)
    if frame.spacing is not None:
        facts.spacing = frame.spacing
        extent = max(frame.spacing[0] * declared.rows, frame.spacing[1] * declared.columns)
        low, high = min(frame.spacing), max(frame.spacing)
        if low < limits.min_spacing or high > limits.max_spacing or extent > limits.max_extent:
            rule = f"pixel spacing must lie in {limits.min_spacing:g}..{limits.max_spacing:g} mm"
            found = f"{low:.4g} to {high:.4g} mm over {extent:.4g} mm"
            inspection.reject("SPACING", rule, found, "correct the header")
    check_scaling([(record, frame)], inspection)
    check_meaning([record], inspection)
    scan_frames([(record, frame)], facts.shape, inspection, limits)


def _inspect_frames_of(record: FileRecord, kind: str | None, inspection: Inspection, limits: Limits) -> None:
    frames = record.declared.frames
    if kind == "image":
        fix = "list it under volumes, or save the frame that is meant as a file of its own"
        inspection.reject("NDIM", "an image must have one frame", f"{frames} frames (a multi-frame file)", fix)
    elif all(frame.position is None for frame in record.frames):
        found = f"{frames} frames without a position or orientation: moments of a film, or an old multi-frame file"
        fix = "save the frames that are meant as files of their own"
        inspection.reject("ORIENTATION", "the frames of a volume must be slices with positions", found, fix)
        return
    inspect_frames([record], inspection, limits)


def inspect_frames(files: list[FileRecord], inspection: Inspection, limits: Limits) -> None:
    """Inspect files whose frames are to form one volume; fills in all facts.

    Raises:
        InputRefusedError: for a frame that cannot be decoded.
    """
    facts = inspection.facts
    planes = [(file, frame) for file in files for frame in file.frames]
    facts.kind, facts.num_files = "volume", len(files)
    facts.num_bytes = sum(file.num_bytes for file in files)
    facts.modality = files[0].modality or None
    facts.dtype = str(files[0].declared.dtype)
    if any(file.declared.frames > 1 for file in files):
        found = f"{len(planes)} frames in {len(files)} files (enhanced multi-frame DICOM)"
        fix = "convert it to NIfTI (dcm2niix): the package reads DICOM of one frame per file"
        inspection.warn("NDIM", "a DICOM series should hold one frame per file", found, fix)
    check_meaning(files, inspection)
    check_scaling(planes, inspection)
    total = sum(file.declared.frame_bytes * file.declared.frames for file in files)
    if total > limits.max_decoded_bytes:
        found = f"{total / 2**20:.0f} MiB over {len(planes)} slices: too large"
        inspection.reject(
            "TOO_LARGE", "a volume must stay below the limit of size", found, "raise the limit, or crop it"
        )
        return
    ordered = stack_order(planes, inspection)
    if ordered:
        check_stack(ordered, inspection, limits)
        shape = (files[0].declared.columns, files[0].declared.rows, len(planes))
        facts.shape = shape
        check_shape(shape, inspection, limits)
        scan_frames(ordered, shape, inspection, limits)

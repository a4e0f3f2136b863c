# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Inspect a label map beside its image: one grid, and values that are classes."""

from __future__ import annotations

import math
import os
from typing import Literal

import nibabel as nib
import numpy as np

from .byte_stream import file_format, open_regular, refuse
from .dicom_file import inspect_dicom_image
from .dicom_series import inspect_series
from .findings import Facts, Inspection
from .geometry import same_grid
from .guarding import guarded
from .itk_headers import inspect_metaimage, inspect_nrrd
from .label_pictures import SUFFIXES as PICTURES
from .label_pictures import inspect_label_picture
from .labels import LabelScan, judge_labels
from .limits import Limits
from .nifti import inspect_nifti
from .pictures import inspect_picture
from .voxels import upright_plane

__all__ = ["inspect_pair"]

Path = str | os.PathLike[str]
Kind = Literal["volume", "image"] | None

VOXEL_FILES = {
    (".nii", ".nii.gz", ".hdr", ".img"): inspect_nifti,
    (".mha", ".mhd"): inspect_metaimage,
    (".nrrd", ".nhdr"): inspect_nrrd,
}
TOLERANCE = 0.1  # voxels that the corners of image and label may lie apart
FIX = "save the label with the grid of its image, or resample it (nearest neighbour)"


def inspect_pair(
    image: Path,
    label: Path,
    num_classes: int | None = None,
    limits: Limits | None = None,
    *,
    image_inspection: Inspection | None = None,
) -> Inspection:
    """Inspect a label map and compare it with the image that it belongs to.

    Args:
        image: a file, or a folder with one DICOM series.
        label: a NIfTI, MetaImage, NRRD or picture file.
        num_classes: class ids must be below it, background included; None does not look.
        limits: sizes that are refused.
        image_inspection: of ``image``, if it was inspected already; its findings are then not repeated.

    Returns:
        facts of the label map; findings of the label map, of the comparison, and of the image if it is inspected here.
    """
    limits, inspection = limits or Limits(), Inspection()
    with guarded(inspection):
        seen = image_inspection or _inspect_image(image, limits)
        kind: Kind = "image" if seen.facts.kind == "image" else "volume" if seen.facts.kind == "volume" else None
        found, scan = _inspect_label(label, kind, limits)
        inspection.facts = found.facts
        if image_inspection is None:
            inspection.findings.extend(seen.findings)
        # what is odd about the grid of both was said of the image
        inspection.findings.extend(one for one in found.findings if one not in seen.findings)
        _compare(seen.facts, found.facts, inspection)
        if scan.count == math.prod(found.facts.shape or ()):
            judge_labels(scan, num_classes, inspection)
    return inspection


def _inspect_image(path: Path, limits: Limits) -> Inspection:
    if os.path.isdir(path):
        return inspect_series(path, limits)
    name = os.fsdecode(path).lower()
    for suffixes, inspect in VOXEL_FILES.items():
        if name.endswith(suffixes):
            return inspect(path, None, limits)
    if name.endswith(PICTURES):
        return inspect_picture(path, "image", limits)
    return inspect_dicom_image(path, None, limits)


def _inspect_label(path: Path, kind: Kind, limits: Limits) -> tuple[Inspection, LabelScan]:
    name, scan = os.fsdecode(path).lower(), LabelScan()
    for suffixes, inspect in VOXEL_FILES.items():
        if name.endswith(suffixes):
            return inspect(path, kind, limits, scan=scan), scan
    if name.endswith(PICTURES):
        return inspect_label_picture(path, kind, limits, scan), scan
    with open_regular(path) as file:
        form = file_format(file.read(560)) or "unknown"
    rule = "a label map must be a NIfTI, MetaImage or NRRD file, or a picture, by its suffix"
    fix = "convert it; DICOM SEG objects are converted to NIfTI on the grid of the image"
    raise refuse("CONTAINER", rule, f"another suffix, and content of the type {form}", fix)


def _compare(image: Facts, label: Facts, inspection: Inspection) -> None:
    """Whether both lie on one grid, as far as both know theirs."""
    if image.shape is None or label.shape is None or label.kind is None:
        return
    if label.content_hash is not None and label.content_hash == image.content_hash:
        found, fix = "the image itself: all values are the same", "correct the list"
        inspection.reject("LABEL", "a label map must differ from its image", found, fix)
    rule = "a label map must lie on the grid of its image"
    # pictures are as they are looked at, and files of voxels are turned that way when they are read as images
    one, other = (_upright_shape(facts) if image.kind == "image" else facts.shape for facts in (image, label))
    assert one is not None
    assert other is not None
    if one != other:
        turned = " (the axes are transposed)" if sorted(one) == sorted(other) else ""
        listed = [" × ".join(str(side) for side in shape) for shape in (other, one)]
        found = f"shapes (sizes) that do not match: {listed[0]} for an image of {listed[1]}{turned}"
        inspection.reject("GEOMETRY", rule, found, FIX)
    elif image.affine is not None and label.affine is not None:
        grids = np.array(image.affine), np.array(label.affine)
        distance = same_grid(*grids, (*(image.shape), 1)[:3], TOLERANCE) * TOLERANCE
        if not distance <= TOLERANCE:
            found = f"{_difference(*grids)}, up to {distance:.3g} voxels apart"
            inspection.reject("GEOMETRY", rule, f"affines that do not match: {found}", FIX)
    elif (image.affine is None) != (label.affine is None):
        which = "the label map" if label.affine is None else "the image"
        found = f"no position in space (affine) in {which}, so that the shape alone could be compared"
        fix = "check a few pairs by eye; save both in one format"
        inspection.warn("GEOMETRY", "image and label map should both know where they lie", found, fix)


def _upright_shape(facts: Facts) -> tuple[int, ...] | None:
    if facts.affine is None or facts.shape is None:
        return facts.shape
    columns, rows = facts.shape[:2]
    strides = np.broadcast_to(np.zeros(1, dtype=np.uint8), (columns, rows))
    return upright_plane(strides, facts.affine).shape


def _difference(one: np.ndarray, other: np.ndarray) -> str:
    """What differs most: spacing, direction of an axis, or origin."""
    spacings = [np.linalg.norm(form[:3, :3], axis=0) for form in (one, other)]
    if not np.allclose(spacings[0], spacings[1], rtol=1e-2):
        listed = [" × ".join(f"{value:.4g}" for value in spacing) for spacing in spacings]
        return f"a spacing of {listed[1]} mm beside {listed[0]}"
    cosines = ((one[:3, :3] / spacings[0]) * (other[:3, :3] / spacings[1])).sum(axis=0)
    mirrored = [str(axis) for axis in np.flatnonzero(cosines < -0.9)]
    if mirrored:
        sides = "".join(str(code) for code in nib.orientations.aff2axcodes(other))
        return f"a mirrored orientation (flip of axis {', '.join(mirrored)}; {sides})"
    if cosines.min() < 0.999:
        return "another orientation (direction of the axes)"
    shift = float(np.linalg.norm(one[:3, 3] - other[:3, 3]))
    return f"another origin, {shift:.4g} mm away"

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Whether frames form one volume: equal grids, parallel planes, each position once, even steps, nothing missing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .dicom_records import FileRecord, FrameRecord
from .findings import Inspection
from .geometry import check_affine
from .limits import Limits

__all__ = ["Plane", "check_stack", "stack_order"]

Plane = tuple[FileRecord, FrameRecord]

SAME = 1e-3  # of directions, and relative to pixel spacing
SAME_PLACE = 1e-3  # mm, or share of the step: closer slices lie at one position
EVEN = 0.01  # jitter of the step that rounding in headers explains: 1 %, or 0.0105 mm
UNEVEN = 0.1  # share of the step above which positions are wrong
MULTIPLE = 0.15  # how far from a whole multiple of the step a gap may be that missing slices explain
MAX_TILT = 0.5  # degrees
SPLIT = "put each of them into its own folder"


def stack_order(planes: Sequence[Plane], inspection: Inspection) -> list[Plane]:
    """The frames in order along their normal; empty, with findings, where they do not share one grid of pixels."""
    if not _placed(planes, inspection) or not _alike(planes, inspection):
        return []
    normal = _normal(planes[0])
    return sorted(planes, key=lambda plane: float(np.dot(plane[1].position or (), normal)))


def check_stack(planes: Sequence[Plane], inspection: Inspection, limits: Limits) -> None:
    """Judge the steps between ordered frames, and write the facts of geometry (affine in RAS, spacing, orientation)."""
    first = planes[0]
    positions = np.array([plane[1].position for plane in planes], dtype=np.float64)
    normal = _normal(first)
    along = positions @ normal
    step = normal
    if len(planes) > 1:
        gaps = np.diff(along)
        typical = float(np.median(gaps))
        if gaps.min() < SAME_PLACE * max(typical, 1.0):
            _shared_positions(planes, along, inspection)
            return
        _check_gaps(gaps, typical, inspection)
        path = positions[-1] - positions[0]
        step = path / (path @ normal) * typical
        _check_path(positions, along, path, normal, first, inspection)
    rows, columns = np.array(first[1].orientation, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = first[1].spacing or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([rows * between_columns, columns * between_rows, step], axis=1)
    affine[:3, 3] = positions[0]
    affine[:2] *= -1  # LPS to RAS
    shape = (first[0].declared.columns, first[0].declared.rows, len(planes))
    check_affine(affine, shape, inspection, replace(limits, max_shear=1.0))  # the tilt has its own finding


def _normal(plane: Plane) -> np.ndarray:
    rows, columns = np.array(plane[1].orientation, dtype=np.float64).reshape(2, 3)
    normal: np.ndarray = np.cross(rows, columns)
    return normal / max(float(np.linalg.norm(normal)), 1e-12)


def _placed(planes: Sequence[Plane], inspection: Inspection) -> bool:
    without = sum(frame.position is None or frame.orientation is None for _, frame in planes)
    if without:
        inspection.reject(
            "ORIENTATION",
            "every slice of a volume needs ImagePositionPatient and ImageOrientationPatient",
            f"{without} of {len(planes)} slices without a readable position or orientation",
            "export the series again, or list its files one by one under images",
        )
        return False
    skewed = sum(not _orthonormal(frame) for _, frame in planes)
    if skewed:
        rule = "ImageOrientationPatient must hold two perpendicular directions of length one"
        inspection.reject("ORIENTATION", rule, f"{skewed} slices of another orientation", "export the series again")
    unscaled = sum(frame.spacing is None or min(frame.spacing) <= 0 for _, frame in planes)
    if unscaled:
        found = f"{unscaled} of {len(planes)} slices without a positive, finite spacing"
        inspection.reject("SPACING", "every slice of a volume needs PixelSpacing", found, "export the series again")
    return not skewed and not unscaled


def _orthonormal(frame: FrameRecord) -> bool:
    rows, columns = np.array(frame.orientation, dtype=np.float64).reshape(2, 3)
    lengths = np.abs(np.array([np.linalg.norm(rows), np.linalg.norm(columns)]) - 1).max()
    return bool(lengths < 1e-2 and abs(rows @ columns) < 1e-2)


def _alike(planes: Sequence[Plane], inspection: Inspection) -> bool:
    """Whether all slices have one size, orientation and pixel spacing; the finding counts those unlike the most."""
    sizes = [(file.declared.rows, file.declared.columns) for file, _ in planes]
    common = max(set(sizes), key=sizes.count)
    others = sum(size != common for size in sizes)
    alike = True
    if others:
        listed = ", ".join(f"{rows} × {columns}" for rows, columns in sorted(set(sizes))[:4])
        found = f"{others} of {len(planes)} slices of another shape ({listed})"
        rule = "all slices of a series must have the same rows and columns"
        inspection.reject("GEOMETRY", rule, found, "take the localiser out, or split the series")
        alike = False
    orientations = np.array([frame.orientation for _, frame in planes])
    turned = np.abs(orientations - np.median(orientations, axis=0)).max(axis=1) > SAME
    if turned.any():
        marked = sum(file.localiser for (file, _), off in zip(planes, turned, strict=True) if off)
        named = f" ({marked} marked as localiser)" if marked else ""
        found = f"{int(turned.sum())} of {len(planes)} slices in another orientation{named}"
        rule = "all slices of a series must be parallel"
        inspection.reject("GEOMETRY", rule, found, "take the localiser (scout) out, or split the series")
        alike = False
    spacings = np.array([frame.spacing for _, frame in planes])
    if (np.abs(spacings / np.median(spacings, axis=0) - 1) > SAME).any():
        found = f"PixelSpacing from {spacings.min():.4g} to {spacings.max():.4g} mm"
        rule = "all slices of a series must have one pixel spacing"
        inspection.reject("GEOMETRY", rule, found, "take the localiser out, or split the series")
        alike = False
    return alike


def _shared_positions(planes: Sequence[Plane], along: np.ndarray, inspection: Inspection) -> None:
    """Say whether several volumes share their positions (time points, echoes), or single slices are there twice."""
    place = np.concatenate([[0], np.cumsum(np.diff(along) > SAME_PLACE)])
    counts = np.bincount(place)
    varying = sorted(
        name
        for name in {name for file, _ in planes for name in file.phases}
        if len({file.phases.get(name) for file, _ in planes}) > 1
    )
    if counts.min() == counts.max() or varying:
        differ = f", which differ in {', '.join(varying)}" if varying else ""
        inspection.reject(
            "MIXED_SERIES",
            "a volume must have one image at each position",
            f"{counts.min()} to {counts.max()} images at the same position{differ}: several time points, echoes, "
            f"b-values or copies in one series ({len(counts)} positions, {len(planes)} images)",
            f"{SPLIT}, or choose one of them",
        )
        return
    inspection.reject(
        "DUPLICATE",
        "a volume must have one slice at each position",
        f"{int((counts > 1).sum())} of {len(counts)} positions with duplicate slices at the same position",
        "remove the copies",
    )


def _check_gaps(gaps: np.ndarray, typical: float, inspection: Inspection) -> None:
    off = float(np.abs(gaps - typical).max())
    listed = f"steps of {gaps.min():.4g} to {gaps.max():.4g} mm"
    if off <= max(EVEN * typical, 0.0105):
        return
    if off <= UNEVEN * typical:
        fix = "resample the series if positions matter"
        inspection.warn("SPACING", "slices should be evenly spaced", f"uneven spacing, {listed}", fix)
        return
    wide = gaps / typical
    whole = np.abs(wide - np.round(wide)) <= MULTIPLE
    missing = int((np.round(wide) - 1).clip(min=0).sum())
    if whole.all() and wide.min() > 0.5 and (wide > 1.5).mean() <= 0.25:
        found = f"about {missing} missing in {int((wide > 1.5).sum())} gaps ({listed})"
        inspection.reject("MISSING_SLICE", "no slice of a series may be missing", found, "find the missing files")
        return
    found = f"uneven (irregular) spacing or missing slices: {listed}"
    inspection.reject("SPACING", "slices must be evenly spaced", found, "find missing files, or resample the series")


def _check_path(
    positions: np.ndarray, along: np.ndarray, path: np.ndarray, normal: np.ndarray, first: Plane, inspection: Inspection
) -> None:
    """Positions must lie on a straight line, which should be the normal."""
    line = positions[0] + np.outer((along - along[0]) / (along[-1] - along[0]), path)
    aside = float(np.linalg.norm(positions - line, axis=1).max())
    pixel = min(first[1].spacing or (1.0,))
    if aside > pixel:
        found = f"slices up to {aside:.3g} mm beside the line through their positions"
        inspection.reject("GEOMETRY", "slices must lie behind one another", found, "resample the series, or split it")
    tilt = float(np.degrees(np.arccos(np.clip(path @ normal / np.linalg.norm(path), -1, 1))))
    if tilt > MAX_TILT:
        inspection.warn(
            "AFFINE",
            "slices should lie straight behind one another",
            f"slices that are sheared by {tilt:.1f} degrees (a tilted gantry)",
            "resample the series; readers that ignore the shear put the anatomy elsewhere",
        )

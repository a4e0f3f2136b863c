# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Where the frames of a DICOM segmentation object lie, and on which slice of a stack each is to be put."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pydicom

from .dicom import DicomSeriesReader, series_affine, slice_affine
from .labelled_samples import SAME_GRID_MM

__all__ = ["Frame", "SliceGrid", "frame_grid", "frames_of", "series_grid", "slices_of"]

MOST_SLICES = 10_000  # a position far off shall not ask for a grid of terabytes
TAGS = [
    "SOPInstanceUID",
    "FrameOfReferenceUID",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "Rows",
    "Columns",
]


class Frame(NamedTuple):
    """One frame of a SEG object; all millimetres are LPS.

    Attributes:
        segment: its number, 0 in label maps.
        position: of the first pixel.
        orientation: of rows and columns, six numbers.
        pixel_spacing: between rows, between columns.
        spacing: mm between slices as the object says, 0 where it does not.
        thickness: mm of a slice, 0 where unknown.
        sources: the images that it refers to.
    """

    segment: int
    position: np.ndarray
    orientation: np.ndarray
    pixel_spacing: np.ndarray
    spacing: float
    thickness: float
    sources: frozenset[str]


class SliceGrid(NamedTuple):
    """Stacked slices of one size.

    Attributes:
        shape: ``X Y Z``.
        affine: ``4 4``, index to RAS mm.
        positions: ``Z 3``, LPS mm of each slice's first pixel.
        orientation: of rows and columns, six numbers.
        pixel_spacing: between rows, between columns.
        instances: identifiers of the slices' images; none where the grid comes from the frames.
    """

    shape: tuple[int, int, int]
    affine: np.ndarray
    positions: np.ndarray
    orientation: np.ndarray
    pixel_spacing: np.ndarray
    instances: Sequence[str] = ()


def frames_of(seg: Any) -> list[Frame]:
    """The frames in the object's order.

    Raises:
        ValueError: if a frame's place or segment is not said.
    """
    shared = (seg.get("SharedFunctionalGroupsSequence") or [pydicom.Dataset()])[0]
    each = seg.get("PerFrameFunctionalGroupsSequence") or []
    if len(each) != int(seg.NumberOfFrames):
        raise ValueError(
            f"a DICOM SEG must describe each frame, got {len(each)} descriptions for {seg.NumberOfFrames} frames; "
            "write the object again"
        )
    label_map = seg.get("SegmentationType") == "LABELMAP"
    return [_frame((groups, shared), label_map) for groups in each]


def _frame(groups: Sequence[Any], label_map: bool) -> Frame:
    found = {
        "ReferencedSegmentNumber": 0
        if label_map
        else _entry(groups, "SegmentIdentification", "ReferencedSegmentNumber"),
        "ImagePositionPatient": _entry(groups, "PlanePosition", "ImagePositionPatient"),
        "ImageOrientationPatient": _entry(groups, "PlaneOrientation", "ImageOrientationPatient"),
        "PixelSpacing": _entry(groups, "PixelMeasures", "PixelSpacing"),
    }
    missing = [name for name, value in found.items() if value is None]
    if missing:
        raise ValueError(f"frames of a DICOM SEG must have {', '.join(missing)}; write the object again")
    segment, *place = found.values()
    position, orientation, pixel_spacing = (np.array(value, dtype=np.float64) for value in place)
    spacing, thickness = (
        float(_entry(groups, "PixelMeasures", name) or 0) for name in ("SpacingBetweenSlices", "SliceThickness")
    )
    derived: Any = next((one.DerivationImageSequence for one in groups if one.get("DerivationImageSequence")), [])
    sources = frozenset(
        str(image.get("ReferencedSOPInstanceUID", ""))
        for derivation in derived
        for image in derivation.get("SourceImageSequence") or []
    )
    return Frame(int(segment), position, orientation, pixel_spacing, abs(spacing), abs(thickness), sources)


def _entry(groups: Sequence[Any], sequence: str, name: str) -> Any:
    """From the frame's own group, else from the shared one."""
    for one in groups:
        items = one.get(f"{sequence}Sequence")
        if items and items[0].get(name) is not None:
            return items[0][name].value
    return None


def series_grid(seg: Any, folder: Any) -> SliceGrid:
    """The grid of a series, if the object may lie on it.

    Raises:
        ValueError: for slices of another size or frame of reference, and as for ``DicomSeriesReader``.
    """
    slices = DicomSeriesReader().read(folder)
    headers = [pydicom.dcmread(file, stop_before_pixels=True, specific_tags=TAGS) for file, _ in slices]
    first = headers[0]
    sizes = [(int(one.Columns), int(one.Rows)) for one in (seg, first)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"a DICOM SEG must have the size of its series' slices, got {sizes[0]} columns and rows for slices of "
            f"{sizes[1]}: give the series that was segmented, or leave it out and resample the result."
        )
    # Each slice has one of its own after some de-identifications.
    known = {str(header.get("FrameOfReferenceUID", "")) for header in headers}
    if str(seg.get("FrameOfReferenceUID", "")) not in known:
        raise ValueError(
            "a DICOM SEG must share its series' frame of reference, or positions do not compare, but theirs differ: "
            "give the series that was segmented."
        )
    return SliceGrid(
        (*sizes[1], len(headers)),
        series_affine(slices),
        np.array([header.ImagePositionPatient for header in headers], dtype=np.float64),
        np.array(first.ImageOrientationPatient, dtype=np.float64),
        np.array(first.PixelSpacing, dtype=np.float64),
        [str(header.get("SOPInstanceUID", "")) for header in headers],
    )


def frame_grid(seg: Any, frames: Sequence[Frame]) -> SliceGrid:
    """The smallest grid of evenly spaced slices that has a slice for each frame.

    Raises:
        ValueError: if there is none.
    """
    first = frames[0]
    positions = np.stack([frame.position for frame in frames])
    rows, columns = first.orientation.reshape(2, 3)
    normal = np.cross(rows, columns)
    heights = positions @ normal
    low, high = int(heights.argmin()), int(heights.argmax())
    heights -= heights[low]
    spacing = _even_spacing(heights, first)
    last = round(float(heights[high]) / spacing)
    step = (positions[high] - positions[low]) / last if last else normal * spacing
    return SliceGrid(
        (int(seg.Columns), int(seg.Rows), last + 1),
        slice_affine(first.orientation, first.pixel_spacing, step, positions[low]),
        positions[low] + np.arange(last + 1)[:, None] * step,
        first.orientation,
        first.pixel_spacing,
    )


def _even_spacing(heights: np.ndarray, first: Frame) -> float:
    """Mm between slices: as the object says if that fits all frames, else the smallest distance of two frames."""
    gaps = np.diff(np.sort(heights))
    gaps = gaps[gaps > SAME_GRID_MM]
    if not len(gaps):
        return first.spacing or first.thickness or 1.0
    for spacing in (first.spacing, float(gaps.min())):
        if spacing <= 0 or heights.max() / spacing >= MOST_SLICES:
            continue
        spacing = float(heights.max()) / max(1, round(float(heights.max()) / spacing))
        if np.abs(heights - spacing * np.round(heights / spacing)).max() <= SAME_GRID_MM:
            return spacing
    raise ValueError(
        f"frames of a DICOM SEG must be evenly spaced to form a grid, got distances of {gaps.min():.3g} to "
        f"{gaps.max():.3g} mm: give the folder of the series that was segmented."
    )


def slices_of(frames: Sequence[Frame], grid: SliceGrid) -> list[int]:
    """Which slice of the grid each frame lies on.

    Raises:
        ValueError: if a frame is turned, mirrored or of other pixels than the grid, lies between or beyond its slices,
            or at another slice than the one whose image it refers to.
    """
    apart = max(float(np.linalg.norm(_corners(frame, grid) - _corners(grid, grid), axis=1).max()) for frame in frames)
    if not apart <= SAME_GRID_MM:
        raise ValueError(
            f"frames of a DICOM SEG must have the grid of the slices, but corners are up to {apart:.2f} mm off "
            "(turned, mirrored or of other pixel spacing): give the series that was segmented, or leave it out and "
            "resample."
        )
    normal = np.cross(*grid.orientation.reshape(2, 3))
    positions = np.stack([frame.position for frame in frames])
    heights = grid.positions @ normal
    upper = np.searchsorted(heights, positions @ normal).clip(0, len(heights) - 1)
    lower = (upper - 1).clip(0)
    away = np.stack([np.linalg.norm(positions - grid.positions[near], axis=1) for near in (lower, upper)])
    beside = int((~(away.min(axis=0) <= SAME_GRID_MM)).sum())
    if beside:
        raise ValueError(
            f"frames of a DICOM SEG must lie at the slices, but {beside} of {len(frames)} are up to "
            f"{away.min(axis=0).max():.2f} mm from the nearest: give the series that was segmented (whole), or "
            "leave it out and resample."
        )
    found = [int(place) for place in np.where(away[0] < away[1], lower, upper)]
    known = set(grid.instances)
    wrong = [frame for frame, place in zip(frames, found, strict=True) if _elsewhere(frame, place, grid, known)]
    if wrong:
        raise ValueError(
            f"frames of a DICOM SEG must lie at the slices that they refer to, but {len(wrong)} of {len(frames)} "
            "lie at others: the object contradicts itself; write it again."
        )
    return found


def _corners(one: Frame | SliceGrid, grid: SliceGrid) -> np.ndarray:
    """``3 3``, mm from the first pixel to the other corners of a slice of the grid's size."""
    rows, columns = one.orientation.reshape(2, 3)
    along = rows * one.pixel_spacing[1] * (grid.shape[0] - 1)
    down = columns * one.pixel_spacing[0] * (grid.shape[1] - 1)
    return np.stack([along, down, along + down])


def _elsewhere(frame: Frame, place: int, grid: SliceGrid, known: set[str]) -> bool:
    """Whether a frame refers to slices of the grid, but not to the one where it lies."""
    return bool(frame.sources & known) and grid.instances[place] not in frame.sources

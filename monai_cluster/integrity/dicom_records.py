# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What the checks keep of one DICOM file: its series, and for each frame its place, its scaling and its kind."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from pydicom.dataset import Dataset

from .byte_stream import refuse
from .dicom_attributes import first_item, number, numbers, text
from .dicom_elements import EXPORT_AGAIN
from .dicom_headers import DicomSource, open_dicom
from .dicom_identifiers import header_identifiers
from .dicom_pixels import PixelFormat, check_pixels, pixel_format
from .findings import Finding
from .limits import Limits
from .silence import hushed

__all__ = ["FileRecord", "FrameRecord", "read_record", "record_of"]

# what tells apart the images that share a position
PHASES = {
    "EchoTime": "echo time",
    "EchoNumbers": "echo",
    "TemporalPositionIdentifier": "time point",
    "TemporalPositionIndex": "time point",
    "TriggerTime": "trigger time",
    "DiffusionBValue": "b-value",
}


@dataclass(frozen=True)
class FrameRecord:
    """One frame of one file.

    Attributes:
        index: of the frame in its file.
        position: mm (LPS) of the first pixel's centre; None where it is unknown.
        orientation: direction (LPS) along a row's pixels, then along a column's.
        spacing: mm between rows, mm between columns.
        slope, intercept: from stored values to units; None where the file has none.
    """

    index: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    slope: float | None
    intercept: float | None


@dataclass(frozen=True)
class FileRecord:
    """One DICOM image file.

    Attributes:
        path: of the file. It identifies a patient more often than not: keep it out of reports.
        declared: how its pixels are stored.
        frames: its frames in the order of the file.
        series, instance, frame_of_reference: UIDs.
        modality: such as ``CT``.
        patient: patient number, to tell patients apart; keep it out of reports.
        localiser: whether the image type says so.
        phases: echo time, time point and the like, by name.
        identifiers: kinds of identifier in its header.
        findings: warnings about its structure.
        num_bytes: size of the file.
    """

    path: str | os.PathLike[str] = field(repr=False)
    declared: PixelFormat
    frames: tuple[FrameRecord, ...]
    series: str = field(repr=False)
    instance: str = field(repr=False)
    frame_of_reference: str = field(repr=False)
    modality: str
    patient: str = field(repr=False)
    localiser: bool
    phases: dict[str, str]
    identifiers: frozenset[str]
    findings: tuple[Finding, ...]
    num_bytes: int


def read_record(path: str | os.PathLike[str], limits: Limits) -> FileRecord:
    """Read the header of one image file and hold what it declares against the file; no pixel is decoded.

    Raises:
        InputRefusedError: what :func:`~monai_cluster.integrity.dicom_headers.open_dicom`,
            :func:`~monai_cluster.integrity.dicom_pixels.pixel_format` and
            :func:`~monai_cluster.integrity.dicom_pixels.check_pixels` raise.
    """
    with hushed(), open_dicom(path, limits) as source:
        declared = pixel_format(source)
        check_pixels(source, declared, limits)
        return record_of(path, source, declared)


def record_of(path: str | os.PathLike[str], source: DicomSource, declared: PixelFormat) -> FileRecord:
    """The record of an opened file."""
    header = source.header
    phases = {name: text(header, keyword) for keyword, name in PHASES.items() if text(header, keyword)}
    return FileRecord(
        path=path,
        declared=declared,
        frames=_frames(header, declared),
        series=text(header, "SeriesInstanceUID"),
        instance=text(header, "SOPInstanceUID"),
        frame_of_reference=text(header, "FrameOfReferenceUID"),
        modality=_modality(header),
        patient=text(header, "PatientID"),
        localiser="LOCALIZER" in text(header, "ImageType").upper(),
        phases=phases,
        identifiers=frozenset(header_identifiers(header)),
        findings=tuple(source.oddities),
        num_bytes=source.num_bytes,
    )


def _modality(header: Dataset) -> str:
    """A modality of two to eight capitals; anything else could be any text, and facts are shown to people."""
    name = text(header, "Modality").upper()
    return name if name.isascii() and name.isalpha() and len(name) <= 8 else ""


def _frames(header: Dataset, declared: PixelFormat) -> tuple[FrameRecord, ...]:
    groups = header.get("PerFrameFunctionalGroupsSequence") if declared.frames > 1 or _enhanced(header) else None
    shared = first_item(header, "SharedFunctionalGroupsSequence") or Dataset()
    if groups is None and not shared:
        one = FrameRecord(0, *_place(header, header, header), *_scaling(header))
        # several frames of one place are moments, unless something says where each of them lies
        return (one,) if declared.frames == 1 else tuple(_unplaced(one, index) for index in range(declared.frames))
    items: list[Dataset] = list(groups) if groups is not None else []
    if len(items) != declared.frames:
        found = f"{len(items)} descriptions for {declared.frames} frames"
        raise refuse("HEADER", "a multi-frame file must describe each of its frames", found, EXPORT_AGAIN)
    return tuple(_grouped(index, item, shared) for index, item in enumerate(items))


def _enhanced(header: Dataset) -> bool:
    return header.get("PerFrameFunctionalGroupsSequence") is not None and header.get("ImagePositionPatient") is None


def _unplaced(one: FrameRecord, index: int) -> FrameRecord:
    return FrameRecord(index, None, one.orientation, one.spacing, one.slope, one.intercept)


def _grouped(index: int, item: Dataset, shared: Dataset) -> FrameRecord:
    """A frame of an enhanced file, whose attributes lie in its own functional groups or in the shared ones."""

    def group(keyword: str) -> Dataset:
        return first_item(item, keyword) or first_item(shared, keyword) or Dataset()

    place = _place(group("PlanePositionSequence"), group("PlaneOrientationSequence"), group("PixelMeasuresSequence"))
    return FrameRecord(index, *place, *_scaling(group("PixelValueTransformationSequence")))


def _place(
    position: Dataset, orientation: Dataset, measures: Dataset
) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None, tuple[float, ...] | None]:
    spacing = numbers(measures, "PixelSpacing", 2)
    if spacing is None and not text(measures, "PixelSpacing"):
        spacing = numbers(measures, "ImagerPixelSpacing", 2)
    return (
        numbers(position, "ImagePositionPatient", 3),
        numbers(orientation, "ImageOrientationPatient", 6),
        spacing,
    )


def _scaling(header: Dataset) -> tuple[float | None, float | None]:
    """Slope and intercept; 0 and NaN stay visible as such."""
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    if slope is None and text(header, "RescaleSlope"):
        slope = 0.0  # unreadable or not finite: no scaling that could be meant
    if intercept is None and text(header, "RescaleIntercept"):
        slope = 0.0
    return slope, intercept

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One pass over the pixels of DICOM frames, and what the headers say about what they mean."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import numpy as np

from .dicom_headers import DicomSource, open_dicom
from .dicom_identifiers import warn_of_header_identifiers
from .dicom_pixels import PALETTE, pixel_format, read_frame
from .dicom_records import FileRecord
from .dicom_stack import Plane
from .findings import Inspection
from .limits import Limits
from .values import ValueScan, judge_values, picture_hash, thumbnail

__all__ = ["check_meaning", "check_scaling", "scan_frames", "update_in_parts", "write_thumbnail"]

PART = 1 << 21  # values that are scaled to float64 at a time
LONGEST_SIDE = 2048  # px of a picture that goes into a thumbnail, which needs several float64 copies
UNITS = {"CT": "Hounsfield units (HU)", "PT": "activity"}


def update_in_parts(scan: ValueScan, picture: np.ndarray) -> None:
    """Let a scan take in ``H W`` a few rows at a time, which bounds what it holds."""
    rows = max(1, PART // max(1, picture.shape[1]))
    for start in range(0, picture.shape[0], rows):
        scan.update(picture[start : start + rows])


def write_thumbnail(picture: np.ndarray, inspection: Inspection) -> None:
    """Fill in thumbnail and picture hash from ``H W``."""
    every = max(1, -(-max(picture.shape) // LONGEST_SIDE))
    inspection.facts.thumbnail = thumbnail(picture[::every, ::every])
    inspection.facts.picture_hash = picture_hash(inspection.facts.thumbnail)


def scan_frames(planes: Sequence[Plane], shape: tuple[int, ...], inspection: Inspection, limits: Limits) -> None:
    """Decode the frames in order and write the facts about their values; ``shape`` takes part in the content hash.

    Raises:
        InputRefusedError: for a frame that cannot be decoded.
    """
    facts, scan, last = inspection.facts, ValueScan(), None
    current: FileRecord | None = None
    scan.describe(shape, str(planes[0][0].declared.dtype))
    with contextlib.ExitStack() as opened:
        source: DicomSource | None = None
        for count, (file, frame) in enumerate(planes):
            if file is not current or source is None:
                opened.close()
                current, source = file, opened.enter_context(open_dicom(file.path, limits))
            scan.slope = 1.0 if frame.slope is None else frame.slope
            scan.intercept = frame.intercept or 0.0
            if (scan.slope, scan.intercept) != last:
                last = (scan.slope, scan.intercept)
                scan.describe(*last)
            picture = read_frame(source, pixel_format(source), frame.index)
            update_in_parts(scan, picture)
            if count == len(planes) // 2:
                write_thumbnail(picture, inspection)
    scan.write(facts)
    judge_values(inspection, limits)


def check_scaling(planes: Sequence[Plane], inspection: Inspection) -> None:
    """Judge slope and intercept of one item's frames."""
    modality = planes[0][0].modality
    slopes = [frame.slope for _, frame in planes]
    if 0.0 in slopes:
        rule, found = "RescaleSlope must be a finite number other than 0", f"{slopes.count(0.0)} slices of another"
        inspection.reject("SCALE", rule, found, "export the item again")
        return
    missing = sum(frame.slope is None or frame.intercept is None for _, frame in planes)
    if missing and modality in UNITS:
        found = f"{missing} of {len(planes)} slices without RescaleSlope or RescaleIntercept"
        rule = f"{modality} values should have a rescale to {UNITS[modality]}"
        inspection.warn("SCALE", rule, found, "export the item again, or scale its values as an uncalibrated image")
    elif len({(frame.slope, frame.intercept) for _, frame in planes}) > 1 and modality not in ("PT", "NM"):
        found = "different RescaleSlope or RescaleIntercept from slice to slice"
        inspection.warn("SCALE", "slices should share one rescale", found, "each slice is read with its own; check it")


def check_meaning(files: Sequence[FileRecord], inspection: Inspection) -> None:
    """Judge what is grey in the files, what identifies a patient, and their structure; one finding for all files."""
    photometric = [file.declared.photometric for file in files]
    colour = sum(file.declared.samples == 3 for file in files)
    if colour:
        found = f"RGB or another colour (3 channels) in {colour} of {len(files)} files, often a secondary capture"
        fix = "it is read as luminance, 0.299 R + 0.587 G + 0.114 B; look for burned-in text"
        inspection.warn("DTYPE", "a DICOM image should hold grey values", found, fix)
    if PALETTE in photometric:
        fix = "convert the file; what a reader makes of it depends on the reader"
        inspection.warn("PALETTE", "a DICOM image should hold grey values", "indices into a palette of colours", fix)
    if "MONOCHROME1" in photometric:
        found = f"MONOCHROME1 (inverted: white is lowest) in {photometric.count('MONOCHROME1')} of {len(files)} files"
        fix = "it is turned round when it is read; readers that do not know MONOCHROME1 swap black and white"
        inspection.warn("PHOTOMETRIC", "a DICOM image should be MONOCHROME2", found, fix)
    warn_of_header_identifiers({kind for file in files for kind in file.identifiers}, inspection)
    for finding in dict.fromkeys(finding for file in files for finding in file.findings):
        inspection.findings.append(finding)

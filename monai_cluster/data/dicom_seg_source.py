# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What a DICOM segmentation object says about the series that it belongs to, and no more.

A SEG object repeats who the patient is and to which study the images belong, or no archive could file it: whoever
writes one writes identifiers. Only the tags in ``PATIENT_AND_STUDY`` are repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom

__all__ = ["PATIENT_AND_STUDY", "check_identifiers", "seg_header", "series_number", "source_images"]

# every image must have these, be they empty
REQUIRED = (
    "PatientName",
    "PatientID",
    "PatientBirthDate",
    "PatientSex",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "AccessionNumber",
    "ReferringPhysicianName",
)
PATIENT_AND_STUDY = (
    *REQUIRED,
    "StudyInstanceUID",
    "StudyDescription",
    "IssuerOfPatientID",
    "PatientIdentityRemoved",
    "DeidentificationMethod",
    "DeidentificationMethodCodeSequence",
)
UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns", "SliceThickness")
LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


def seg_header(path: Path) -> Any:
    """The entries of a slice's header that this module uses."""
    tags = [*UIDS, *PLACE, *LOSSY, *PATIENT_AND_STUDY, "SeriesNumber", "Modality", "PositionReferenceIndicator"]
    return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=tags)


def check_identifiers(headers: Sequence[Any]) -> list[str]:
    """Refuse a series that cannot be referred to.

    Returns:
        its frames of reference: one, but several where a de-identification gave each slice another.

    Raises:
        ValueError: if a slice lacks an identifier, or the slices are of several studies or kinds, or a private one.
    """
    lacking = [name for name in UIDS if any(not header.get(name) for header in headers)]
    if lacking:
        raise ValueError(
            f"a DICOM SEG refers to its source by {', '.join(UIDS)}, but slices lack {', '.join(lacking)}: take the "
            "series as the scanner or archive sent it."
        )
    differing = [
        name for name in ("SOPClassUID", "StudyInstanceUID") if len({header[name].value for header in headers}) > 1
    ]
    if differing:
        raise ValueError(
            f"all slices of a series must share {' and '.join(differing)}: put each series into its own folder."
        )
    if pydicom.uid.UID(headers[0].SOPClassUID).is_private:
        raise ValueError(
            "a DICOM SEG refers to images of kinds that DICOM defines, but the series is of a private one "
            "(SOPClassUID): export it as CT, MR or PET images."
        )
    return sorted({str(header.FrameOfReferenceUID) for header in headers})


def series_number(header: Any) -> int:
    """1000 above the source's, so that viewers list the two apart but in the same order."""
    number = header.get("SeriesNumber")
    return 1000 + int(number) if isinstance(number, int) and 0 < number < 10**6 else 1000


def source_images(headers: Sequence[Any]) -> list[Any]:
    """What highdicom needs of each slice: from whole headers it would copy the institution, and odd values stop it.

    Args:
        headers: in the order of the slices.
    """
    first = headers[0]
    found = []
    gap = _spacing(headers)
    thickness = float(first.get("SliceThickness") or 0)
    for header in headers:
        template = pydicom.Dataset()
        for keyword in (*UIDS, *PLACE[:-1], *LOSSY, "Modality"):
            if keyword in header:
                template[keyword] = header[keyword]
        # One for all, and equal to the last digit.
        for keyword in ("FrameOfReferenceUID", "ImageOrientationPatient", "PixelSpacing"):
            template[keyword] = first[keyword]
        template.SliceThickness = thickness if thickness > 0 else gap or 1.0
        if gap:
            template.SpacingBetweenSlices = gap
        for keyword in REQUIRED:
            setattr(template, keyword, None)
        template.PositionReferenceIndicator = header.get("PositionReferenceIndicator")
        found.append(template)
    return found


def _spacing(headers: Sequence[Any]) -> float | None:
    """Distance in mm of neighbours along the normal, where it is the same everywhere."""
    rows, columns = np.array(headers[0].ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    heights = np.array([header.ImagePositionPatient for header in headers], dtype=np.float64) @ np.cross(rows, columns)
    gaps = np.diff(heights)
    if not len(gaps) or np.ptp(gaps) > max(0.01 * float(np.median(gaps)), 0.01):
        return None
    return round(float(gaps.mean()), 9)  # a decimal string has 16 characters

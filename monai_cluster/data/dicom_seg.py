# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Class ids of a DICOM series as a DICOM segmentation object (SEG). Needs the extra ``monai-cluster[dicom]``.

Whoever writes one writes the patient's identifiers, see :mod:`monai_cluster.data.dicom_seg_source`.
"""

from __future__ import annotations

import importlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.sr.coding import Code
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from monai_cluster.integrity.silence import hushed
from monai_cluster.version import __version__

from .dicom import DicomSeriesReader, series_affine
from .dicom_seg_reading import DicomSeg, read_dicom_seg
from .dicom_seg_source import PATIENT_AND_STUDY, check_identifiers, seg_header, series_number, source_images
from .labelled_samples import SAME_GRID_MM

__all__ = ["DicomSeg", "read_dicom_seg", "require_highdicom", "write_dicom_seg"]

TEXT = 64  # characters that DICOM allows in a label
# What a class means is known to its name only: SNOMED CT's most general codes for a part of the body stand beside it.
TISSUE = Code("85756007", "SCT", "Tissue")
GOLDEN_ANGLE = math.pi * (3 - math.sqrt(5))  # hues that stay far apart however many there are


def require_highdicom() -> Any:
    """The optional library that writes DICOM SEG.

    Raises:
        ImportError: with the way to install it.
    """
    try:
        for part in ("content", "color", "seg"):
            importlib.import_module(f"highdicom.{part}")
        return importlib.import_module("highdicom")
    except ImportError as error:
        raise ImportError('DICOM SEG needs highdicom: pip install "monai-cluster[dicom]".') from error


def write_dicom_seg(
    class_ids: Any,
    series_folder: str | Path,
    path: str | Path,
    class_names: Sequence[str],
    affine: Any = None,
    algorithm_name: str = "monai_cluster",
    algorithm_version: str = __version__,
    model_sha256: str | None = None,
) -> Path:
    """Write class ids as one binary SEG object with a segment per class, each frame referring to its source slice.

    Segment numbers are class ids: every class but the background is described, also one without a voxel, which then has
    no frame. Where no class has a voxel, each gets one empty frame at the middle slice, since DICOM wants a frame.

    Args:
        class_ids: ``X Y Z`` on the grid that :class:`~monai_cluster.data.DicomSeriesReader` gives the series.
        series_folder: folder with the one series.
        path: the new file, such as ``liver.dcm``.
        class_names: by class id, background first.
        affine: ``4 4`` of ``class_ids``, index to RAS mm; where given, it must be the series' own.
        algorithm_name: what made the class ids.
        algorithm_version: its version.
        model_sha256: of the model's weights, noted among the algorithm's parameters.

    Returns:
        ``path``.

    Raises:
        ImportError: where the extra is not installed.
        FileExistsError: if the file exists: DICOM objects are never changed, only replaced by others.
        ValueError: for class ids of another grid (shape, or mirrored, shifted or turned by their affine) or beyond the
            classes, names that DICOM cannot hold, a series without the identifiers that a SEG must refer to, and as for
            :class:`~monai_cluster.data.DicomSeriesReader`.
    """
    highdicom = require_highdicom()
    target = Path(path)
    if target.exists():
        raise FileExistsError(f"{target.name} exists: choose another name, or delete it yourself.")
    _check_names(class_names)
    with hushed():  # pydicom and highdicom quote odd values, which may be identifiers
        slices = DicomSeriesReader().read(series_folder)
        headers = [seg_header(file) for file, _ in slices]
        frames_of_reference = check_identifiers(headers)
        ids = _checked(class_ids, len(class_names), (headers[0].Columns, headers[0].Rows, len(headers)))
        _check_affine(affine, series_affine(slices), ids.shape)
        segments = _segments(highdicom, class_names, algorithm_name, algorithm_version, model_sha256)
        seg = _segmentation(highdicom, headers, ids, segments, f"{algorithm_name} segmentation")
        target.parent.mkdir(parents=True, exist_ok=True)
        seg.save_as(target, enforce_file_format=True)
    if len(frames_of_reference) > 1:
        warnings.warn(
            f"{Path(series_folder).name}: {len(headers)} slices name {len(frames_of_reference)} frames of reference "
            "(as some de-identifications leave them); the DICOM SEG names the first slice's, so strict viewers may not "
            "lay one over the other; repair the series if they shall",
            stacklevel=2,
        )
    return target


def _segmentation(highdicom: Any, headers: Sequence[Any], ids: np.ndarray, segments: list[Any], title: str) -> Any:
    """The SEG object of class ids ``X Y Z``."""
    planes, positions = ids.transpose(2, 1, 0), None
    if not ids.any():  # highdicom would write every empty frame of every class
        middle = len(headers) // 2
        planes = planes[middle : middle + 1]
        positions = [highdicom.PlanePositionSequence("PATIENT", list(headers[middle].ImagePositionPatient))]
    seg = highdicom.seg.Segmentation(
        source_images=source_images(headers),
        pixel_array=np.ascontiguousarray(planes),
        segmentation_type="BINARY",
        segment_descriptions=segments,
        series_instance_uid=generate_uid(),
        series_number=series_number(headers[0]),
        series_description=title[:TEXT],
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="monai_cluster authors",
        manufacturer_model_name="monai_cluster",
        software_versions=__version__,
        device_serial_number="0",  # required, but software has none
        content_label="SEGMENTATION",
        plane_positions=positions,
        omit_empty_frames=True,
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    seg.SpecificCharacterSet = "ISO_IR 192"  # UTF-8 holds the source's names and those of the classes
    for keyword in PATIENT_AND_STUDY:
        if keyword in headers[0]:
            seg[keyword] = headers[0][keyword]
    return seg


def _check_names(class_names: Sequence[str]) -> None:
    if len(class_names) < 2:
        raise ValueError(f"class names must be the background's and at least one more, got {len(class_names)}")
    wrong = [name for name in class_names[1:] if not 0 < len(name) <= TEXT or "\\" in name or not name.isprintable()]
    if wrong:
        raise ValueError(
            f"DICOM labels must have 1 to {TEXT} printable characters and no backslash, got {wrong[0]!r}: shorten or "
            "rename the class."
        )


def _checked(class_ids: Any, num_classes: int, shape: tuple[int, ...]) -> np.ndarray:
    """``X Y Z`` as uint8 or uint16."""
    given = np.asarray(class_ids)
    if given.shape != shape:
        raise ValueError(
            f"class ids must lie on the series' grid of {shape} (columns, rows, slices), got {given.shape}: bring them "
            "there first, see to_source_grid."
        )
    ids = given.astype(np.uint8 if num_classes <= 256 else np.uint16)
    if not np.array_equal(ids, given) or ids.max() >= num_classes:
        raise ValueError(
            f"class ids must be whole numbers in 0..{num_classes - 1}, one per class name with the background first, "
            f"got values in {given.min()}..{given.max()}."
        )
    return ids


def _check_affine(affine: Any, grid: np.ndarray, shape: tuple[int, ...]) -> None:
    if affine is None:
        return
    corners = np.stack(np.meshgrid(*[(0, length - 1) for length in shape], [1], indexing="ij")).reshape(4, -1)
    apart = np.linalg.norm(((np.asarray(affine, dtype=np.float64) - grid) @ corners)[:3], axis=0).max()
    if not apart <= SAME_GRID_MM:
        raise ValueError(
            f"class ids must lie on the series' grid, but their corners are up to {apart:.2f} mm from its corners "
            "(mirrored, shifted, turned or of other spacing): bring them there first, see to_source_grid."
        )


def _segments(
    highdicom: Any, class_names: Sequence[str], name: str, version: str, model_sha256: str | None
) -> list[Any]:
    algorithm = highdicom.AlgorithmIdentificationSequence(
        name=name,
        family=Code("123110", "DCM", "Artificial Intelligence"),
        version=version,
        parameters={"model_sha256": model_sha256} if model_sha256 else None,
    )
    hues = [number * GOLDEN_ANGLE for number in range(len(class_names))]
    return [
        highdicom.seg.SegmentDescription(
            segment_number=number,
            segment_label=class_names[number],
            segmented_property_category=TISSUE,
            segmented_property_type=TISSUE,
            algorithm_type="AUTOMATIC",
            algorithm_identification=algorithm,
            display_color=highdicom.color.CIELabColor(65.0, 60 * math.cos(hues[number]), 60 * math.sin(hues[number])),
        )
        for number in range(1, len(class_names))
    ]

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""DICOM: one series of slices as a volume with checked geometry, or one file as a 2D image.

Headers come from pydicom, pixels from SimpleITK (which decompresses JPEG and RLE, and applies each slice's own rescale
slope, as PET needs). MONAI's pydicom reader was not taken because a missing slice passes it without a word.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import SimpleITK as sitk
from monai.data import ImageReader

__all__ = [
    "DicomSeriesReader",
    "dicom_header",
    "is_dicom",
    "is_image_storage",
    "read_dicom_image",
    "series_affine",
    "slice_affine",
]

HEADER_TAGS = [
    "SOPClassUID",
    "Modality",
    "SeriesInstanceUID",
    "SeriesNumber",
    "ImagePositionPatient",
    "ImageOrientationPatient",
    "PixelSpacing",
    "ImagerPixelSpacing",
    "Rows",
    "Columns",
    "NumberOfFrames",
]
NOT_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "SR", "PR", "KO", "REG", "DOC")
LUMINANCE = np.array([0.299, 0.587, 0.114], dtype=np.float32)  # ITU-R BT.601


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM, by suffix or by the mark after its preamble."""
    if path.suffix.lower() in (".dcm", ".ima"):
        return True
    if path.suffix and not path.suffix[1:].isdigit():
        return False
    try:
        with path.open("rb") as file:
            return file.read(132)[128:] == b"DICM"
    except OSError:
        return False


def dicom_header(path: Path) -> Any:
    """The few header entries the package uses, or None where the file is not DICOM."""
    try:
        return pydicom.dcmread(path, stop_before_pixels=True, specific_tags=HEADER_TAGS)
    except pydicom.errors.InvalidDicomError:
        return None


def is_image_storage(header: Any) -> bool:
    """Whether a header belongs to pixels of a patient, not to a segmentation, a report or a plan."""
    return "Rows" in header and header.get("Modality", "") not in NOT_IMAGES


class DicomSeriesReader(ImageReader):
    """MONAI reader of a folder with one DICOM series: array in x, y, z order, affine in RAS millimetres.

    Slices are ordered by their position along the normal. A missing slice, uneven spacing and a tilted gantry are
    warned about; the spacing is then the median distance of neighbours.

    Raises:
        ValueError: for several series in the folder, no image slices, slices without geometry, of different size or
            orientation, at the same position, or multi-frame files.
    """

    def verify_suffix(self, filename: Sequence[Any] | Any) -> bool:
        """Whether this is a folder."""
        return _folder(filename) is not None

    def read(self, data: Any, **kwargs: Any) -> Any:
        """Headers of the series in order, each with its path: ``[(path, header), ...]``."""
        folder = _folder(data)
        if folder is None:
            raise ValueError(f"a DICOM series must be one existing folder, got {data}; give the folder of its files")
        found = [
            (path, dicom_header(path)) for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."
        ]
        slices = [(path, header) for path, header in found if header is not None and is_image_storage(header)]
        if not slices:
            raise ValueError(f"a volume folder must hold DICOM images, got none in {folder.name}; check the path")
        _one_series(slices, folder.name)
        _same_geometry(slices, folder.name)
        normal = _normal(slices[0][1])
        return sorted(slices, key=lambda item: float(_position(item[1]) @ normal))

    def get_data(self, img: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Array ``X Y Z`` in rescaled units (HU for CT), and affine and modality."""
        affine = series_affine(img)
        array = np.stack([_pixels(path) for path, _ in img]).transpose(2, 1, 0)
        return array, {
            "affine": affine,
            "spatial_shape": np.array(array.shape),
            "original_channel_dim": float("nan"),
            "modality": str(img[0][1].get("Modality", "")),
        }


def series_affine(slices: Sequence[tuple[Path, Any]]) -> np.ndarray:
    """Affine ``4 4``, from an index on the grid ``X Y Z`` of a series to RAS millimetres.

    Args:
        slices: path and header of each, as :meth:`DicomSeriesReader.read` orders them.
    """
    first = slices[0][1]
    positions = np.stack([_position(header) for _, header in slices])
    step = _slice_step(positions, _normal(first), slices[0][0].parent.name)
    return slice_affine(first.ImageOrientationPatient, first.PixelSpacing, step, positions[0])


def slice_affine(orientation: Any, spacing: Any, step: np.ndarray, origin: np.ndarray) -> np.ndarray:
    """Affine ``4 4``, index ``X Y Z`` to RAS mm, of stacked slices.

    Args:
        orientation: directions of a row and of a column, six numbers (ImageOrientationPatient).
        spacing: mm between rows and between columns (PixelSpacing).
        step: mm from one slice to the next, LPS.
        origin: mm of the first pixel of the first slice, LPS.
    """
    rows, columns = np.array(orientation, dtype=np.float64).reshape(2, 3)
    between_rows, between_columns = (float(value) for value in spacing)
    affine = np.eye(4)
    affine[:3, :3] = np.stack([rows * between_columns, columns * between_rows, step], axis=1)
    affine[:3, 3] = origin
    affine[:2] *= -1  # LPS to RAS
    return affine


def _folder(name: Sequence[Any] | Any) -> Path | None:
    """The folder that MONAI's loader names, alone or as the only entry of a tuple."""
    names = [name] if isinstance(name, (str, Path)) else list(name)
    return Path(names[0]) if len(names) == 1 and Path(names[0]).is_dir() else None


def read_dicom_image(path: Path) -> tuple[np.ndarray, dict[str, Any]]:
    """Read one single-frame DICOM file as an image ``H W``, top row first, in rescaled units.

    Raises:
        ValueError: for a file without pixels or with several frames.
    """
    header = dicom_header(path)
    if header is None or not is_image_storage(header):
        raise ValueError(f"a DICOM image must hold pixels of a patient, got {path.name}; take it off the list")
    _single_frame(header, path.name)
    spacing = header.get("PixelSpacing") or header.get("ImagerPixelSpacing") or (1.0, 1.0)
    rows, columns = float(spacing[0]), float(spacing[1])
    affine = np.array([[0.0, -columns, 0, 0], [-rows, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    return _pixels(path), {"affine": affine, "modality": str(header.get("Modality", ""))}


def _pixels(path: Path) -> np.ndarray:
    """Rescaled pixels ``rows columns`` of one file; SimpleITK turns MONOCHROME1 round, so that bone is bright."""
    image = sitk.ReadImage(str(path))
    array: np.ndarray = sitk.GetArrayFromImage(image).astype(np.float32)
    if image.GetNumberOfComponentsPerPixel() == 3:
        array = array @ LUMINANCE
    return array.reshape(array.shape[-2:])


def _single_frame(header: Any, name: str) -> None:
    if int(header.get("NumberOfFrames", 1) or 1) > 1:
        raise ValueError(
            f"DICOM files must hold one frame each, got {header.NumberOfFrames} in {name}; "
            "convert multi-frame DICOM to NIfTI first (dcm2niix)"
        )


def _one_series(slices: Sequence[tuple[Path, Any]], folder: str) -> None:
    series: dict[str, list[Any]] = {}
    for _, header in slices:
        series.setdefault(str(header.get("SeriesInstanceUID", "")), []).append(header)
    if len(series) > 1:
        listed = sorted(
            f"series number {group[0].get('SeriesNumber', 'unknown')} "
            f"({group[0].get('Modality', 'modality unknown')}, {len(group)} files)"
            for group in series.values()
        )
        raise ValueError(
            f"a volume folder must hold one DICOM series, got {len(series)} in {folder}: {'; '.join(listed)}; "
            "put each series into its own folder"
        )


def _same_geometry(slices: Sequence[tuple[Path, Any]], folder: str) -> None:
    for path, header in slices:
        _single_frame(header, path.name)
        missing = [
            tag for tag in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing") if not header.get(tag)
        ]
        if missing:
            raise ValueError(
                f"slices of a volume need {', '.join(missing)}, missing in {path.name} of {folder}; "
                "list 2D files (X-ray, ultrasound) one by one under images"
            )
    first = slices[0][1]
    for path, header in slices[1:]:
        same_size = (header.Rows, header.Columns) == (first.Rows, first.Columns)
        turned = np.abs(np.subtract(header.ImageOrientationPatient, first.ImageOrientationPatient)).max() > 1e-3
        if not same_size or turned or not np.allclose(header.PixelSpacing, first.PixelSpacing, rtol=1e-3):
            raise ValueError(
                f"all slices of a series must have one size, orientation and pixel spacing, but "
                f"{path.name} of {folder} "
                "differs from the first; take the localiser out, or split the series"
            )


def _position(header: Any) -> np.ndarray:
    position: np.ndarray = np.array(header.ImagePositionPatient, dtype=np.float64)
    return position


def _normal(header: Any) -> np.ndarray:
    rows, columns = np.array(header.ImageOrientationPatient, dtype=np.float64).reshape(2, 3)
    normal: np.ndarray = np.cross(rows, columns)
    return normal


def _slice_step(positions: np.ndarray, normal: np.ndarray, folder: str) -> np.ndarray:
    """Vector in mm (LPS) from one slice to the next, with warnings where it is not the same everywhere."""
    if len(positions) == 1:
        return normal
    gaps = np.diff(positions @ normal)
    typical = float(np.median(gaps))
    if gaps.min() < 1e-3 * max(typical, 1.0):
        raise ValueError(
            f"slices of a series must lie at different positions, but {int((gaps < 1e-3).sum()) + 1} of "
            f"{folder} share one "
            "(several time points, echoes or copies); put each into its own folder"
        )
    missing = int(np.round(gaps / typical - 1).clip(min=0).sum())
    if missing:
        where = ", ".join(str(i) for i in np.flatnonzero(gaps > 1.5 * typical)[:5])
        warnings.warn(
            f"{folder}: about {missing} slices are missing (after slice {where}); spacing {typical:g} mm is kept and "
            "positions after the gap are too small; find the missing files",
            stacklevel=4,
        )
    elif np.abs(gaps - typical).max() > max(0.01 * typical, 0.01):
        warnings.warn(
            f"{folder}: slice spacing is not uniform ({gaps.min():.3g} to {gaps.max():.3g} mm); "
            f"{typical:g} mm is used; resample the series if positions matter",
            stacklevel=4,
        )
    path = positions[-1] - positions[0]
    tilt = np.degrees(np.arccos(np.clip(path @ normal / np.linalg.norm(path), -1, 1)))
    if tilt > 0.5:
        warnings.warn(
            f"{folder}: slices are sheared by {tilt:.1f} degrees (tilted gantry); the affine has this shear; "
            "resample the series if in-plane positions matter",
            stacklevel=4,
        )
    step: np.ndarray = path / (path @ normal) * typical
    return step

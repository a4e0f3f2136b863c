# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""DICOM segmentation objects (SEG), ours and others', as class ids on the grid of the images they belong to."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pydicom
from pydicom.pixels import iter_pixels

from monai_cluster.integrity.silence import hushed

from .dicom_seg_frames import Frame, frame_grid, frames_of, series_grid, slices_of

__all__ = ["DicomSeg", "read_dicom_seg"]

SEGMENTATION, LABEL_MAP = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.66.7"
NEEDED = ("Rows", "Columns", "NumberOfFrames", "SegmentSequence", "PixelData")


class DicomSeg(NamedTuple):
    """What a SEG object says.

    Attributes:
        values: class ids ``X Y Z`` (segment numbers, 0 elsewhere), or one mask per segment, bool ``K X Y Z`` in the
            order of ``names``.
        affine: ``4 4``, index to RAS mm.
        names: labels by segment number, ascending.
    """

    values: np.ndarray
    affine: np.ndarray
    names: dict[int, str]


def read_dicom_seg(path: str | Path, series_folder: str | Path | None = None, masks: bool = False) -> DicomSeg:
    """Read a SEG object, whichever software wrote it. Needs no extra.

    Each frame is put where its own position says. Binary objects and label maps are read, and fractional objects that
    hold nothing but nothing and everything.

    Args:
        path: of the object.
        series_folder: folder with the series that was segmented: the result then lies on its grid, as
            :class:`~monai_cluster.data.DicomSeriesReader` reads it. Without it, on the smallest grid with a slice for
            each frame.
        masks: one mask per segment, instead of class ids.

    Raises:
        ValueError: if the file is no SEG object, or does not say what its frames are; if segments overlap and ``masks``
            is off; if frames lie in another frame of reference, on another grid or at other places than the series'
            slices, or at another slice than they refer to.
    """
    with hushed():  # pydicom quotes odd values, which may be identifiers
        seg = _read(Path(path))
        names = _names(seg)
        frames = frames_of(seg)
        grid = frame_grid(seg, frames) if series_folder is None else series_grid(seg, series_folder)
        parts = _parts(seg, frames, slices_of(frames, grid), list(names))
        values = (_masks if masks else _class_ids)(parts, list(names), grid.shape)
    return DicomSeg(values, grid.affine, names)


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        try:
            seg = pydicom.dcmread(file)
            kind, modality = seg.get("SOPClassUID"), seg.get("Modality", "unknown")
            missing = [name for name in NEEDED if not seg.get(name)]
        except pydicom.errors.InvalidDicomError as error:
            raise ValueError(f"a DICOM SEG must be a DICOM file, {path.name} is none; choose another file") from error
        except (OSError, EOFError, NotImplementedError) as error:
            raise ValueError(f"{path.name} is truncated or damaged ({type(error).__name__}); copy it again") from error
    if kind not in (SEGMENTATION, LABEL_MAP):
        raise ValueError(
            f"a DICOM SEG must be a segmentation object, {path.name} is of modality {modality}; choose another file"
        )
    if missing:
        raise ValueError(f"a DICOM SEG must have {', '.join(missing)}, missing in {path.name}; write the object again")
    return seg


def _names(seg: Any) -> dict[int, str]:
    """Labels by segment number; label maps may describe their background too."""
    labels = {int(item.SegmentNumber): str(item.get("SegmentLabel", "")) for item in seg.SegmentSequence}
    return {number: labels[number] for number in sorted(labels) if number > 0}


def _parts(
    seg: Any, frames: Sequence[Frame], places: Sequence[int], numbers: Sequence[int]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Segment number, slice and mask ``Y X`` of every frame; in label maps, of every class in it."""
    kind = str(seg.get("SegmentationType", ""))
    whole = int(seg.get("MaximumFractionalValue") or 1) if kind == "FRACTIONAL" else 1
    background = int(seg.get("PixelPaddingValue") or 0)
    if len({(frame.segment, place) for frame, place in zip(frames, places, strict=True)}) < len(frames):
        raise ValueError(
            "a DICOM SEG must have one frame per segment and place, got several (tiles or time points): split it "
            "where it was made."
        )
    for frame, place, plane in zip(frames, places, _planes(seg), strict=True):
        if kind == "LABELMAP":
            inside = [int(id_) for id_ in np.unique(plane) if id_ not in (0, background)]
        else:
            inside = [frame.segment]
        if not set(inside) <= set(numbers):
            raise ValueError(
                f"frames belong to segments {sorted(set(inside) - set(numbers))}, which nothing describes; write the "
                "object again"
            )
        if kind == "LABELMAP":
            yield from ((number, place, plane == number) for number in inside)
            continue
        if kind != "BINARY" and not np.isin(plane, (0, whole)).all():
            raise ValueError(
                f"a DICOM SEG must say of every voxel whether it belongs to a segment, got {kind.lower()} values "
                f"between 0 and {whole}: give them a threshold where they were made."
            )
        yield frame.segment, place, plane > 0


def _planes(seg: Any) -> Iterator[np.ndarray]:
    """Pixels ``rows columns`` of each frame."""
    if int(seg.BitsAllocated) != 1 or seg.file_meta.TransferSyntaxUID.is_compressed:
        yield from iter_pixels(seg)
        return
    # pydicom 3.0 miscounts frames that begin within a byte, unless it unpacks all at once, eight times the size.
    size, packed = int(seg.Rows) * int(seg.Columns), np.frombuffer(seg.PixelData, dtype=np.uint8)
    if 8 * len(packed) < size * int(seg.NumberOfFrames):
        raise ValueError(
            f"pixels of {seg.NumberOfFrames} frames are wanted, got {8 * len(packed) // size}: the file is truncated; "
            "copy it again"
        )
    for first in range(0, size * int(seg.NumberOfFrames), size):
        bits = np.unpackbits(packed[first // 8 : (first + size + 7) // 8], bitorder="little")
        yield bits[first % 8 : first % 8 + size].reshape(int(seg.Rows), int(seg.Columns))


def _masks(parts: Iterable[tuple[int, int, np.ndarray]], numbers: list[int], shape: Sequence[int]) -> np.ndarray:
    """``K X Y Z``."""
    values = np.zeros((len(numbers), *shape[::-1]), dtype=bool)
    for number, place, mask in parts:
        values[numbers.index(number), place] = mask
    masks: np.ndarray = values.transpose(0, 3, 2, 1)
    return masks


def _class_ids(parts: Iterable[tuple[int, int, np.ndarray]], numbers: list[int], shape: Sequence[int]) -> np.ndarray:
    """``X Y Z``."""
    values = np.zeros(shape[::-1], dtype=np.uint8 if max(numbers) < 256 else np.uint16)
    shared: Counter[tuple[int, int]] = Counter()
    for number, place, mask in parts:
        taken = values[place][mask]
        if taken.any():
            shared.update({(int(other), number): int((taken == other).sum()) for other in np.unique(taken[taken > 0])})
        values[place][mask] = number
    if shared:
        (one, other), count = shared.most_common(1)[0]
        raise ValueError(
            f"class ids cannot hold segments that overlap, but {len(shared)} pairs do, such as {min(one, other)} and "
            f"{max(one, other)} in {count} voxels: read one mask per segment (masks=True)."
        )
    class_ids: np.ndarray = values.transpose(2, 1, 0)
    return class_ids

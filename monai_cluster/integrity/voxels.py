# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What files of voxels share, NIfTI, MetaImage or NRRD: which axes they may have, and one pass over their values."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np

from .byte_stream import refuse
from .findings import Inspection
from .limits import Limits
from .values import ValueScan, judge_values, picture_hash, thumbnail

__all__ = ["VoxelGrid", "check_size", "check_trailing", "scan_voxels", "spatial_axes", "upright_plane"]

Read = Callable[[int], bytes]

PART = 1 << 20  # values that are scaled to float64 at a time
LONGEST_SIDE = 1024  # px of the plane that a thumbnail is made of
MAX_TRAILING = 1 << 26  # bytes after the data that are counted
FLOAT32_INTEGERS = 1 << 24  # from here on float32 leaves integers out
# axis codes (row, column, slice) in which a plane looks upright on a screen, by the axis that it cuts
UPRIGHT = {0: "IPR", 1: "ILA", 2: "PLS"}


@dataclass(frozen=True)
class VoxelGrid:
    """How a file stores its values.

    Attributes:
        shape: two or three axes, the fastest first.
        dtype: stored type with byte order.
        slope: multiplies stored values.
        intercept: is added after that.
    """

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    slope: float = 1.0
    intercept: float = 0.0

    @property
    def num_bytes(self) -> int:
        """Decoded size."""
        return math.prod(self.shape) * self.dtype.itemsize


def spatial_axes(
    dims: Sequence[int], kind: str | None, inspection: Inspection, limits: Limits
) -> tuple[str, tuple[int, ...]]:
    """Kind and spatial shape of a file with axes of length ``dims``; trailing axes of length one are dropped.

    Raises:
        InputRefusedError: HEADER for negative and EMPTY for zero lengths, TOO_SMALL, NDIM for other numbers of axes
            than ``kind`` means, or than two or three.
    """
    listed = " × ".join(str(side) for side in dims)
    if min(dims, default=0) < 0:
        raise refuse(
            "HEADER", "a shape must be positive", f"a negative size (dim) in {listed}", "export the item again"
        )
    if 0 in dims or not dims:
        raise refuse("EMPTY", "a shape must be positive", f"{listed}: an axis of length zero (dim)", "export it again")
    if max(dims) < limits.min_side:
        rule = f"the two longest sides need at least {limits.min_side} voxels"
        raise refuse("TOO_SMALL", rule, f"a shape of {listed}, too small", "take it off the list")
    shape = tuple(dims)
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    inspection.facts.shape = shape
    rule = {"volume": "a volume must have three axes", "image": "an image must have two axes"}.get(
        kind or "", "an item must have two or three spatial axes"
    )
    if not 2 <= len(shape) <= 3:
        raise refuse("NDIM", rule, f"a shape of {listed}, {_meaning(shape)}", "save the volume that is meant alone")
    found = "image" if len(shape) == 2 else "volume"
    if kind not in (None, found):
        wanted = {"image": "a 2D image, one slice", "volume": "a 3D volume"}[found]
        raise refuse("NDIM", rule, f"a shape of {listed}, {wanted}", f"list it under {found}s")
    if len(dims) > 3:
        fix = "some readers take the last axis for time or channels; save the item without it"
        found_axes = f"a {len(dims)}D shape of {listed}, with a trailing axis of length one (singleton)"
        inspection.warn("NDIM", rule, found_axes, fix)
    elif kind is None and len(shape) < len(dims):
        fix = "it is taken as an image; list it under images"
        inspection.warn("NDIM", "a volume should have several slices", f"{listed}: a 2D image of one slice", fix)
    return found, shape


def _meaning(shape: tuple[int, ...]) -> str:
    if len(shape) < 2:
        return "one axis (1D)"
    if len(shape) == 4:
        return f"4D: {shape[3]} frames of a time series, or channels"
    return f"{len(shape)}D: a vector field, or several time series"


def check_size(grid: VoxelGrid, limits: Limits) -> None:
    """Refuse a declared size above the limits.

    Raises:
        InputRefusedError: TOO_LARGE.
    """
    listed, fix = " × ".join(str(side) for side in grid.shape), "raise the limit if the item is really so large"
    if grid.num_bytes > limits.max_decoded_bytes:
        rule = f"a volume's decoded size must not exceed {limits.max_decoded_bytes / 2**30:.3g} GiB"
        raise refuse("TOO_LARGE", rule, f"{listed} values of {grid.dtype.itemsize} bytes: too large", fix)
    if len(grid.shape) == 2 and math.prod(grid.shape) > limits.max_picture_pixels:
        rule = f"an image must not exceed {limits.max_picture_pixels} pixels"
        raise refuse("TOO_LARGE", rule, f"{listed} pixels: too large", fix)


def scan_voxels(read: Read, grid: VoxelGrid, inspection: Inspection, limits: Limits, scan: ValueScan | None) -> None:
    """Read all values, write the facts about them and judge them.

    Args:
        read: gives up to so many bytes, fewer only at the end.
        grid: how the values are stored.
        inspection: with shape, and affine where it is known.
        limits: what is judged by.
        scan: takes the values in the place of a scan of grey values, and is then not judged here.

    Raises:
        InputRefusedError: TRUNCATED, and what ``read`` raises.
    """
    facts, judged = inspection.facts, scan is None
    scan = scan or ValueScan()
    scan.slope, scan.intercept = grid.slope, grid.intercept
    facts.dtype = grid.dtype.name
    scan.describe(grid.shape, grid.dtype.name)
    scan.describe(grid.slope, grid.intercept)
    plane, start, total = _Plane(grid), 0, math.prod(grid.shape)
    while start < total:
        want = min(PART, total - start) * grid.dtype.itemsize
        part = read(want)
        if len(part) < want:
            found = f"{start * grid.dtype.itemsize + len(part)} bytes of voxels where {grid.num_bytes} are expected"
            rule, fix = "a file must hold all values that its header states", "copy it again and compare checksums"
            raise refuse("TRUNCATED", rule, f"{found} (truncated)", fix)
        values = np.frombuffer(part, dtype=grid.dtype)
        scan.update(values)
        plane.take(values, start)
        start += values.size
    scan.write(facts)
    facts.thumbnail = thumbnail(upright_plane(plane.picture(), facts.affine))
    facts.picture_hash = picture_hash(facts.thumbnail)
    if judged:
        judge_values(inspection, limits)
        _check_precision(grid, inspection, limits)


class _Plane:
    """Collects the middle plane along the last axis from values that arrive in parts, thinned out where it is large."""

    def __init__(self, grid: VoxelGrid) -> None:
        self._grid, (columns, rows) = grid, grid.shape[:2]
        every = max(1, -(-max(columns, rows) // LONGEST_SIDE))
        first = grid.shape[2] // 2 * columns * rows if len(grid.shape) == 3 else 0
        wanted = first + np.arange(0, rows, every)[:, None] * columns + np.arange(0, columns, every)
        self._shape, self._wanted = wanted.shape, wanted.reshape(-1)
        self._values = np.zeros(wanted.size, dtype=np.float64)

    def take(self, values: np.ndarray, start: int) -> None:
        low, high = np.searchsorted(self._wanted, (start, start + values.size))
        self._values[low:high] = values[self._wanted[low:high] - start]

    def picture(self) -> np.ndarray:
        """Scaled values ``X Y``."""
        scaled = self._values * self._grid.slope + self._grid.intercept
        plane: np.ndarray = scaled.reshape(self._shape).T
        return plane


def upright_plane(plane: np.ndarray, affine: Sequence[Sequence[float]] | None) -> np.ndarray:
    """``H W`` of a plane ``X Y`` with the head or the front on top, as far as ``affine`` knows them.

    Pictures of one patient from DICOM and from NIfTI then look alike, and so do their hashes.
    """
    now = None if affine is None else nib.orientations.io_orientation(np.asarray(affine))
    if now is None or np.isnan(now).any():
        turned: np.ndarray = plane.T
        return turned
    codes = nib.orientations.axcodes2ornt(tuple(UPRIGHT[int(now[2, 0])]))
    turn = nib.orientations.ornt_transform(now, codes)
    turned = nib.orientations.apply_orientation(plane[..., None], turn)[..., 0]
    return turned


def _check_precision(grid: VoxelGrid, inspection: Inspection, limits: Limits) -> None:
    low, high = inspection.facts.minimum, inspection.facts.maximum
    if low is None or high is None or grid.dtype.kind not in "iu" or max(-low, high) > limits.max_magnitude:
        return
    if grid.slope == 1 and max(-low, high) > FLOAT32_INTEGERS:
        rule = f"integers should stay below {FLOAT32_INTEGERS:.3g}, up to which float32 holds them exactly"
        found = f"a range of {low:.4g} to {high:.4g} of dtype {grid.dtype.name}"
        inspection.warn("RANGE", rule, found, "look for a wrong dtype or byte order, or rescale it")


def check_trailing(read: Read, grid: VoxelGrid, inspection: Inspection) -> None:
    """Read what comes after the values, to the end, and judge it.

    Args:
        read: gives up to so many bytes, fewer only at the end.
        grid: how the values are stored.
        inspection: takes the finding.
    """
    count = 0
    while count <= MAX_TRAILING and (part := len(read(PART))):
        count += part
    if not count:
        return
    plane = grid.num_bytes // grid.shape[-1]
    many = "more than " if count > MAX_TRAILING else ""
    found = f"{many}{count} trailing bytes after the voxels"
    rule = "a file must end with the voxels that its header states"
    if count >= plane:
        fix = "the header states too few voxels, or the file hides something; export it again"
        inspection.reject("TRAILING", rule, f"{found}, enough for {count // plane} more slices (or rows)", fix)
    else:
        inspection.warn("TRAILING", rule, found, "they are not read; export the item again")

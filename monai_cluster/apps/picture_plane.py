# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One slice of a scan as a radiologist expects it: which way up, how many millimetres, which side is which."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["ViewingPlane", "add_letters", "add_scale_bar", "viewing_plane"]

Array = npt.NDArray[Any]
# What the reader of PNG, JPEG, TIFF and BMP says for lack of knowledge: no side of such a picture may get a letter.
PICTURE_AFFINE = np.array([[0.0, -1, 0, 0], [-1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
ALIKE = 0.9  # of the longest voxel side: as good as equal
OBLIQUE = math.sin(math.radians(20))  # from here on an axis is named by two letters
BAR_LENGTHS = (1, 2, 5, 10, 20, 50, 100, 200)


class ViewingPlane(NamedTuple):
    """How a slice is shown.

    Attributes:
        axes: array axes that run down and to the right.
        flips: whether each of them is mirrored.
        lengths: voxels of each of them.
        slice_axis: the array axis across the slices; None for a picture.
        spacing: millimetres down and to the right; None where nothing is known.
        letters: patient's sides at the left, right, top and bottom; empty where nothing is known.
    """

    axes: tuple[int, int]
    flips: tuple[bool, bool]
    lengths: tuple[int, int]
    slice_axis: int | None
    spacing: tuple[float, float] | None
    letters: tuple[str, ...]

    @property
    def aspect(self) -> float:
        """Height of a voxel on the screen over its width."""
        return 1.0 if self.spacing is None else self.spacing[0] / self.spacing[1]

    def picture(self, array: Array, place: int | None = None) -> Array:
        """The slice ``rows columns`` as shown, of an array ``H W`` or ``H W S``."""
        flat = array if self.slice_axis is None or place is None else np.take(array, place, axis=self.slice_axis)
        turned = flat if self.axes[0] < self.axes[1] else flat.T
        for axis, mirrored in enumerate(self.flips):
            turned = np.flip(turned, axis) if mirrored else turned
        return turned

    def rectangle(self, box: Array) -> tuple[float, float, float, float]:
        """Top, bottom, left and right on the screen, in voxel edges, of a half-open box ``2d`` in array axes."""
        dims, ends = len(box) // 2, []
        for axis, mirrored, length in zip(self.axes, self.flips, self.lengths, strict=True):
            low, high = float(box[axis]), float(box[axis + dims])
            ends += [length - high, length - low] if mirrored else [low, high]
        return ends[0], ends[1], ends[2], ends[3]


def viewing_plane(shape: Sequence[int], affine: Any = None) -> ViewingPlane:
    """Choose the plane of the finest voxels and turn it upright by the affine.

    Slices run along an axis of length 1, else along the axis of the longest voxels, the last one of those that differ
    by less than a tenth. Axial slices are shown with the front on top, others with the head; the patient's right, or in
    sagittal slices the front, is on the left. Pictures ``H W`` stay as they are, first row on top.

    Args:
        shape: of the array, ``H W`` or ``H W S``.
        affine: ``4 4``, index to RAS millimetres; None where it is not known.

    Raises:
        ValueError: for arrays of other dimensions.
    """
    if len(shape) not in (2, 3):
        raise ValueError(f"pictures show arrays H W or H W S, got shape {tuple(shape)}: choose one channel.")
    matrix = np.eye(4) if affine is None else np.asarray(affine, np.float64)
    if affine is None or (len(shape) == 2 and np.allclose(matrix, PICTURE_AFFINE)):
        axes, slice_axis = (0, 1), None if len(shape) == 2 else 2
        return ViewingPlane(axes, (False, False), (int(shape[0]), int(shape[1])), slice_axis, None, ())
    steps = np.linalg.norm(matrix[:3, :3], axis=0)
    world = _world_axes(matrix)
    if len(shape) == 2:
        axes, slice_axis, flips = (0, 1), None, (False, False)
    else:
        single = np.asarray(shape) == 1
        slice_axis = int(np.flatnonzero(single if single.any() else steps >= ALIKE * steps.max())[-1])
        axes = tuple(sorted((axis for axis in range(3) if axis != slice_axis), key=lambda axis: -world[axis]))  # type: ignore[assignment]
        # Down the screen: to the back or the feet. To the right: to the patient's left, or to the back.
        flips = (matrix[world[axes[0]], axes[0]] > 0, matrix[world[axes[1]], axes[1]] > 0)
    down, right = (matrix[:3, axis] * (-1 if flip else 1) for axis, flip in zip(axes, flips, strict=True))
    letters = (_letters(-right), _letters(right), _letters(-down), _letters(down))
    spacing = (float(steps[axes[0]]), float(steps[axes[1]]))
    return ViewingPlane(
        axes, (bool(flips[0]), bool(flips[1])), (int(shape[axes[0]]), int(shape[axes[1]])), slice_axis, spacing, letters
    )


def _world_axes(matrix: Array) -> list[int]:
    """World axis (R, A, S) that each array axis follows."""
    import nibabel as nib

    return [int(axis) for axis in nib.orientations.io_orientation(matrix)[:, 0]]


def _letters(direction: Array) -> str:
    """Where a direction points to: the nearest of R L A P S I, and the second where it is oblique."""
    unit = direction / np.linalg.norm(direction)
    order = np.argsort(-np.abs(unit), kind="stable")[:2]
    names = [("RL", "AP", "SI")[axis][int(unit[axis] < 0)] for axis in order]
    return names[0] + (names[1] if abs(unit[order[1]]) > OBLIQUE else "")


def add_letters(axes: Any, plane: ViewingPlane) -> None:
    """Write the patient's sides at the borders of drawn axes."""
    places = ((0.015, 0.5, "left", "center"), (0.985, 0.5, "right", "center"), (0.5, 0.985, "center", "top"))
    for letter, (x, y, across, upright) in zip(
        plane.letters, (*places, (0.5, 0.015, "center", "bottom")), strict=False
    ):
        _outlined(axes.text(x, y, letter, transform=axes.transAxes, ha=across, va=upright, color="white", fontsize=9))


def add_scale_bar(axes: Any, plane: ViewingPlane) -> None:
    """Draw a bar of round millimetres, about a fifth of the width of the view, at the lower left."""
    if plane.spacing is None:
        return
    left, right = axes.get_xlim()
    wished = abs(right - left) * plane.spacing[1] / 5
    length = max((item for item in BAR_LENGTHS if item <= wished), default=BAR_LENGTHS[0])
    share = length / plane.spacing[1] / abs(right - left)
    (bar,) = axes.plot([0.04, 0.04 + share], [0.05, 0.05], transform=axes.transAxes, color="white", linewidth=2.5)
    bar.set_solid_capstyle("butt")
    _outlined(bar, 4.5)
    _outlined(
        axes.text(
            0.04, 0.065, f"{length} mm", transform=axes.transAxes, ha="left", va="bottom", color="white", fontsize=8
        )
    )


def _outlined(artist: Any, width: float = 2.0) -> None:
    from matplotlib.patheffects import withStroke

    artist.set_path_effects([withStroke(linewidth=width, foreground="black")])

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Whether a matrix from voxels to millimetres can be one: finite, invertible, orthogonal, of plausible voxel size."""

from __future__ import annotations

from collections.abc import Sequence

import nibabel as nib
import numpy as np

from .findings import Inspection
from .limits import Limits

__all__ = ["check_affine", "check_shape", "same_grid"]

SINGULAR = 1e-4  # volume of the voxel over the product of its sides, below which axes count as parallel


def check_affine(affine: np.ndarray, shape: Sequence[int], inspection: Inspection, limits: Limits) -> None:
    """Judge an affine ``4 4`` (RAS, mm) of a volume of ``shape`` (three axes); writes its facts."""
    matrix = np.asarray(affine, dtype=np.float64)
    if not np.isfinite(matrix).all():
        inspection.reject("AFFINE", "an affine must be finite", "NaN or Inf in it", "export the item again")
        return
    spacing = np.linalg.norm(matrix[:3, :3], axis=0)
    if (spacing == 0).any():
        zero = ", ".join(str(axis) for axis in np.flatnonzero(spacing == 0))
        found = f"spacing 0 (a zero column) on axis {zero}: a singular affine"
        inspection.reject("AFFINE", "every axis needs a direction and a spacing", found, "export the item again")
        return
    directions = matrix[:3, :3] / spacing
    if abs(np.linalg.det(directions)) < SINGULAR:
        found = f"parallel axes (determinant {np.linalg.det(directions):.1e}): a singular affine"
        inspection.reject("AFFINE", "the three axes must span space", found, "export the item again")
        return
    inspection.facts.spacing = tuple(float(value) for value in spacing)
    inspection.facts.affine = tuple(tuple(float(value) for value in row) for row in matrix)
    inspection.facts.orientation = "".join(str(code) for code in nib.orientations.aff2axcodes(matrix))
    shear = np.abs(directions.T @ directions - np.eye(3)).max()
    if shear > limits.max_shear:
        found = f"sheared axes ({90 - np.degrees(np.arccos(min(1.0, shear))):.1f} degrees off)"
        fix = "resample it to an orthogonal grid; readers that ignore the shear put it elsewhere"
        inspection.warn("AFFINE", "axes should be orthogonal", found, fix)
    _check_spacing(spacing, shape, inspection, limits)


def _check_spacing(spacing: np.ndarray, shape: Sequence[int], inspection: Inspection, limits: Limits) -> None:
    listed = " × ".join(f"{value:.4g}" for value in spacing)
    extent = spacing * np.asarray(shape[:3], dtype=np.float64)
    if spacing.max() > limits.max_spacing or spacing.min() < limits.min_spacing or extent.max() > limits.max_extent:
        inspection.reject(
            "SPACING",
            f"spacing must lie in {limits.min_spacing:g}..{limits.max_spacing:g} mm and the extent below "
            f"{limits.max_extent:g} mm",
            f"{listed} mm over {extent.max():.4g} mm",
            "check the unit (metres or microns read as mm) and correct the header",
        )
    elif spacing.max() / spacing.min() > limits.max_anisotropy:
        inspection.warn(
            "SPACING",
            f"spacings should differ by less than a factor of {limits.max_anisotropy:g}",
            f"{listed} mm",
            "check the slice distance",
        )


def check_shape(shape: Sequence[int], inspection: Inspection, limits: Limits) -> None:
    """Judge the spatial shape of a volume (three axes) or image (two axes)."""
    sides = sorted((int(side) for side in shape), reverse=True)
    listed = " × ".join(str(int(side)) for side in shape)
    if sides[1] < limits.min_side:
        found = f"a shape of {listed}, too small"
        rule = f"the two longest sides need at least {limits.min_side} voxels"
        inspection.reject("TOO_SMALL", rule, found, "take it off the list")
    elif len(sides) == 3 and sides[2] == 1:
        found, fix = f"{listed}: a 2D image in a volume's file, one slice", "list it under images"
        inspection.warn("NDIM", "a volume should have several slices", found, fix)
    elif len(sides) == 3 and sides[2] < limits.min_slices:
        rule = f"a volume should have at least {limits.min_slices} slices"
        inspection.warn("NDIM", rule, f"a thin one of {listed}", "list its slices under images if it is a localiser")


def same_grid(one: np.ndarray, other: np.ndarray, shape: Sequence[int], tolerance: float = 0.1) -> float:
    """Largest distance in mm between the corners of two grids of ``shape`` over the smallest voxel side times
    ``tolerance``: above 1, the grids differ."""
    axes = [(0.0, max(0.0, float(side) - 1)) for side in shape[:3]]
    corners = np.stack([np.array([x, y, z, 1.0]) for x in axes[0] for y in axes[1] for z in axes[2]], axis=1)
    distance = np.linalg.norm(((one - other) @ corners)[:3], axis=0).max()
    side = min(np.linalg.norm(one[:3, :3], axis=0).min(), np.linalg.norm(other[:3, :3], axis=0).min())
    return float(distance / (tolerance * side))

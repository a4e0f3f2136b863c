# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Where the slices of a volume lie: their axis, their millimetres, their affine, their padding."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

__all__ = ["PLANES", "pad_slices", "resolve_axis", "slice_positions", "sliced_affine", "split_volume"]

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}  # anatomical plane -> world axis (R, A, S) that its normal follows


def resolve_axis(axis: int | str, affine: Tensor) -> int:
    """Find which array axis the slices of a volume lie along.

    Args:
        axis: 0, 1, 2 (or negative), or an anatomical plane, whose normal is found from the affine.
        affine: ``4 4``, voxel index to RAS millimetres.

    Returns:
        the spatial axis, 0 to 2.

    Raises:
        ValueError: for an unknown plane or an axis outside -3 to 2.
    """
    if isinstance(axis, str):
        if axis not in PLANES:
            raise ValueError(
                f"axis must be a number or one of {', '.join(PLANES)}, got {axis!r}; name one of these planes"
            )
        closest = nib.orientations.io_orientation(np.asarray(affine, dtype=np.float64))[:, 0]
        return int(np.flatnonzero(closest == PLANES[axis])[0])
    if not -3 <= axis <= 2:
        raise ValueError(f"axis must lie in -3..2, got {axis}; a volume has three spatial axes")
    return axis % 3


def slice_positions(affine: Tensor, axis: int, count: int) -> Tensor:
    """Millimetres of every slice along the slice normal.

    The normal is perpendicular to the slice plane and points to the patient's right, front or head, whichever it is
    closest to, so that equal anatomy has comparable positions however the file is stored.

    Args:
        affine: ``4 4``, voxel index to RAS millimetres.
        axis: the slice axis, 0 to 2.
        count: number of slices S.

    Returns:
        float32 ``S``.
    """
    matrix = affine.to(torch.float64)
    first, second = (matrix[:3, other] for other in range(3) if other != axis)
    normal = torch.linalg.cross(first, second)
    normal = normal / normal.norm()
    normal = normal * torch.sign(normal[normal.abs().argmax()])
    steps = torch.arange(count, dtype=torch.float64)[:, None] * matrix[:3, axis]
    positions: Tensor = (matrix[:3, 3] + steps) @ normal
    return positions.to(torch.float32)


def split_volume(volume: Tensor) -> tuple[Tensor, Tensor]:
    """Split a volume into plain data ``C ...`` and its affine (identity where it has none)."""
    if volume.ndim != 4:
        raise ValueError(
            f"a volume must have four axes, channel first, got shape {tuple(volume.shape)}; "
            "add a channel axis, or select one frame of a 4D file"
        )
    if isinstance(volume, MetaTensor):
        affine = torch.as_tensor(volume.affine, dtype=torch.float64).cpu()
        return volume.as_tensor(), affine
    return volume, torch.eye(4, dtype=torch.float64)


def sliced_affine(affine: Tensor, axis: int, index: Tensor) -> Tensor:
    """Affine of the chosen slices with their axis moved last; irregular choices get their mean step."""
    order = [other for other in range(3) if other != axis] + [axis]
    moved = affine.clone()
    moved[:, :3] = affine[:, order]
    step = float(index[-1] - index[0]) / (len(index) - 1) if len(index) > 1 else 1.0
    moved[:3, 3] += float(index[0]) * affine[:3, axis]
    moved[:3, 2] *= step
    return moved


def pad_slices(
    slices: Tensor, index: Tensor, position: Tensor, pad_to: int | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Append zero slices up to ``pad_to`` and return slices, index, position and the padding mask.

    Raises:
        ValueError: when there are more slices than ``pad_to``.
    """
    count = slices.shape[-1]
    missing = 0 if pad_to is None else pad_to - count
    if missing < 0:
        raise ValueError(
            f"pad_to must not be below the number of slices, got pad_to {pad_to} for {count} slices; "
            "raise pad_to, or lower num_slices"
        )
    padded = torch.zeros(count + missing, dtype=torch.bool)
    if missing:
        padded[count:] = True
        slices = torch.nn.functional.pad(slices, (0, missing))
        index = torch.nn.functional.pad(index, (0, missing), value=-1)
        position = torch.nn.functional.pad(position, (0, missing))
    return slices, index, position, padded

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Back from the preprocessed grid to the file's own: exactly where only axes were turned, else by interpolation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["class_ids_on_source_grid", "index_map", "to_source_grid"]

WHOLE = 1e-3  # of a voxel: nearer to whole numbers than this, the grids differ by turned axes only


def index_map(affine: Tensor, source_affine: Tensor, dims: int) -> Tensor:
    """``d d+1``, from an index on the source's grid to one on the preprocessed grid, through RAS millimetres.

    Args:
        affine: ``4 4`` of the preprocessed image.
        source_affine: ``4 4`` of the file.
        dims: 2 or 3; in 2D the third index is 0 on both grids.
    """
    whole = torch.linalg.inv(affine.to(torch.float64).cpu()) @ source_affine.to(torch.float64).cpu()
    return torch.cat([whole[:dims, :dims], whole[:dims, 3:]], dim=1)


def to_source_grid(
    values: Tensor, affine: Tensor, source_affine: Tensor, source_shape: Sequence[int], mode: str = "bilinear"
) -> Tensor:
    """Bring ``C ...`` from the preprocessed grid to the source's: ``C *source_shape``.

    Beyond the preprocessed image the nearest value counts. Where only axes were turned, values are moved, not
    interpolated.

    Args:
        values: ``C H W`` or ``C H W S``, for example class probabilities.
        affine: ``4 4`` of the preprocessed image, index to RAS mm.
        source_affine: ``4 4`` of the file.
        source_shape: of the file, without channels.
        mode: ``"bilinear"`` or ``"nearest"``.
    """
    dims = values.ndim - 1
    shape = [int(length) for length in source_shape]
    matrix = index_map(affine, source_affine, dims)
    moved = _turn(values, matrix, shape)
    if moved is not None:
        return moved
    axes = [torch.arange(length, dtype=torch.float64) for length in shape]
    lengths = torch.tensor(values.shape[1:], dtype=torch.float64)
    pieces = []
    for first in torch.split(axes[0], max(1, 2**22 // max(1, int(torch.tensor(shape[1:]).prod())))):
        # In slabs: a grid of double-precision coordinates for a whole CT would take more memory than the CT.
        grid = torch.stack(torch.meshgrid(first, *axes[1:], indexing="ij"), dim=-1)
        places = grid @ matrix[:, :dims].T + matrix[:, dims]
        places = ((2 * places + 1) / lengths - 1).flip(-1).to(values.dtype)
        pieces.append(
            F.grid_sample(
                values[None], places[None].to(values.device), mode=mode, padding_mode="border", align_corners=False
            )[0]
        )
    return torch.cat(pieces, dim=1)


def class_ids_on_source_grid(
    probabilities: Tensor, affine: Tensor, source_affine: Tensor, source_shape: Sequence[int]
) -> Tensor:
    """Most probable class ``*source_shape`` (uint8 below 256 classes) from probabilities ``K ...``, resampled first.

    Interpolating probabilities and then choosing keeps boundaries smooth and never invents a class between two others,
    as interpolated ids would. Classes are resampled one by one: K source grids at once may not fit.
    """
    best: Tensor | None = None
    ids: Tensor | None = None
    for number, values in enumerate(torch.split(probabilities.float(), 1)):
        found = to_source_grid(values, affine, source_affine, source_shape)[0]
        if best is None or ids is None:
            best, ids = found, torch.zeros_like(found, dtype=torch.uint8 if len(probabilities) < 256 else torch.int32)
            continue
        larger = found > best
        ids[larger] = number
        best = torch.where(larger, found, best)
    assert ids is not None
    return ids


def _turn(values: Tensor, matrix: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Permute and flip, where that is all that lies between the grids; else None."""
    dims = len(shape)
    linear, offset = matrix[:, :dims], matrix[:, dims]
    rounded = linear.round()
    whole = bool((linear - rounded).abs().max() * max(shape) < WHOLE and (offset - offset.round()).abs().max() < WHOLE)
    if not whole or not bool((rounded.abs().sum(0) == 1).all() and (rounded.abs().sum(1) == 1).all()):
        return None
    order = [int(rounded[:, axis].abs().argmax()) for axis in range(dims)]  # source axis -> preprocessed axis
    turned = values.permute(0, *[1 + axis for axis in order])
    for axis, old in enumerate(order):
        sign, start = float(rounded[old, axis]), int(offset[old].round())
        # Only a whole axis, straight or mirrored: a shifted one has places beyond the image.
        if turned.shape[1 + axis] != shape[axis] or start != (0 if sign > 0 else shape[axis] - 1):
            return None
        if sign < 0:
            turned = turned.flip(1 + axis)
    return turned.contiguous()

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Boxes between datalist, preprocessed array and world.

Boxes are half-open and count voxel edges: ``[0, n)`` covers an axis of n voxels, and edge ``e`` lies at index
``e − 0.5``, since an affine maps the centre of voxel ``i`` from index ``i``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor

from monai_cluster.keys import ClusterKeys as Keys

from .source_grid import index_map

__all__ = [
    "BoxToArrayd",
    "boxes_from_world",
    "boxes_to_world",
    "detections_to_json",
    "move_boxes",
    "rows_first",
]


def move_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Axis-aligned hull of boxes after an affine map between two grids: exact where axes are only turned and scaled.

    Args:
        boxes: ``N 2d``, lower corners first.
        matrix: ``d d+1``, from an index on one grid to one on the other.

    Returns:
        float64 ``N 2d`` on the other grid.
    """
    return _hull(boxes.to(torch.float64) - 0.5, matrix) + 0.5


def boxes_to_world(boxes: Tensor, affine: Tensor) -> Tensor:
    """Axis-aligned hull in RAS millimetres, float64 ``N 6``; boxes of an image are flat, at third index 0.

    Args:
        boxes: ``N 4`` or ``N 6`` in indices of an array.
        affine: its ``4 4``, index to RAS mm.
    """
    dims = boxes.shape[1] // 2
    whole = affine.to(torch.float64).cpu()
    return _hull(boxes.to(torch.float64).cpu() - 0.5, torch.cat([whole[:3, :dims], whole[:3, 3:]], dim=1))


def boxes_from_world(boxes_mm: Tensor, affine: Tensor, dims: int = 3) -> Tensor:
    """The way back: hull in indices of an array, float64 ``N 2d``, of boxes ``N 6`` in RAS millimetres.

    Exact where the array's axes are parallel to the world's; larger than the box that went out where they are oblique.

    Args:
        boxes_mm: ``N 6``.
        affine: ``4 4`` of the array.
        dims: 2 drops the third index.
    """
    return _hull(boxes_mm.to(torch.float64).cpu(), torch.linalg.inv(affine.to(torch.float64).cpu())[:dims]) + 0.5


def _hull(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Hull ``N 2m`` of the corners of ``N 2d`` under ``m d+1``: per axis, every term takes its lower or upper end."""
    dims = matrix.shape[1] - 1
    matrix = matrix.to(boxes)
    low, high = boxes[:, None, :dims], boxes[:, None, dims:]
    terms = torch.stack([matrix[:, :dims] * low, matrix[:, :dims] * high])
    return torch.cat([terms.amin(0).sum(-1) + matrix[:, dims], terms.amax(0).sum(-1) + matrix[:, dims]], dim=1)


def rows_first(boxes: Tensor) -> Tensor:
    """``[x0, y0, x1, y1]`` (column, row) of a picture as ``[row0, column0, row1, column1]``, and back."""
    return boxes[:, [1, 0, 3, 2]]


class BoxToArrayd(MapTransform):
    """From a row's boxes to the preprocessed image: ``box`` float32 ``N 2d`` and ``box_label`` int64 ``N``.

    Run it after the image's transforms: it follows turned axes, spacing, resizing and padding through the image's
    affine and the file's. Boxes are cut at the image's border.

    Args:
        keys: the boxes; in the row, lists of ``[x0, y0, x1, y1]`` (x column, y row) for images, of
            ``[i0, j0, k0, i1, j1, k1]`` in the stored array's axis order for volumes. No finding is an empty list.
        spatial_dims: 2 or 3.
        label_key: one class number per box.
        image_key: the preprocessed image, with its affine.
        source_affine_key: affine of the file.

    Raises:
        ValueError: on call, for a row without boxes, labels that do not fit them, corners in the wrong order, or a box
            that lies outside the image.
    """

    def __init__(
        self,
        keys: KeysCollection = Keys.BOX,
        spatial_dims: int = 3,
        label_key: str = Keys.BOX_LABEL,
        image_key: str = Keys.IMAGE,
        source_affine_key: str = "source_affine",
    ) -> None:
        super().__init__(keys)
        if spatial_dims not in (2, 3):
            raise ValueError(f"spatial_dims must be 2 or 3, got {spatial_dims}.")
        self.spatial_dims = spatial_dims
        self.label_key, self.image_key, self.source_affine_key = label_key, image_key, source_affine_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert every key."""
        output = dict(data)
        image = output[self.image_key]
        for key in self.keys:
            if output.get(key) is None:
                raise ValueError(f"the row has no {key!r}: write [] where the image shows no finding.")
            boxes = self._parse(output[key])
            labels = torch.as_tensor(output.get(self.label_key, [])).reshape(-1)
            if len(labels) != len(boxes):
                raise ValueError(
                    f"every box needs one label, got {len(boxes)} boxes and {len(labels)} in {self.label_key!r}."
                )
            if self.spatial_dims == 2:
                boxes = rows_first(boxes)
            moved = move_boxes(boxes, index_map(image.affine, output[self.source_affine_key], self.spatial_dims))
            output[key] = self._inside(moved, image.shape[1:])
            output[self.label_key] = labels.to(torch.int64)
        return output

    def _parse(self, rows: Any) -> Tensor:
        boxes = torch.as_tensor(rows, dtype=torch.float64)
        sides = 2 * self.spatial_dims
        if boxes.numel() == 0:
            return boxes.reshape(0, sides)
        if boxes.ndim != 2 or boxes.shape[1] != sides:
            raise ValueError(f"boxes must be N {sides} numbers, got shape {tuple(boxes.shape)}.")
        if not bool((boxes[:, : self.spatial_dims] < boxes[:, self.spatial_dims :]).all()):
            raise ValueError(
                f"boxes must name their lower corner first and be larger than nothing, got {boxes.tolist()}: half-open "
                "corners, not centre and size."
            )
        return boxes

    def _inside(self, boxes: Tensor, shape: Sequence[int]) -> Tensor:
        ends = torch.tensor(list(shape) * 2, dtype=torch.float64)
        cut = boxes.clamp(min=0).minimum(ends)
        outside = (cut[:, : self.spatial_dims] >= cut[:, self.spatial_dims :]).any(dim=1)
        if bool(outside.any()):
            raise ValueError(
                f"boxes must lie in the image, got {boxes[outside][0].tolist()} in a preprocessed image of "
                f"{tuple(shape)}: check the order of the axes in the datalist."
            )
        return cut.to(torch.float32)


def detections_to_json(
    boxes: Tensor,
    labels: Tensor,
    scores: Tensor,
    affine: Tensor,
    source_affine: Tensor,
    source_shape: Sequence[int],
) -> list[dict[str, Any]]:
    """Detections as a reader of the file wants them, one dictionary each.

    Args:
        boxes: ``N 2d`` in indices of the preprocessed image.
        labels: ``N``.
        scores: ``N``.
        affine: ``4 4`` of the preprocessed image.
        source_affine: ``4 4`` of the file.
        source_shape: of the file, d numbers; boxes are cut at its border.

    Returns:
        ``box_voxel`` in the datalist's convention (columns first in pictures), ``center_mm`` in RAS, ``size_mm`` along
        the axes of ``box_voxel``, ``box_mm`` the axis-aligned RAS hull ``[x0, y0, z0, x1, y1, z1]``, ``score`` and
        ``label``. A picture without spacing counts one millimetre per pixel.
    """
    dims = boxes.shape[1] // 2
    source = source_affine.to(torch.float64).cpu()
    voxel = move_boxes(boxes.cpu(), index_map(source_affine, affine, dims))
    voxel = voxel.clamp(min=0).minimum(torch.tensor([int(side) for side in source_shape] * 2, dtype=torch.float64))
    centre = (voxel[:, :dims] + voxel[:, dims:]) / 2 - 0.5
    centre_mm = centre @ source[:3, :dims].T + source[:3, 3]
    size_mm = (voxel[:, dims:] - voxel[:, :dims]) * source[:3, :dims].norm(dim=0)
    box_mm = boxes_to_world(voxel, source)
    if dims == 2:
        voxel, size_mm = rows_first(voxel), size_mm.flip(1)
    columns = (voxel, centre_mm, size_mm, box_mm, scores.cpu(), labels.cpu())
    names = ("box_voxel", "center_mm", "size_mm", "box_mm", "score", "label")
    return [dict(zip(names, row, strict=True)) for row in zip(*(column.tolist() for column in columns), strict=True)]

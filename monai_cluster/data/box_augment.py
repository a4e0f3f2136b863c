# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Random patches and mirror images that take the boxes along."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor

from monai_cluster.keys import ClusterKeys
from monai_cluster.transforms.random_patch import sample_patch

__all__ = ["RandCropBoxd", "RandMirrorBoxd"]


class RandCropBoxd(MapTransform, RandomizableTransform):
    """Cut a patch that holds a random box (or lies anywhere) and keep the boxes that are mostly in it.

    MONAI's ``RandCropBoxByPosNegLabeld`` keeps every sliver of a box at the border as a finding; here a box stays when
    enough of it is seen, cut at the border. Axes shorter than the patch are taken whole.

    Args:
        size: of the patch, d numbers.
        box_share: probability of a patch round a box, each class of the image equally often.
        min_visible: share of a box's volume that must lie in the patch.
        zoom: largest relative change of scale; along thick slices there is none.
        keys: the image ``C H W`` or ``C H W S``.
        box_key: float ``N 2d``, lower corners first.
        label_key: int ``N``.

    Raises:
        ValueError: for shares outside 0..1, a zoom outside [0, 1) or sizes below 1; on call, for an image with another
            number of axes.
    """

    def __init__(
        self,
        size: Sequence[int],
        box_share: float = 0.7,
        min_visible: float = 0.4,
        zoom: float = 0.0,
        keys: str = ClusterKeys.IMAGE,
        box_key: str = ClusterKeys.BOX,
        label_key: str = ClusterKeys.BOX_LABEL,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.size = np.asarray([int(side) for side in size])
        if len(self.size) not in (2, 3) or self.size.min() < 1:
            raise ValueError(f"size must be two or three numbers of at least 1, got {list(size)}.")
        if not 0 <= box_share <= 1 or not 0 < min_visible <= 1:
            raise ValueError(
                f"box_share must lie in 0..1 and min_visible in (0, 1], got {box_share} and {min_visible}."
            )
        if not 0 <= zoom < 1:
            raise ValueError(f"zoom must lie in [0, 1), got {zoom}.")
        self.box_share, self.min_visible, self.zoom = box_share, min_visible, zoom
        self.box_key, self.label_key = box_key, label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut all entries; results are plain tensors."""
        output = dict(data)
        image, boxes, labels = output[self.keys[0]], output[self.box_key], output[self.label_key]
        dims = len(self.size)
        if image.ndim != dims + 1:
            raise ValueError(f"a patch of {dims} axes needs an image with as many, got {tuple(image.shape)}.")
        spacing = torch.as_tensor(getattr(image, "affine", torch.eye(4)))[:3, :dims].norm(dim=0)
        image, boxes, labels = _plain(image), _plain(boxes).to(torch.float32), _plain(labels)
        scale = np.full(dims, 1 + (2 * self.R.random() - 1) * self.zoom)
        if dims == 3 and float(spacing[2]) > 2 * float(spacing[:2].max()):
            scale[2] = 1.0  # between thick slices there is nothing to interpolate
        shape = np.asarray(image.shape[1:])
        size = np.minimum(self.size, np.maximum(1, np.floor(shape / scale + 1e-6))).astype(int)
        start = self._start(boxes.numpy(), labels.numpy(), size * scale, shape)
        output[self.keys[0]] = self._cut(image, start, size, scale)
        edges = torch.from_numpy(np.concatenate([start, start])), torch.from_numpy(np.concatenate([scale, scale]))
        moved = ((boxes - edges[0]) / edges[1]).to(torch.float32)
        ends = torch.tensor([*size, *size], dtype=torch.float32)
        cut = moved.clamp(min=0).minimum(ends)
        seen = _volume(cut, dims) >= self.min_visible * _volume(moved, dims)
        output[self.box_key], output[self.label_key] = cut[seen], labels[seen]
        return output

    def _start(self, boxes: Any, labels: Any, extent: Any, shape: Any) -> np.ndarray[Any, Any]:
        """The patch's first edge in the image: the patch lies in the image, a box in the patch (or the patch in it)."""
        dims = len(shape)
        low, high = np.zeros(dims), np.maximum(0, shape - extent)
        if len(boxes) and self.R.random() < self.box_share:
            chosen = np.flatnonzero(labels == self.R.choice(np.unique(labels)))
            box = boxes[self.R.choice(chosen)]
            nearest, farthest = box[dims:] - extent, box[:dims]
            nearest, farthest = np.minimum(nearest, farthest), np.maximum(nearest, farthest)
            low, high = np.clip(nearest, low, high), np.clip(farthest, low, high)
        start = low + self.R.random(dims) * (high - low)
        if self.zoom == 0:  # whole voxels inside the same limits, so that nothing is interpolated
            start = np.clip(np.round(start), np.ceil(low), np.maximum(np.ceil(low), np.floor(high)))
        return np.asarray(start)

    def _cut(self, image: Tensor, start: Any, size: Any, scale: Any) -> Tensor:
        if self.zoom == 0:
            for axis, (first, side) in enumerate(zip(start, size, strict=True)):
                image = image.narrow(axis + 1, int(first), int(side))
            return image.clone()
        offset = start + 0.5 * scale - 0.5
        matrix = torch.from_numpy(np.concatenate([np.diag(scale), offset[:, None]], axis=1))
        return sample_patch(image, matrix, [int(side) for side in size])


class RandMirrorBoxd(MapTransform, RandomizableTransform):
    """Mirror image and boxes along each axis by itself.

    Args:
        axes: spatial axes, counted from 0; leave one out where left and right matter.
        prob: for each axis.
        keys: the image ``C H W`` or ``C H W S``.
        box_key: float ``N 2d``, lower corners first.

    Raises:
        ValueError: for an axis outside 0..2 or a probability outside 0..1.
    """

    def __init__(
        self,
        axes: Sequence[int],
        prob: float = 0.5,
        keys: str = ClusterKeys.IMAGE,
        box_key: str = ClusterKeys.BOX,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        if any(axis not in (0, 1, 2) for axis in axes):
            raise ValueError(f"axes must be 0, 1 or 2, got {list(axes)}.")
        if not 0 <= prob <= 1:
            raise ValueError(f"prob must lie in 0..1, got {prob}.")
        self.axes, self.axis_prob, self.box_key = tuple(axes), prob, box_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Mirror both entries; results are plain tensors."""
        output = dict(data)
        image, boxes = _plain(output[self.keys[0]]), _plain(output[self.box_key]).clone()
        dims = image.ndim - 1
        for axis in self.axes:
            if axis < dims and self.R.random() < self.axis_prob:
                image = image.flip(axis + 1)
                boxes[:, [axis, axis + dims]] = image.shape[axis + 1] - boxes[:, [axis + dims, axis]]
        output[self.keys[0]], output[self.box_key] = image, boxes
        return output


def _volume(boxes: Tensor, dims: int) -> Tensor:
    return (boxes[:, dims:] - boxes[:, :dims]).clamp(min=0).prod(dim=1)


def _plain(tensor: Any) -> Tensor:
    plain: Tensor = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
    return plain

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Training patches of labelled images: position, rotation, zoom and flips in one interpolation."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms import MapTransform, RandomizableTransform
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.keys import ClusterKeys

__all__ = ["RandImageAffined", "RandLabelledPatchd", "sample_patch"]


def sample_patch(source: Tensor, matrix: Tensor, size: Sequence[int], mode: str = "bilinear") -> Tensor:
    """Interpolate a patch ``C *size`` of ``C ...`` at the places that an affine map gives, zero outside.

    Args:
        source: ``C H W`` or ``C H W S``.
        matrix: ``d d+1``, from an index in the patch (0 at the centre of its first element) to one in the source.
        size: of the patch, d numbers.
        mode: ``"bilinear"`` or ``"nearest"``.
    """
    shape = source.shape[1:]
    dims = len(shape)
    axes = [torch.arange(length, dtype=torch.float64) for length in size]
    # x = M·p + t as a sum of one row per axis: no grid of homogeneous coordinates is ever made.
    places = matrix[:, dims].to(torch.float64)
    grid = places.view(*[1] * dims, dims)
    for axis, steps in enumerate(axes):
        view = [1] * dims
        view[axis] = -1
        grid = grid + steps.view(*view, 1) * matrix[:, axis]
    lengths = torch.tensor(shape, dtype=torch.float64)
    grid = ((2 * grid + 1) / lengths - 1).flip(-1).to(torch.float32)  # grid_sample counts the last axis first
    patch = F.grid_sample(
        source[None].to(torch.float32), grid[None], mode=mode, padding_mode="zeros", align_corners=False
    )
    return patch[0]


class RandLabelledPatchd(MapTransform, RandomizableTransform):
    """Cut a patch round a foreground voxel (or anywhere), rotated, zoomed and flipped, from image and label at once.

    One interpolation of the patch does what cropping, rotating, zooming and flipping the volume do one after the other,
    without empty corners where the image goes on and at a cost that does not depend on the volume's size.

    Args:
        size: of the patch, ``H W`` or ``H W S``.
        foreground_share: probability of a patch centred near a voxel of a class other than 0, each class of the image
            equally often; otherwise the centre is anywhere.
        rotation_degrees: largest rotation in the slice plane, in millimetres' geometry.
        zoom: largest relative change of scale; in the plane only where ``S`` is thick.
        flip_axes: axes of the patch that are mirrored half of the time; leave it empty where left and right are
            different classes.
        keys: the image.
        label_key: class ids ``1 ...`` on the same grid.

    Raises:
        ValueError: for a share outside [0, 1], a negative rotation or zoom, or an axis that the patch does not have.
    """

    def __init__(
        self,
        size: Sequence[int],
        foreground_share: float = 0.5,
        rotation_degrees: float = 15.0,
        zoom: float = 0.15,
        flip_axes: Sequence[int] = (),
        keys: str = ClusterKeys.IMAGE,
        label_key: str = ClusterKeys.LABEL,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        self.size = [int(length) for length in size]
        if len(self.size) not in (2, 3) or min(self.size) < 1:
            raise ValueError(f"size must be two or three numbers of at least 1, got {list(size)}.")
        if not 0 <= foreground_share <= 1:
            raise ValueError(f"foreground_share must lie in 0..1, got {foreground_share}.")
        if rotation_degrees < 0 or not 0 <= zoom < 1:
            raise ValueError(
                f"rotation_degrees must be 0 or more and zoom in [0, 1), got {rotation_degrees} and {zoom}."
            )
        if any(axis not in range(len(self.size)) for axis in flip_axes):
            raise ValueError(f"flip_axes must be axes 0..{len(self.size) - 1} of the patch, got {list(flip_axes)}.")
        self.foreground_share, self.rotation, self.zoom = foreground_share, math.radians(rotation_degrees), zoom
        self.flip_axes = tuple(flip_axes)
        self.label_key = label_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Cut both entries; results are plain tensors."""
        output = dict(data)
        image, label = output[self.keys[0]], output[self.label_key]
        affine = torch.as_tensor(getattr(image, "affine", torch.eye(4)), dtype=torch.float64)
        image, label = _plain(image), _plain(label)
        if label.shape[1:] != image.shape[1:] or image.ndim != len(self.size) + 1:
            raise ValueError(
                f"image and label must have one grid of {len(self.size)} axes, got {tuple(image.shape[1:])} and "
                f"{tuple(label.shape[1:])}: check size and the label map."
            )
        matrix = self._matrix(self._centre(label[0]), affine[:3, : len(self.size)].norm(dim=0))
        output[self.keys[0]] = sample_patch(image, matrix, self.size)
        output[self.label_key] = sample_patch(label, matrix, self.size, "nearest").round().to(torch.uint8)
        return output

    def _centre(self, label: Tensor) -> np.ndarray[Any, Any]:
        """An index in the image, of a random voxel of a random class or of any place that keeps the patch inside."""
        classes = torch.unique(label)
        classes = classes[classes > 0]
        if len(classes) and self.R.random() < self.foreground_share:
            chosen = classes[self.R.randint(len(classes))]
            voxels = torch.nonzero(label == chosen)
            centre = voxels[self.R.randint(len(voxels))].numpy().astype(float)
            # Anywhere in the patch, so that position says nothing about the class.
            moved: np.ndarray[Any, Any] = centre + (self.R.random(len(self.size)) - 0.5) * 0.5 * np.asarray(self.size)
            return moved
        low = np.asarray(self.size) / 2 - 0.5
        high = np.asarray(label.shape) - 1 - low
        return np.where(high > low, low + self.R.random(len(self.size)) * (high - low), (low + high) / 2)

    def _matrix(self, centre: np.ndarray[Any, Any], spacing: Tensor) -> Tensor:
        return _random_matrix(self.R, centre, self.size, spacing, self.rotation, self.zoom, self.flip_axes)


class RandImageAffined(MapTransform, RandomizableTransform):
    """Rotate, zoom, shift and flip a whole image or volume in one interpolation, keeping its size.

    Args:
        rotation_degrees: largest rotation in the slice plane.
        zoom: largest relative change of scale.
        shift: largest shift, as a share of each side.
        flip_axes: spatial axes that are mirrored half of the time.
        keys: the image.

    Raises:
        ValueError: for a negative rotation or shift, or a zoom outside [0, 1).
    """

    def __init__(
        self,
        rotation_degrees: float = 15.0,
        zoom: float = 0.15,
        shift: float = 0.05,
        flip_axes: Sequence[int] = (),
        keys: str = ClusterKeys.IMAGE,
    ) -> None:
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, 1.0)
        if rotation_degrees < 0 or shift < 0 or not 0 <= zoom < 1:
            raise ValueError(
                "rotation_degrees and shift must be 0 or more and zoom in [0, 1), got "
                f"{rotation_degrees}, {shift} and {zoom}."
            )
        self.rotation, self.zoom, self.shift = math.radians(rotation_degrees), zoom, shift
        self.flip_axes = tuple(flip_axes)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Transform every key; results are plain tensors."""
        output = dict(data)
        for key in self.key_iterator(output):
            image = output[key]
            affine = torch.as_tensor(getattr(image, "affine", torch.eye(4)), dtype=torch.float64)
            plain = _plain(image)
            size = plain.shape[1:]
            middle = (np.asarray(size) - 1) / 2
            centre = middle + (2 * self.R.random(len(size)) - 1) * self.shift * np.asarray(size)
            spacing = affine[:3, : len(size)].norm(dim=0)
            matrix = _random_matrix(self.R, centre, size, spacing, self.rotation, self.zoom, self.flip_axes)
            output[key] = sample_patch(plain, matrix, size)
        return output


def _random_matrix(
    random: np.random.RandomState,
    centre: np.ndarray[Any, Any],
    size: Sequence[int],
    spacing: Tensor,
    rotation: float,
    zoom: float,
    flip_axes: Sequence[int],
) -> Tensor:
    """``d d+1`` from an index in the patch to one in the image: turned and zoomed in millimetres round the centre."""
    dims = len(size)
    angle = (2 * random.random() - 1) * rotation
    zooms = np.full(dims, 1 + (2 * random.random() - 1) * zoom)
    if dims == 3 and float(spacing[2]) > 2 * float(spacing[:2].max()):
        zooms[2] = 1.0  # between thick slices there is nothing to interpolate
    flips = np.asarray([-1.0 if axis in flip_axes and random.random() < 0.5 else 1.0 for axis in range(dims)])
    turn = np.eye(dims)
    turn[:2, :2] = [[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]
    millimetres = np.diag(spacing.numpy())
    linear = np.linalg.inv(millimetres) @ turn @ millimetres @ np.diag(zooms * flips)
    offset = centre - linear @ ((np.asarray(size) - 1) / 2)
    return torch.from_numpy(np.concatenate([linear, offset[:, None]], axis=1))


def _plain(tensor: Any) -> Tensor:
    plain: Tensor = tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
    return plain

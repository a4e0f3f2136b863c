# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Anchors of the sizes that the training boxes have, so that nobody has to guess them in voxels."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from monai_cluster.keys import ClusterKeys as Keys

from .slice_spacing import evenly_spaced

__all__ = ["anchor_coverage", "fit_anchor_shapes"]

logger = logging.getLogger(__name__)
# log2 of sizes in voxels; first 16, four times the finest level's stride, as in RetinaNet (arXiv:1708.02002)
TRIED_OCTAVES = sorted((quarter / 4 for quarter in range(4, 21)), key=lambda octave: abs(octave - 4))
ROUNDS = 50


def anchor_coverage(
    sizes: Tensor,
    shapes: Sequence[Sequence[float]],
    scales: Sequence[float],
    strides: Sequence[Sequence[float]] | None = None,
) -> float:
    """How well anchors can fit: intersection over union with the best of them, mean over boxes.

    Args:
        sizes: ``N d`` in voxels.
        shapes: of the anchors at the finest level.
        scales: their factor at each level.
        strides: voxels between neighbouring anchors, per level and axis. A box lies a quarter of that beside its anchor
            on every axis, the mean of what happens; None puts both at one centre.

    Returns:
        0..1; ATSS needs no threshold, but boxes below .3 are hard to learn.
    """
    shape = torch.as_tensor(shapes, dtype=torch.float64)
    anchors = torch.as_tensor(scales, dtype=torch.float64)[:, None, None] * shape
    beside = torch.zeros_like(anchors)
    if strides is not None:
        beside += torch.as_tensor(strides, dtype=torch.float64)[:, None] / 4
    anchors, beside = anchors.flatten(0, 1), beside.flatten(0, 1)
    boxes = sizes.to(torch.float64)[:, None]
    sides = torch.minimum(torch.minimum(boxes, anchors), ((boxes + anchors) / 2 - beside).clamp(min=0))
    common = sides.prod(-1)
    return float((common / (boxes.prod(-1) + anchors.prod(-1) - common)).amax(1).mean())


def fit_anchor_shapes(
    samples: Sequence[Any],
    scales: Sequence[float],
    num_shapes: int = 3,
    spatial_dims: int | None = None,
    strides: Sequence[Sequence[float]] | None = None,
) -> list[list[float]]:
    """Sizes of anchors at the finest level from the boxes of preprocessed training samples.

    The size at the finest level, 2 to 32 voxels in the plane, is the one whose anchors overlap the boxes best, the
    usual 16 where several do alike: anchors much smaller than the distance between them miss small boxes. Every box is
    divided by the scale of the level nearest to its size, and what is left is put into groups by k-means on logarithms,
    so that twice as long and half as long count alike.

    Args:
        samples: with ``box`` ``N 2d``, lower corners first; of more than 256, evenly spaced ones are looked at.
        scales: of the anchors at each level, finest first.
        num_shapes: anchors per cell; fewer where boxes have fewer sizes.
        spatial_dims: refuse boxes of another number of axes.
        strides: voxels between neighbouring anchors, per level and axis, see
            :func:`monai_cluster.networks.anchor_strides`; None takes anchors to be everywhere.

    Returns:
        Sizes in voxels along the array's axes, smallest first, to a tenth.

    Raises:
        ValueError: if no sample has a box, boxes have other than ``spatial_dims`` axes, or strides are not one row per
            scale and one number per axis.
    """
    taken = evenly_spaced(samples)
    boxes = torch.cat([torch.as_tensor(sample[Keys.BOX], dtype=torch.float64) for sample in taken])
    if not len(boxes):
        raise ValueError(
            f"none of the {len(taken)} training samples looked at has a box, so there are no sizes to fit anchors to: "
            "give anchor_shapes, or samples with findings."
        )
    dims = boxes.shape[1] // 2
    if spatial_dims not in (None, dims):
        raise ValueError(f"boxes must have {spatial_dims} axes, got {dims}.")
    if strides is not None and (len(strides) != len(scales) or any(len(one) != dims for one in strides)):
        raise ValueError(f"strides must be {len(scales)} rows of {dims} numbers, got {[list(one) for one in strides]}.")
    sizes = (boxes[:, dims:] - boxes[:, :dims]).clamp(min=1.0)  # an object cut by the border may leave a sliver
    tried = [_shapes(sizes, scales, num_shapes, finest) for finest in TRIED_OCTAVES]
    coverage = [round(anchor_coverage(sizes, shapes, scales, strides), 2) for shapes in tried]
    found = tried[coverage.index(max(coverage))]
    logger.info(
        "anchors at the finest level, from %d boxes: %s voxels; the best fits a box with a mean IoU of %.2f",
        len(sizes), ", ".join(" × ".join(f"{length:g}" for length in shape) for shape in found), max(coverage),
    )  # fmt: skip
    return found


def _shapes(sizes: Tensor, scales: Sequence[float], num_shapes: int, finest: float) -> list[list[float]]:
    """Shapes for anchors of ``2 ** finest`` voxels in the plane at the finest level."""
    octaves = torch.as_tensor(scales, dtype=torch.float64).log2()
    level = (sizes[:, :2].log2().mean(1)[:, None] - finest - octaves).abs().argmin(1)
    shapes = _groups(sizes.log2() - octaves[level][:, None], num_shapes).exp2()
    return [[round(length, 1) for length in shape] for shape in shapes.tolist()]


def _groups(points: Tensor, number: int) -> Tensor:
    """Centres ``K d`` of Lloyd's k-means, from the point nearest to the mean and then always the farthest."""
    centres = points[(points - points.mean(0)).norm(dim=1).argmin()][None]
    while len(centres) < number:
        distance = torch.cdist(points, centres).amin(1)
        if float(distance.max()) < 0.1:  # of an octave: the same size
            break
        centres = torch.cat([centres, points[distance.argmax()][None]])
    for _ in range(ROUNDS):
        nearest = torch.cdist(points, centres).argmin(1)
        moved = torch.stack([points[nearest == place].mean(0) for place in range(len(centres))])
        if torch.equal(moved, centres):
            break
        centres = moved
    return centres[centres.sum(1).argsort(stable=True)]

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Anchors of the sizes that the training boxes have, so that nobody has to guess them in voxels."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from monai_cluster.keys import ClusterKeys as Keys

from .slice_spacing import evenly_spaced

__all__ = ["anchor_coverage", "fit_anchor_shapes"]

logger = logging.getLogger(__name__)
USUAL_SIZE = 16.0  # voxels; four times the finest level's stride, as in RetinaNet (Lin et al. 2017, arXiv:1708.02002)
ROUNDS = 50


def anchor_coverage(sizes: Tensor, shapes: Sequence[Sequence[float]], scales: Sequence[float]) -> float:
    """How well anchors can fit: intersection over union with the best of them, both at one centre, mean over boxes.

    Args:
        sizes: ``N d`` in voxels.
        shapes: of the anchors at the finest level.
        scales: their factor at each level.

    Returns:
        0..1; ATSS needs no threshold, but boxes below .3 are hard to learn.
    """
    factors = torch.as_tensor(scales, dtype=torch.float64)[:, None, None]
    anchors = (factors * torch.as_tensor(shapes, dtype=torch.float64)).flatten(0, 1)
    boxes = sizes.to(torch.float64)[:, None]
    common = torch.minimum(boxes, anchors).prod(-1)
    return float((common / (boxes.prod(-1) + anchors.prod(-1) - common)).amax(1).mean())


def fit_anchor_shapes(
    samples: Sequence[Any], scales: Sequence[float], num_shapes: int = 3, spatial_dims: int | None = None
) -> list[list[float]]:
    """Sizes of anchors at the finest level from the boxes of preprocessed training samples.

    The usual size of 16 voxels in the plane is kept where the levels then span the boxes; it shrinks to the small ones
    and grows with the large ones. Every box is divided by the scale of the level nearest to its size, and what is left
    is put into groups by k-means on logarithms, so that twice as long and half as long count alike.

    Args:
        samples: with ``box`` ``N 2d``, lower corners first; of more than 256, evenly spaced ones are looked at.
        scales: of the anchors at each level, finest first.
        num_shapes: anchors per cell; fewer where boxes have fewer sizes.
        spatial_dims: refuse boxes of another number of axes.

    Returns:
        Sizes in voxels along the array's axes, smallest first, to a tenth.

    Raises:
        ValueError: if no sample has a box, or boxes have other than ``spatial_dims`` axes.
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
    sizes = (boxes[:, dims:] - boxes[:, :dims]).clamp(min=1.0)  # an object cut by the border may leave a sliver
    octaves = torch.as_tensor(scales, dtype=torch.float64).log2()
    in_plane = sizes[:, :2].log2().mean(1)
    level = (in_plane[:, None] - _finest(in_plane, octaves) - octaves).abs().argmin(1)
    shapes = _groups(sizes.log2() - octaves[level][:, None], num_shapes).exp2()
    found: list[list[float]] = [[round(length, 1) for length in shape] for shape in shapes.tolist()]
    logger.info(
        "anchors at the finest level, from %d boxes: %s voxels; the best fits a box with a mean IoU of %.2f",
        len(sizes), ", ".join(" × ".join(f"{length:g}" for length in shape) for shape in found),
        anchor_coverage(sizes, found, scales),
    )  # fmt: skip
    return found


def _finest(in_plane: Tensor, octaves: Tensor) -> float:
    """log2 of the anchors' size at the finest level. Tenths on either side may lie outside: single boxes mislead."""
    low, high = torch.quantile(in_plane, torch.tensor([0.1, 0.9], dtype=torch.float64)).tolist()
    return float(min(low, max(math.log2(USUAL_SIZE), high - float(octaves.max()))))


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

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Small ellipsoidal lesions inside an organ, and the boxes round them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["LESION_RADIUS_MM", "instance_boxes", "place_lesions"]

LESION_RADIUS_MM = (10.0, 18.0)
LEAST_RADIUS = (1.6, 1.6, 1.0)  # voxels: smaller ones would be noise in a coarse phantom
GAP = 2.0  # voxels between two lesions
RIM = (1.5, 1.5, 0.0)  # voxels of organ round a lesion: scanners blur in the plane, and an edge would hide the lesion
ATTEMPTS = 60  # for each lesion, before a crowded or small organ is left with fewer


def place_lesions(
    organ: npt.NDArray[np.bool_], spacing: Sequence[float], number: int, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """Put lesions into an organ: each wholly inside it, off its edge in the plane, inside the picture, and apart
    from the others.

    Args:
        organ: ``W H S``; S is 1 for an image.
        spacing: mm per voxel along each axis.
        number: how many; fewer where the organ has no room.
        rng: drawn from.

    Returns:
        ``W H S``: 0 outside, 1, 2 … in the first, second … lesion.
    """
    instances = np.zeros(organ.shape, np.uint8)
    inside = np.argwhere(organ)
    shape = np.array(organ.shape)
    thick = shape > 1  # a single slice cuts the lesion in its middle
    found = 0
    for _ in range(ATTEMPTS * number * bool(len(inside))):
        centre = inside[rng.integers(len(inside))] + rng.uniform(-0.5, 0.5, 3) * thick
        radii = rng.uniform(*LESION_RADIUS_MM) * rng.uniform(0.8, 1.25, 3) / np.array(spacing)
        radii = np.maximum(radii, LEAST_RADIUS)
        outer = radii + RIM
        fits = (centre - outer > -0.5) & (centre + outer < shape - 0.5) | ~thick
        rim, near = _ellipsoid(organ.shape, centre, outer), _ellipsoid(organ.shape, centre, radii + GAP)
        if fits.all() and organ[rim].all() and not instances[near].any():
            found += 1
            instances[_ellipsoid(organ.shape, centre, radii)] = found
            if found == number:
                break
    return instances


def instance_boxes(instances: npt.NDArray[np.uint8]) -> list[list[int]]:
    """Smallest half-open box ``[lower corner, upper corner]`` of each number from 1, in the array's axis order."""
    places = [np.argwhere(instances == number) for number in range(1, int(instances.max(initial=0)) + 1)]
    return [[*map(int, place.min(axis=0)), *(int(end) + 1 for end in place.max(axis=0))] for place in places]


def _ellipsoid(
    shape: tuple[int, ...], centre: npt.NDArray[np.float64], radii: npt.NDArray[np.float64]
) -> npt.NDArray[np.bool_]:
    """Voxels whose centre lies inside."""
    axes = np.ogrid[tuple(slice(length) for length in shape)]
    square = sum(((axis - c) / r) ** 2 for axis, c, r in zip(axes, centre, radii, strict=True))
    inside: npt.NDArray[np.bool_] = np.asarray(square <= 1)
    return inside

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""How large, small and odd an input may be before it is refused or warned about."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Limits"]


@dataclass(frozen=True)
class Limits:
    """Limits of the checks; every one can be changed.

    Attributes:
        max_decoded_bytes: decoded size of one volume (2 GiB: 512 × 512 × 4096 voxels of 16 bits).
        max_picture_pixels: pixels of one 2D image (100 million; a mammogram has 15 million).
        min_side: fewest voxels along the two longest axes.
        min_slices: a volume of fewer slices is warned about.
        min_spacing, max_spacing: mm per voxel that scanners make; outside is refused.
        max_extent: mm along any axis; a whole body is 2 m long.
        max_anisotropy: largest ratio of spacings before a warning.
        max_shear: largest |cosine| between two axes before a warning (1e-2 is half a degree of gantry tilt).
        max_magnitude: absolute value that float32 arithmetic still squares without overflow.
        max_nonfinite: share of NaN and infinite values above which a volume is refused.
        nearly_constant: share of one value above which a volume counts as nearly constant.
        memory_bytes: address space that one worker process may add to what it starts with.
        seconds: time one item may take.
    """

    max_decoded_bytes: int = 2 * 2**30
    max_picture_pixels: int = 100_000_000
    min_side: int = 8
    min_slices: int = 4
    min_spacing: float = 0.005
    max_spacing: float = 50.0
    max_extent: float = 3000.0
    max_anisotropy: float = 25.0
    max_shear: float = 1e-2
    max_magnitude: float = 1e18
    max_nonfinite: float = 0.5
    nearly_constant: float = 0.999
    memory_bytes: int = 4 * 2**30
    seconds: float = 120.0

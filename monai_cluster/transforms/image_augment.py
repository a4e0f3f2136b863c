# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Augmentations of a 2D image or slice; grey values only, so no hue and no saturation."""

from __future__ import annotations

from monai.config import KeysCollection
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandBiasFieldd,
    RandFlipd,
    RandGaussianNoised,
    RandScaleIntensityd,
    RandShiftIntensityd,
)

from monai_cluster.keys import ClusterKeys

from .blur import RandEdgeBlurd

__all__ = ["image_augmentations"]


def image_augmentations(keys: KeysCollection = ClusterKeys.IMAGE, strength: float = 1.0) -> Compose:
    """Flips, intensity scale and shift, gamma, noise, blur and bias field; all but the blur are MONAI's transforms.

    Args:
        keys: entries ``C H W`` with intensities in 0..1.
        strength: multiplies the amplitudes of the intensity changes; 0 leaves flips only.

    Raises:
        ValueError: for a negative strength.
    """
    if strength < 0:
        raise ValueError(f"strength must not be negative, got {strength}; 1 is the default, 0 leaves flips only")
    flips = [RandFlipd(keys, prob=0.5, spatial_axis=axis) for axis in (0, 1)]
    if strength == 0:
        return Compose(flips)
    return Compose(
        [
            *flips,
            RandScaleIntensityd(keys, factors=0.2 * strength, prob=0.8),
            RandShiftIntensityd(keys, offsets=0.1 * strength, prob=0.8),
            RandAdjustContrastd(keys, prob=0.5, gamma=(1 / (1 + 0.7 * strength), 1 + 0.7 * strength)),
            RandGaussianNoised(keys, prob=0.3, std=0.05 * strength),
            RandEdgeBlurd(keys, [(0.1, 0.1 + 1.4 * strength)] * 2, prob=0.5),
            RandBiasFieldd(keys, prob=0.3, degree=3, coeff_range=(-0.2 * strength, 0.2 * strength)),
        ]
    )

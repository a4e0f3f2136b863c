# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Intensity augmentation for labelled patches."""

from __future__ import annotations

from monai.config import KeysCollection
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandShiftIntensityd,
)

from monai_cluster.keys import ClusterKeys

__all__ = ["finetune_intensity"]


def finetune_intensity(keys: KeysCollection = ClusterKeys.IMAGE, strength: float = 1.0) -> Compose:
    """Contrast, brightness, noise and blur of images in 0..1; nothing that moves a voxel.

    Args:
        keys: the images.
        strength: 0 leaves the image, 1 is mild, as for a scanner of another maker.

    Raises:
        ValueError: for a strength below 0.
    """
    if strength < 0:
        raise ValueError(f"strength must be 0 or more, got {strength}.")
    if strength == 0:
        return Compose([])
    return Compose(
        [
            RandAdjustContrastd(keys, prob=0.3, gamma=(1 / (1 + 0.4 * strength), 1 + 0.4 * strength)),
            RandScaleIntensityd(keys, factors=0.15 * strength, prob=0.3),
            RandShiftIntensityd(keys, offsets=0.05 * strength, prob=0.3),
            RandGaussianNoised(keys, prob=0.2, std=0.03 * strength),
            RandGaussianSmoothd(keys, prob=0.15, sigma_x=(0.3, 0.9), sigma_y=(0.3, 0.9), sigma_z=(0.01, 0.3)),
        ]
    )

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""MONAI transforms that turn images and volumes into the views that contrastive clustering compares."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .blur import RandEdgeBlur as RandEdgeBlur
    from .blur import RandEdgeBlurd as RandEdgeBlurd
    from .finetune_augment import finetune_intensity as finetune_intensity
    from .image_augment import image_augmentations as image_augmentations
    from .intensity import ModalityIntensity as ModalityIntensity
    from .intensity import ModalityIntensityd as ModalityIntensityd
    from .multi_crop import MultiCrop as MultiCrop
    from .multi_crop import MultiCropd as MultiCropd
    from .multi_crop import RandResizedCrop as RandResizedCrop
    from .multi_crop import RandResizedCropd as RandResizedCropd
    from .multi_view import MultiView as MultiView
    from .multi_view import MultiViewd as MultiViewd
    from .random_patch import RandImageAffined as RandImageAffined
    from .random_patch import RandLabelledPatchd as RandLabelledPatchd
    from .shared_random_state import SharedRandomState as SharedRandomState
    from .slices import SelectSlice as SelectSlice
    from .slices import SelectSliced as SelectSliced
    from .slices import SliceVolume as SliceVolume
    from .slices import SliceVolumed as SliceVolumed
    from .slices import StackSlices as StackSlices
    from .slices import StackSlicesd as StackSlicesd
    from .view_recipes import image_views as image_views
    from .view_recipes import volume_views as volume_views
    from .volume_augment import InPlane as InPlane
    from .volume_augment import InPlaned as InPlaned
    from .volume_augment import RandAnisotropy as RandAnisotropy
    from .volume_augment import RandAnisotropyd as RandAnisotropyd
    from .volume_augment import RandVolumeFlipd as RandVolumeFlipd
    from .volume_augment import volume_augmentations as volume_augmentations

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "finetune_augment": ["finetune_intensity"],
        "random_patch": ["RandImageAffined", "RandLabelledPatchd"],
        "blur": ["RandEdgeBlur", "RandEdgeBlurd"],
        "image_augment": ["image_augmentations"],
        "intensity": ["ModalityIntensity", "ModalityIntensityd"],
        "multi_crop": ["MultiCrop", "MultiCropd", "RandResizedCrop", "RandResizedCropd"],
        "multi_view": ["MultiView", "MultiViewd"],
        "shared_random_state": ["SharedRandomState"],
        "slices": ["SelectSlice", "SelectSliced", "SliceVolume", "SliceVolumed", "StackSlices", "StackSlicesd"],
        "view_recipes": ["image_views", "volume_views"],
        "volume_augment": [
            "InPlane",
            "InPlaned",
            "RandAnisotropy",
            "RandAnisotropyd",
            "RandVolumeFlipd",
            "volume_augmentations",
        ],
    },
)

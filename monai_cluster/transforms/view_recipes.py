# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The random half of the pipeline, ready to name in a configuration: views of images and of volumes."""

from __future__ import annotations

from collections.abc import Sequence

from monai.transforms import Compose, OneOf, Transform

from monai_cluster.keys import ClusterKeys

from .image_augment import image_augmentations
from .multi_crop import MultiCropd, RandResizedCropd
from .multi_view import MultiViewd
from .slices import Sampling, SliceVolumed
from .volume_augment import VOLUME_AUGMENTATIONS, volume_augmentations

__all__ = ["image_views", "volume_views"]


def image_views(
    size: int = 224,
    local_size: int = 96,
    num_global: int = 2,
    num_local: int = 6,
    global_scale: Sequence[float] = (0.14, 1.0),
    local_scale: Sequence[float] = (0.05, 0.14),
    strength: float = 1.0,
    min_foreground: float = 0.0,
) -> Compose:
    """Multi-crop views of 2D images and slices, each with its own augmentation.

    Args:
        size: side of the global views in pixels.
        local_size: side of the local views.
        num_global: number of global views.
        num_local: number of local views.
        global_scale: range of the global crops' share of the area.
        local_scale: range of the local crops' share of the area.
        strength: amplitude of the intensity augmentations.
        min_foreground: share of each crop that must not be black, if ten draws find it; 0 takes every crop.

    Returns:
        transform of ``{"image": C H W}`` that writes ``views``.
    """
    crops = MultiCropd(
        ClusterKeys.IMAGE,
        size,
        local_size,
        num_global,
        num_local,
        (global_scale[0], global_scale[1]),
        (local_scale[0], local_scale[1]),
        augment=image_augmentations(strength=strength),
        min_foreground=min_foreground,
    )
    return Compose([crops])


def volume_views(
    num_slices: int | None = 64,
    size: int | None = None,
    sampling: Sampling = "even",
    match_slices: bool = True,
    augmentations: Sequence[str] = VOLUME_AUGMENTATIONS,
    distinct: bool = True,
    num_global: int = 2,
    crop_scale: Sequence[float] | None = None,
    num_local: int = 0,
    local_slices: int | None = None,
    local_size: int | None = None,
    local_scale: Sequence[float] = (0.14, 0.5),
) -> Compose:
    """Views of a volume whose slice axis is last; each gets one augmentation of the paper's seven.

    Args:
        num_slices: slices per global view; None takes all. Shorter volumes keep what they have, the loader pads.
        size: side of the global views in pixels; None keeps the size of the input (then ``crop_scale`` must be None).
        sampling: how the slices are drawn, see :class:`SliceVolume`.
        match_slices: all views are made of the same slices, so that slices can be compared by ``slice_index``;
            nothing then rotates out of plane or mixes slices. Otherwise each view draws its own slices.
        augmentations: names of the augmentations to draw from.
        distinct: no two global views get the same augmentation.
        num_global: number of global views.
        crop_scale: range of the random in-plane crops' share of the area; None does not crop.
        num_local: number of local views: random crops of ``local_slices`` neighbouring slices.
        local_slices: slices per local view, half of ``num_slices`` by default.
        local_size: side of the local views, half of ``size`` by default.
        local_scale: range of the local crops' share of the area.

    Returns:
        transform of ``{"image": C H W S}`` that writes ``views``, ``slice_index``, ``slice_position`` and ``padded``.

    Raises:
        ValueError: when a crop is asked for and no size is known.
    """
    key = ClusterKeys.IMAGE
    if size is None and (crop_scale is not None or (num_local and local_size is None)):
        raise ValueError("crops need a size, got size=None; give the side of the views in pixels")

    def draw(count: int | None, how: Sampling) -> SliceVolumed:
        return SliceVolumed(key, -1, num_slices=count, sampling=how)

    def view(augmentation: Transform) -> Compose:
        steps: list[Transform] = [] if match_slices else [draw(num_slices, sampling)]
        if size is not None:
            low, high = crop_scale or (1.0, 1.0)  # the whole slice, resized
            steps.append(RandResizedCropd(key, size, (low, high)))
        return Compose([*steps, augmentation])

    candidates = volume_augmentations(key, augmentations, through_plane=not match_slices)
    local = None
    if num_local:
        few = local_slices or max(1, (num_slices or 2) // 2)
        side = local_size or max(1, (size or 2) // 2)
        crop = RandResizedCropd(key, side, (local_scale[0], local_scale[1]))
        pick = OneOf(volume_augmentations(key, augmentations, through_plane=not match_slices))
        local = Compose([draw(few, "window"), crop, pick])
    views = MultiViewd(key, [view(one) for one in candidates], local, num_global, num_local, distinct)
    return Compose([draw(num_slices, sampling), views] if match_slices else [views])

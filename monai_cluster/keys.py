# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Every dictionary key that the package reads or writes, in one place."""

from __future__ import annotations

__all__ = ["ClusterKeys"]


class ClusterKeys:
    """Names of dictionary entries, in the order in which a sample meets them.

    Letters used everywhere in the package: B batch, V views, G global views (the first G of V), S slices, C H W
    channels
    and in-plane size, F encoder features, D embedding, K prototypes, N samples.
    """

    # one datalist row
    IMAGE = "image"  # path; after loading MetaTensor `C H W` (2D) or `C H W S` (3D, slice axis last)
    LABEL = "label"  # class of the row; for segmentation a path, then class ids on the image's grid
    BOX = "box"  # detection: corners `N 2d`; datalists count columns first in pictures, arrays always in axis order
    BOX_LABEL = "box_label"  # int `N`
    SCORE = "score"  # of a predicted box, 0..1
    PRED = "pred"
    KIND = "kind"  # "image" or "volume"
    MODALITY = "modality"  # "CT", "MR", "XR", ... as free text; drives the intensity scaling
    SUBJECT = "subject"  # patient: rows of one subject are never split
    SAMPLE_INDEX = "sample_index"  # int, stable and global over all sources: the memory bank's row
    GROUP = "group"  # int: samples of one group (slices of one volume) stay out of one another's batch

    # one sample after the transforms
    VIEWS = "views"  # list of V tensors, the G global ones first
    SLICE_INDEX = "slice_index"  # int64 `S`: index in the source volume, -1 where padded
    SLICE_POSITION = "slice_position"  # float32 `S`: mm along the slice normal
    PADDED = "padded"  # bool `S`: True where the slice is padding

    # one batch of the joint loader
    IMAGES = "images"
    VOLUMES = "volumes"

    # what the trainer reports
    LOSS = "loss"
    IMAGE_LOSS = "image_loss"
    VOLUME_LOSS = "volume_loss"
    MASK_LOSS = "mask_loss"
    SLICE_LOSS = "slice_loss"

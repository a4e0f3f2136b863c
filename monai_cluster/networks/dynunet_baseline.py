# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What one would train without any pretraining: MONAI's DynUNet, as a baseline for comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.dynunet import DynUNet
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["DynUNetBaseline"]


class DynUNetBaseline(nn.Module):
    """MONAI's DynUNet (the architecture of nnU-Net, Isensee et al. 2021) for images and volumes of any size.

    Args:
        spatial_dims: 2 or 3.
        in_channels: of the images.
        out_channels: classes, background included.
        filters: channels of each level; every level but the first halves the in-plane size.
        slice_levels: how many of these levels also halve the number of slices, the deepest ones; thick slices want few.

    Raises:
        ValueError: for fewer than three levels (MONAI's least), or more slice levels than there are.
    """

    def __init__(
        self,
        spatial_dims: int = 3,
        in_channels: int = 1,
        out_channels: int = 2,
        filters: Sequence[int] = (32, 64, 128, 256),
        slice_levels: int = 2,
    ) -> None:
        super().__init__()
        if len(filters) < 3 or not 0 <= slice_levels < len(filters):
            raise ValueError(
                f"DynUNetBaseline needs at least three levels and slice_levels below their number, got {list(filters)} "
                f"and {slice_levels}."
            )
        self._architecture = {
            "spatial_dims": spatial_dims,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "filters": list(filters),
            "slice_levels": slice_levels,
        }
        strides: list[Any] = [1]
        for level in range(1, len(filters)):
            slices = 2 if len(filters) - level <= slice_levels else 1
            strides.append([2, 2, slices] if spatial_dims == 3 else [2, 2])
        self.multiple: list[int] = [2 ** (len(filters) - 1)] * 2 + ([2**slice_levels] if spatial_dims == 3 else [])
        self.unet = DynUNet(
            spatial_dims=spatial_dims,
            in_channels=in_channels,
            out_channels=out_channels,
            kernel_size=[3] * len(filters),
            strides=strides,
            upsample_kernel_size=strides[1:],
            filters=list(filters),
            norm_name="instance",
            res_block=False,
        )

    def forward(self, image: Tensor) -> Tensor:
        """Scores ``B K …`` of ``B C …``; padded inside to what the levels divide."""
        size = image.shape[2:]
        padding: list[int] = []
        for length, multiple in zip(reversed(size), reversed(self.multiple), strict=True):
            # Instance norm needs more than one value at the deepest level.
            padding += [0, max(2 * multiple, -(-length // multiple) * multiple) - length]
        scores: Tensor = self.unet(F.pad(image, padding))
        places = (slice(None), slice(None), *[slice(0, length) for length in size])
        return scores[places]

    @torch.jit.unused
    def pretrained_modules(self) -> list[list[nn.Module]]:
        """None: everything is new."""
        return []

    @torch.jit.unused
    def architecture(self) -> dict[str, Any]:
        """Arguments that build this network again."""
        return dict(self._architecture)

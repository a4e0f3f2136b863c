# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A 3D U-Net that starts from inflated 2D weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.flexible_unet import FlexibleUNet
from torch import Tensor, nn
from torch.nn import functional as F

from .flexible_unet import register_flexible_unet_encoders
from .resnet_stages import stage_channels_of
from .safe_stages import safe_stages
from .slice_decoder import check_decoder_channels

__all__ = ["InflatedUNet"]

STRIDE = 32  # of the deepest map


class InflatedUNet(nn.Module):
    """MONAI's FlexibleUNet on a 3D ResNet whose kernels come from 2D ones.

    ``monai_cluster.weights.load_pretrained_into`` inflates a 2D file's kernels on loading. Volumes are padded inside,
    in plane by zeros and along the slices by repeating the last one: a few slices then meet what inflated kernels
    expect, neighbours that look alike.

    Args:
        model: ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101``.
        in_channels: channels of the volumes.
        out_channels: K, classes with the background.
        decoder_channels: at 1/16, 1/8, 1/4, 1/2 and 1/1 of the size.

    Raises:
        ValueError: for an unknown model, other decoder channels or fewer than one class.
    """

    def __init__(
        self,
        model: str = "resnet18",
        in_channels: int = 1,
        out_channels: int = 2,
        decoder_channels: Sequence[int] = (256, 128, 64, 32, 16),
    ) -> None:
        super().__init__()
        stage_channels_of(model)
        widths = check_decoder_channels(decoder_channels)
        if in_channels < 1 or out_channels < 1:
            raise ValueError(f"in_channels and out_channels must be at least 1, got {in_channels} and {out_channels}.")
        self._architecture = {
            "model": model,
            "in_channels": in_channels,
            "out_channels": out_channels,
            "decoder_channels": widths,
        }
        self.stride = STRIDE
        register_flexible_unet_encoders()
        self.unet = FlexibleUNet(
            in_channels=in_channels,
            out_channels=out_channels,
            backbone=f"cluster_{model}",
            decoder_channels=tuple(widths),
            spatial_dims=3,
            # Batches of one or two volumes have no useful statistics, and with one group of channels it stalls early.
            norm=("instance", {"affine": True}),
            is_pad=False,
        )

    def forward(self, image: Tensor) -> Tensor:
        """Scores before the softmax, ``B K H W S`` from ``B C H W S`` of any size.

        Raises:
            ValueError: if ``image`` has another number of axes.
        """
        if image.dim() != 5:
            raise ValueError(f"image must be B C H W S, got {list(image.shape)}: images need ContextSliceUNet.")
        height, width, num_slices = image.shape[2], image.shape[3], image.shape[4]
        x = F.pad(image, [0, -num_slices % self.stride, 0, 0, 0, 0], mode="replicate")
        x = F.pad(x, [0, 0, 0, -width % self.stride, 0, -height % self.stride])
        maps = self._maps(x)
        scores: Tensor = self.unet.segmentation_head(self.unet.decoder(maps, self.unet.skip_connect))
        return scores[:, :, :height, :width, :num_slices]

    def _maps(self, x: Tensor) -> list[Tensor]:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            maps: list[Tensor] = self.unet.encoder(x)
            return maps
        return safe_stages(self.unet.encoder, x)

    @torch.jit.unused
    def pretrained_modules(self) -> list[list[nn.Module]]:
        """Modules with pretrained weights in order of depth."""
        encoder: Any = self.unet.encoder
        levels: list[list[nn.Module]] = encoder.depth_levels()
        return levels

    @torch.jit.unused
    def architecture(self) -> dict[str, Any]:
        """Arguments that build this network again."""
        return dict(self._architecture)

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""MONAI's ResNets in torchvision's layout, returning the map of every stage."""

from __future__ import annotations

import torch
from monai.networks.nets.resnet import ResNet
from torch import Tensor, nn

__all__ = ["RESNETS", "ResNetStages", "stage_channels_of"]

# name: (block, blocks per stage)
RESNETS: dict[str, tuple[str, list[int]]] = {
    "resnet18": ("basic", [2, 2, 2, 2]),
    "resnet34": ("basic", [3, 4, 6, 3]),
    "resnet50": ("bottleneck", [3, 4, 6, 3]),
    "resnet101": ("bottleneck", [3, 4, 23, 3]),
}
WIDTHS = [64, 128, 256, 512]


def stage_channels_of(model: str) -> list[int]:
    """Channels of the four stages' maps.

    Raises:
        ValueError: for an unknown name.
    """
    if model not in RESNETS:
        raise ValueError(f"model must be one of {', '.join(RESNETS)} or a module with stage_channels, got {model!r}.")
    return [width * (4 if RESNETS[model][0] == "bottleneck" else 1) for width in WIDTHS]


class ResNetStages(ResNet):
    """A ResNet whose state dict has exactly torchvision's names and whose forward returns the four stage maps.

    MONAI's defaults differ from torchvision's in three silent ways (stem stride 1, a bias in the shortcut, shortcut "A"
    for the small ones); with these arguments features of torchvision weights are bit-identical.

    Args:
        model: ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101``.
        in_channels: channels of the input; the stem has as many.
        spatial_dims: 2 for images and slices, 3 for volumes.

    Raises:
        ValueError: for an unknown name or ``in_channels`` below 1.
    """

    def __init__(self, model: str = "resnet50", in_channels: int = 1, spatial_dims: int = 2) -> None:
        channels = stage_channels_of(model)
        if in_channels < 1:
            raise ValueError(f"in_channels must be at least 1, got {in_channels}.")
        block, layers = RESNETS[model]
        super().__init__(
            block=block,
            layers=layers,
            block_inplanes=WIDTHS,
            spatial_dims=spatial_dims,
            n_input_channels=in_channels,
            conv1_t_stride=2,
            shortcut_type="B",
            bias_downsample=False,
            feed_forward=False,
        )
        self.stage_channels = channels

    def stem(self, x: Tensor) -> Tensor:
        """The first convolution's map at half the size, before the maximum pooling."""
        out: Tensor = self.act(self.bn1(self.conv1(x)))
        return out

    def after_stem(self, stem: Tensor) -> list[Tensor]:
        """Maps of the four stages from the stem's map."""
        first = self.layer1(self.maxpool(stem))
        second = self.layer2(first)
        third = self.layer3(second)
        return [first, second, third, self.layer4(third)]

    def forward(self, x: Tensor) -> list[Tensor]:  # type: ignore[override]
        """Maps of the four stages at 1/4, 1/8, 1/16 and 1/32 of the size, from ``N C H W``."""
        return self.after_stem(self.stem(x))

    @torch.jit.unused
    def depth_levels(self) -> list[list[nn.Module]]:
        """Stem and stages in order of depth: what to freeze, or to give learning rates of their own."""
        return [[self.conv1, self.bn1], [self.layer1], [self.layer2], [self.layer3], [self.layer4]]

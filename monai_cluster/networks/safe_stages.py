# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A ResNet's stages, in float32 where autocast on a CPU would compute them from memory that was never written."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["bfloat16_is_unsafe", "safe_stages"]

STAGE_STRIDES = (4, 8, 16, 32)


def bfloat16_is_unsafe(x: Tensor) -> bool:
    """Whether PyTorch 2.13 computes a ResNet on ``N C ... W`` wrongly in autocast on a CPU, in 2D and in 3D.

    Its 3 × 3 (× 3) bfloat16 convolutions with stride 2 are wrong where the last axis comes out as one element and the
    one before it as several, and so are their weight gradients where the last axis goes in as one element. A volume
    of 64 × 64 × 32 voxels is enough.
    """
    if x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    height, width = x.shape[-2:]
    lost_gradients = torch.is_grad_enabled() and width <= STAGE_STRIDES[-2]
    return lost_gradients or any(width <= stride < height for stride in STAGE_STRIDES)


def safe_stages(backbone: nn.Module, x: Tensor) -> list[Tensor]:
    """The backbone's maps; without autocast where it is unsafe. The maps concerned are small, so this costs little."""
    if bfloat16_is_unsafe(x):
        with torch.autocast("cpu", enabled=False):
            maps: Any = backbone(x.float())
    else:
        maps = backbone(x)
    stages: list[Tensor] = maps
    return stages

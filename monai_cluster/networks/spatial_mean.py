# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Global average pooling whose gradient leaves the memory layout of the maps alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["spatial_mean"]


class _SpatialMean(torch.autograd.Function):
    """The gradient is one number per map, expanded without being written out.

    That of ``Tensor.mean`` is written out, and always as NCHW. Where it meets the gradient of the next stage, the sum
    is NCHW too, and the backward pass of a whole block of a channels-last network then converts back and forth.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        ctx.shape = maps.shape
        pooled: Tensor = maps.mean(dim=(2, 3))
        return pooled

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        height, width = ctx.shape[2:]
        of_maps: Tensor = (grad / (height * width))[:, :, None, None].expand(ctx.shape)
        return of_maps


def spatial_mean(maps: Tensor) -> Tensor:
    """Mean over height and width: ``N C`` from ``N C H W``; compiles with ``torch.jit.script``."""
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return maps.mean(dim=(2, 3))
    pooled: Tensor = _SpatialMean.apply(maps)  # type: ignore[no-untyped-call]
    return pooled

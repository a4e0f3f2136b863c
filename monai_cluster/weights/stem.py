# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A first convolution for another number of input channels."""

from __future__ import annotations

from torch import Tensor

__all__ = ["fold_stem"]


def fold_stem(weight: Tensor, in_channels: int) -> Tensor:
    """Change a convolution's input channels so that an image repeated over them gives the same map as before.

    From three channels to one this sums the kernels: exactly what the three-channel network computes on an image
    repeated three times, at a third of the work.

    Args:
        weight: ``out in ...``, the kernels.
        in_channels: the new ``in``.
    """
    return (weight.sum(dim=1, keepdim=True) / in_channels).expand(-1, in_channels, *weight.shape[2:]).contiguous()

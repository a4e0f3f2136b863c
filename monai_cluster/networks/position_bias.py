# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Attention that depends on how far apart two slices lie."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .precision import at_least_fp32

__all__ = ["LogDistanceBias"]


class LogDistanceBias(nn.Module):
    """``a·u + b·|u| + c·exp(−u²)`` of the signed log distance ``u = sign(d)·log(1 + |d|)``, learned for each head.

    a and b are power laws of distance on either side, c raises or lowers the slice's own neighbourhood. Continuous in
    d, so it takes fractional sampling positions and millimetres alike. A small network on every pair of query and key
    costs ten times as much (more than all the rest of the attention), a table of knots four times.

    The heads start from no decay to attention proportional to 1 / (1 + |d|), so that some look far and some near.

    Args:
        num_heads: one function for each.
    """

    def __init__(self, num_heads: int) -> None:
        super().__init__()
        self.odd = nn.Parameter(torch.zeros(num_heads))
        self.even = nn.Parameter(torch.linspace(0.0, -1.0, num_heads) if num_heads > 1 else torch.zeros(1))
        self.near = nn.Parameter(torch.zeros(num_heads))

    def forward(self, query_position: Tensor, key_position: Tensor) -> Tensor:
        """Bias ``B heads S m`` in fp32 or better.

        Args:
            query_position: ``B S`` or ``1 S``, in slices or mm.
            key_position: ``B heads m``, in the same unit.
        """
        distance = at_least_fp32(query_position)[:, None, :, None] - at_least_fp32(key_position)[:, :, None, :]
        size = distance.abs().log1p()
        signed = torch.copysign(size, distance)
        odd, even, near = (part[:, None, None] for part in (self.odd, self.even, self.near))
        return odd * signed + even * size + near * torch.exp(-size.square())

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Attention that depends on how far apart two slices lie."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .precision import at_least_fp32

__all__ = ["LogDistanceBias"]


class _LogDistance(torch.autograd.Function):
    """``odd·u + even·|u| + near / (1 + |d|)``; by hand: each pass over all pairs costs what the attention does."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, odd: Tensor, even: Tensor, near: Tensor) -> Tensor:
        distance = query[:, None, :, None] - key[:, :, None, :]
        closeness = distance.abs().add_(1).reciprocal_()
        size = closeness.log().neg_()
        bias = size * even
        signed = torch.copysign(size, distance)
        ctx.save_for_backward(signed, closeness, odd, even, near)
        return bias.addcmul_(signed, odd).addcmul_(closeness, near)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor, Tensor]:
        signed, closeness, odd, even, near = ctx.saved_tensors
        sign = torch.copysign(torch.ones((), dtype=grad.dtype, device=grad.device), signed)
        work = grad * signed
        of_odd = work.sum((0, 2, 3)).view_as(odd)
        of_even = work.mul_(sign).sum((0, 2, 3)).view_as(even)
        of_near = torch.mul(grad, closeness, out=work).sum((0, 2, 3)).view_as(near)
        # work = grad / (1 + |d|); the bias's slope in d is (odd + sign·(even − near / (1 + |d|))) / (1 + |d|).
        slope = (closeness * near).neg_().add_(even).mul_(sign).add_(odd).mul_(work)
        of_query = slope.sum((1, 3)) if ctx.needs_input_grad[0] else None
        of_key = slope.sum(2).neg_() if ctx.needs_input_grad[1] else None
        return of_query, of_key, of_odd, of_even, of_near


def _log_distance(query: Tensor, key: Tensor, odd: Tensor, even: Tensor, near: Tensor) -> Tensor:
    """The same with plain operations, for where Python functions cannot follow: TorchScript and exported graphs."""
    distance = query[:, None, :, None] - key[:, :, None, :]
    closeness = 1 / (1 + distance.abs())
    size = -closeness.log()
    return size * even + torch.copysign(size, distance) * odd + closeness * near


class LogDistanceBias(nn.Module):
    """``a·u + b·|u| + c·exp(−|u|)`` of the signed log distance ``u = sign(d)·log(1 + |d|)``, learned for each head.

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
            query_position: ``B S``, in slices or mm.
            key_position: ``B heads m``, in the same unit.
        """
        odd, even, near = self.odd[:, None, None], self.even[:, None, None], self.near[:, None, None]
        query, key = at_least_fp32(query_position), at_least_fp32(key_position)
        key = key.expand(-1, len(self.odd), -1)
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return _log_distance(query, key, odd, even, near)
        bias: Tensor = _LogDistance.apply(query, key, odd, even, near)  # type: ignore[no-untyped-call]
        return bias

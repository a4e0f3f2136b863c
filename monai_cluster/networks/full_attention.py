# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Full attention across slices: the plain transformer's, behind the deformable one's interface."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .padding import check_slices, without_padding
from .position_bias import LogDistanceBias

__all__ = ["FullSliceAttention"]


class FullSliceAttention(nn.Module):
    """Every slice attends to every real slice; the baseline for :class:`DeformableSliceAttention`.

    Args:
        dim: F of the slices that come in and go out.
        num_heads: attention heads.
        head_dim: width of a head.
        position_bias: add the same learned function of distance; without it the order of slices does not matter.

    Raises:
        ValueError: if a size is below 1.
    """

    def __init__(self, dim: int = 640, num_heads: int = 8, head_dim: int = 64, position_bias: bool = True) -> None:
        super().__init__()
        if min(dim, num_heads, head_dim) < 1:
            raise ValueError("dim, num_heads and head_dim must be at least 1.")
        self.dim, self.num_heads, self.head_dim = dim, num_heads, head_dim
        self.to_qkv = nn.Linear(dim, 3 * num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, dim)
        self.position_bias = LogDistanceBias(num_heads) if position_bias else None

    def forward(self, slices: Tensor, padded: Tensor | None = None, position_mm: Tensor | None = None) -> Tensor:
        """Attend across slices ``B S F``; arguments, result and errors as in the deformable attention."""
        check_slices(slices, padded, position_mm, self.dim)
        return self.attend(slices, padded, position_mm)

    def attend(self, slices: Tensor, padded: Tensor | None, position_mm: Tensor | None) -> Tensor:
        """:meth:`forward` for callers that have checked their input."""
        attention, values = self._attention(slices, padded, position_mm)
        heads = torch.matmul(attention, values).transpose(1, 2)
        out: Tensor = self.to_out(heads.reshape(slices.shape[0], slices.shape[1], -1))
        return out

    def attention_over_slices(
        self, slices: Tensor, padded: Tensor | None = None, position_mm: Tensor | None = None
    ) -> Tensor:
        """Attention ``B heads S S``, rows sum to 1, columns of padded slices are 0."""
        check_slices(slices, padded, position_mm, self.dim)
        return self._attention(slices, padded, position_mm)[0]

    def _attention(self, slices: Tensor, padded: Tensor | None, position_mm: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, num_slices, _ = slices.shape
        heads = self.to_qkv(without_padding(slices, padded)).view(batch, num_slices, 3, self.num_heads, self.head_dim)
        queries, keys, values = heads.permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.matmul(queries * self.head_dim**-0.5, keys.transpose(-2, -1))
        if self.position_bias is not None:
            if position_mm is None:
                where = torch.arange(num_slices, device=slices.device, dtype=torch.float32)[None]
            else:
                where = position_mm if padded is None else position_mm.masked_fill(padded, 0)
            where = where.expand(batch, -1)
            scores = scores + self.position_bias(where, where[:, None]).to(scores.dtype)
        if padded is not None:
            scores = scores.masked_fill(padded[:, None, None], -torch.inf)
        return scores.softmax(-1), values

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Deformable attention along the slice axis."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .padding import check_slices, without_padding
from .position_bias import LogDistanceBias
from .precision import at_least_fp32

__all__ = [
    "DeformableSliceAttention",
    "SamplingPoints",
    "interpolate_slices",
    "interpolation_matrix",
    "sampling_points",
]


class SamplingPoints(NamedTuple):
    """Fractional slice positions as two neighbours and the upper one's weight, each ``B G m``."""

    lower: Tensor
    upper: Tensor
    weight: Tensor


def interpolation_matrix(points: SamplingPoints, num_slices: int) -> Tensor:
    """Interpolation as small matrices ``B G m S`` to multiply with; every row holds two weights that sum to 1."""
    places = torch.stack([points.lower, points.upper], dim=-1)
    weights = torch.stack([1 - points.weight, points.weight], dim=-1)
    batch, groups, number = points.weight.shape
    return weights.new_zeros([batch, groups, number, num_slices]).scatter_add(-1, places, weights)


def interpolate_slices(points: SamplingPoints, values: Tensor) -> Tensor:
    """One number per slice ``B S`` at the points: ``B G m``."""
    values = values[:, None].expand(-1, points.weight.shape[1], -1)
    return torch.lerp(values.gather(2, points.lower), values.gather(2, points.upper), points.weight)


def sampling_points(position: Tensor, counts: Tensor) -> SamplingPoints:
    """Neighbours and weights for linear interpolation with clamped borders.

    Args:
        position: ``B G m``, in slices, 0 at the first slice's centre; differentiable.
        counts: int64 ``B``, real slices of each volume; nothing behind them is sampled.
    """
    last = (counts - 1)[:, None, None]
    position = position.clamp(torch.zeros_like(last, dtype=position.dtype), last.to(position.dtype))
    # The interval left of the last slice, not the empty one right of it: the gradient there is then the slope.
    lower = position.detach().floor().long().minimum((last - 1).clamp(min=0))
    return SamplingPoints(lower, (lower + 1).minimum(last), position - lower)


class DeformableSliceAttention(nn.Module):
    """Every slice attends to a few slice positions that the volume itself chooses (arXiv:2212.01893, section 3).

    Sampling point j of offset group g stands at ``p_j = r·j + (r−1)/2 + r·Δ_j`` with ``Δ = s·tanh(w·GELU(depthwise
    convolution of the queries over slices))``; features are interpolated there and become keys and values. There are
    ``ceil(n / r)`` points for a volume of n real slices, however long its batch is. Point j's window covers the slices
    around ``r·j … r·j + r − 1``, with zeros beyond the volume.

    Padded slices (only at the end of a volume) are neither seen by the convolution nor sampled.

    Args:
        dim: F of the slices that come in and go out.
        num_heads: attention heads.
        head_dim: width of a head.
        stride: r, slices per sampling point.
        kernel_size: slices that the offset convolution sees.
        offset_scale: s, largest offset in units of ``stride`` slices.
        offset_groups: groups with offsets of their own, by default one per head. Each group samples its share of the
            features (F / groups) and its heads' keys and values come from those; 1 gives every head all features.
        position_bias: add a learned function of the distance between query and sampling point.

    Raises:
        ValueError: if a size is below 1, or the groups divide ``dim`` or the heads unevenly.
    """

    def __init__(
        self,
        dim: int = 640,
        num_heads: int = 8,
        head_dim: int = 64,
        stride: int = 4,
        kernel_size: int = 6,
        offset_scale: float = 2.0,
        offset_groups: int | None = None,
        position_bias: bool = True,
    ) -> None:
        super().__init__()
        groups = num_heads if offset_groups is None else offset_groups
        if min(dim, num_heads, head_dim, stride, kernel_size, groups) < 1:
            raise ValueError("dim, num_heads, head_dim, stride, kernel_size and offset_groups must be at least 1.")
        if num_heads % groups or dim % groups:
            raise ValueError(f"offset_groups must divide num_heads = {num_heads} and dim = {dim}, got {groups}.")
        inner = num_heads * head_dim
        self.dim, self.num_heads, self.head_dim, self.groups = dim, num_heads, head_dim, groups
        self.stride, self.kernel_size, self.offset_scale = stride, kernel_size, offset_scale
        self.to_q = nn.Linear(
            dim, inner, bias=False
        )  # without bias, so that a zero slice asks nothing of the convolution
        self.to_kv = nn.Parameter(torch.empty(groups, dim // groups, 2 * inner // groups))
        self.to_out = nn.Linear(inner, dim)
        self.offset_taps = nn.Parameter(torch.empty(kernel_size, inner))
        self.offset_bias = nn.Parameter(torch.zeros(inner))
        self.offset_weight = nn.Parameter(torch.empty(groups, inner // groups))
        self.position_bias = LogDistanceBias(num_heads) if position_bias else None
        self._reset_parameters()

    def _reset_parameters(self) -> None:
        bound = 1 / math.sqrt(self.to_kv.shape[1])
        nn.init.uniform_(self.to_kv, -bound, bound)
        nn.init.uniform_(self.offset_taps, -1 / math.sqrt(self.kernel_size), 1 / math.sqrt(self.kernel_size))
        nn.init.normal_(self.offset_weight, std=0.02)  # near the regular grid, yet with a gradient

    def forward(self, slices: Tensor, padded: Tensor | None = None, position_mm: Tensor | None = None) -> Tensor:
        """Attend across slices.

        Args:
            slices: ``B S F``.
            padded: bool ``B S``, True where there is no slice.
            position_mm: ``B S``, makes distances millimetres instead of slices.

        Returns:
            ``B S F``; rows of padded slices mean nothing.

        Raises:
            ValueError: if shapes disagree or padding stands before real slices.
            TypeError: if ``padded`` is not boolean.
        """
        check_slices(slices, padded, position_mm, self.dim)
        return self.attend(slices, padded, position_mm)

    def attend(self, slices: Tensor, padded: Tensor | None, position_mm: Tensor | None) -> Tensor:
        """:meth:`forward` for callers that have checked their input."""
        attention, values, _ = self._attention(slices, padded, position_mm)
        heads = torch.matmul(attention, values).transpose(1, 2)
        out: Tensor = self.to_out(heads.reshape(slices.shape[0], slices.shape[1], -1))
        return out

    def attention_over_slices(
        self, slices: Tensor, padded: Tensor | None = None, position_mm: Tensor | None = None
    ) -> Tensor:
        """How much each slice draws from each source slice, interpolation included.

        Args:
            slices: ``B S F``.
            padded: bool ``B S``.
            position_mm: ``B S``.

        Returns:
            ``B heads S S``, rows sum to 1, columns of padded slices are 0.

        Raises:
            ValueError: as :meth:`forward`.
            TypeError: as :meth:`forward`.
        """
        check_slices(slices, padded, position_mm, self.dim)
        attention, _, mixing = self._attention(slices, padded, position_mm)
        mixing = mixing.repeat_interleave(self.num_heads // self.groups, dim=1)
        return torch.matmul(attention.to(mixing.dtype), mixing)

    def sampling_positions(self, queries: Tensor) -> Tensor:
        """Positions ``B G m`` in slices, not yet clamped, from queries ``B S I`` that are zero on padding."""
        batch, num_slices, inner = queries.shape
        stride, num_points = self.stride, -(-num_slices // self.stride)
        # A strided depthwise convolution as one multiply-add per tap: six passes over a quarter of the queries.
        blocks = -(-self.kernel_size // stride) + num_points - 1
        before = (self.kernel_size - stride) // 2
        windows = F.pad(queries, (0, 0, before, blocks * stride - num_slices - before))
        phases = windows.view(batch, blocks, stride, inner).unbind(2)
        seen: Tensor = self.offset_bias
        for tap in range(self.kernel_size):
            first = tap // stride
            seen = torch.addcmul(seen, phases[tap % stride][:, first : first + num_points], self.offset_taps[tap])
        seen = F.gelu(seen).view(batch, num_points, self.groups, -1)
        offset = at_least_fp32((seen * self.offset_weight).sum(-1)).tanh().transpose(1, 2)
        base = torch.arange(num_points, device=queries.device, dtype=offset.dtype) * stride + (stride - 1) / 2
        return base + stride * self.offset_scale * offset

    def _attention(
        self, slices: Tensor, padded: Tensor | None, position_mm: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Attention ``B H S m``, values ``B H m d`` and interpolation ``B G m S``."""
        batch, num_slices, _ = slices.shape
        slices = without_padding(slices, padded)
        counts = torch.full((batch,), num_slices, device=slices.device) if padded is None else (~padded).sum(1)
        queries = self.to_q(slices)
        points = sampling_points(self.sampling_positions(queries), counts)
        mixing = interpolation_matrix(points, num_slices)
        grouped = slices.view(batch, num_slices, self.groups, -1).transpose(1, 2)
        sampled = torch.matmul(torch.matmul(mixing.to(grouped.dtype), grouped), self.to_kv)
        keys, values = self._split_heads(sampled)
        queries = queries.view(batch, num_slices, self.num_heads, -1).transpose(1, 2)
        keys = (keys * self.head_dim**-0.5).transpose(-2, -1)
        if self.position_bias is None:
            scores = torch.matmul(queries, keys)
        else:
            bias = self._bias(points, padded, position_mm, num_slices).to(keys.dtype)
            scores = torch.baddbmm(bias.flatten(0, 1), queries.flatten(0, 1), keys.flatten(0, 1)).view(bias.shape)
        if padded is not None:
            block = torch.arange(mixing.shape[2], device=slices.device) * self.stride
            scores = scores.masked_fill((block >= counts[:, None])[:, None, None], -torch.inf)
        return scores.softmax(-1), values, mixing

    def _split_heads(self, sampled: Tensor) -> tuple[Tensor, Tensor]:
        batch, groups, points, _ = sampled.shape
        split = sampled.view(batch, groups, points, 2, self.num_heads // groups, self.head_dim)
        keys, values = (
            split.permute(3, 0, 1, 4, 2, 5).reshape(2, batch, self.num_heads, points, self.head_dim).unbind(0)
        )
        return keys, values

    def _bias(
        self, points: SamplingPoints, padded: Tensor | None, position_mm: Tensor | None, num_slices: int
    ) -> Tensor:
        assert self.position_bias is not None
        if position_mm is None:
            where = torch.arange(num_slices, device=points.weight.device, dtype=points.weight.dtype)[None]
        else:
            where = position_mm.to(points.weight.dtype)
            where = where if padded is None else where.masked_fill(padded, 0)
        where = where.expand(points.weight.shape[0], -1)  # len() would fix the batch size of an export
        sampled = interpolate_slices(points, where)
        bias: Tensor = self.position_bias(where, sampled.repeat_interleave(self.num_heads // self.groups, dim=1))
        return bias

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Aggregators that pool slices without changing them: the baselines of the deformable one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .padding import check_slices, unit_mean, without_padding
from .precision import unit_length

__all__ = ["GatedAttentionPool", "MaxPool", "MeanPool", "QueryAttentionPool"]


class _SlicePool(nn.Module):
    """Tokens are the slices themselves; subclasses say how slices become one vector."""

    def __init__(self, dim: int | None) -> None:
        super().__init__()
        if dim is not None and dim < 1:
            raise ValueError(f"dim must be at least 1, got {dim}.")
        self.dim = dim

    def pool(self, slices: Tensor, padded: Tensor | None) -> Tensor:
        """``B F`` from slices ``B S F`` that are zero on padding."""
        return unit_mean(slices, padded)

    def forward(
        self, slices: Tensor, padded: Tensor | None = None, position_mm: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Pool slices.

        Args:
            slices: ``B S F``.
            padded: bool ``B S``, True where there is no slice; padding stands at the end and changes nothing.
            position_mm: ``B S``, not used: pooling has no order.

        Returns:
            tokens ``B S F``, the slices themselves with zeros on padding, and volume ``B F`` at unit length.

        Raises:
            ValueError: if shapes disagree or padding stands before real slices.
            TypeError: if ``padded`` is not boolean.
        """
        check_slices(slices, padded, position_mm, self.dim)
        tokens = without_padding(slices, padded)
        return tokens, unit_length(self.pool(tokens, padded))

    def architecture(self) -> dict[str, Any]:
        """Arguments that build this aggregator again."""
        return {"dim": self.dim}


class MeanPool(_SlicePool):
    """Mean over real slices.

    Args:
        dim: F of the slices; None takes any.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__(dim)


class MaxPool(_SlicePool):
    """Largest value of each feature over real slices.

    Args:
        dim: F of the slices; None takes any.
    """

    def __init__(self, dim: int | None = None) -> None:
        super().__init__(dim)

    def pool(self, slices: Tensor, padded: Tensor | None) -> Tensor:
        """``B F`` from slices ``B S F``."""
        return (slices if padded is None else slices.masked_fill(padded[..., None], -torch.inf)).amax(dim=1)


class GatedAttentionPool(_SlicePool):
    """Weighted mean with learned weights, ``softmax(w·(tanh(Vx) ∘ sigmoid(Ux)))`` (Ilse 2018, arXiv:1802.04712, eq. 9).

    Args:
        dim: F of the slices.
        hidden_dim: width of V and U.
    """

    def __init__(self, dim: int = 640, hidden_dim: int = 128) -> None:
        super().__init__(dim)
        self.hidden_dim = hidden_dim
        self.to_value_and_gate = nn.Linear(dim, 2 * hidden_dim)
        self.to_score = nn.Linear(hidden_dim, 1)

    def attention_over_slices(
        self, slices: Tensor, padded: Tensor | None = None, position_mm: Tensor | None = None
    ) -> Tensor:
        """Weight of every slice in the volume, ``B 1 1 S``, sums to 1."""
        value, gate = self.to_value_and_gate(without_padding(slices, padded)).chunk(2, dim=-1)
        scores = self.to_score(value.tanh() * gate.sigmoid())[..., 0]
        if padded is not None:
            scores = scores.masked_fill(padded, -torch.inf)
        weights: Tensor = scores.softmax(-1)[:, None, None]
        return weights

    def pool(self, slices: Tensor, padded: Tensor | None) -> Tensor:
        """``B F`` from slices ``B S F``."""
        return torch.matmul(self.attention_over_slices(slices, padded)[:, 0], slices)[:, 0]

    def architecture(self) -> dict[str, Any]:
        """Arguments that build this aggregator again."""
        return {"dim": self.dim, "hidden_dim": self.hidden_dim}


class QueryAttentionPool(_SlicePool):
    """Learned queries attend to the slices once; their mean answer is the volume.

    Args:
        dim: F of the slices.
        num_heads: attention heads.
        head_dim: width of a head.
        num_queries: learned queries.
    """

    def __init__(self, dim: int = 640, num_heads: int = 8, head_dim: int = 64, num_queries: int = 1) -> None:
        super().__init__(dim)
        if min(num_heads, head_dim, num_queries) < 1:
            raise ValueError("num_heads, head_dim and num_queries must be at least 1.")
        self.num_heads, self.head_dim, self.num_queries = num_heads, head_dim, num_queries
        self.queries = nn.Parameter(torch.randn(num_heads, num_queries, head_dim) * 0.02)
        self.to_kv = nn.Linear(dim, 2 * num_heads * head_dim, bias=False)
        self.to_out = nn.Linear(num_heads * head_dim, dim)

    def attention_over_slices(
        self, slices: Tensor, padded: Tensor | None = None, position_mm: Tensor | None = None
    ) -> Tensor:
        """Weight of every slice, ``B heads queries S``, rows sum to 1."""
        return self._attention(without_padding(slices, padded), padded)[0]

    def pool(self, slices: Tensor, padded: Tensor | None) -> Tensor:
        """``B F`` from slices ``B S F``."""
        attention, values = self._attention(slices, padded)
        answers = torch.matmul(attention, values).mean(dim=2)
        out: Tensor = self.to_out(answers.flatten(1))
        return out

    def _attention(self, slices: Tensor, padded: Tensor | None) -> tuple[Tensor, Tensor]:
        batch, num_slices, _ = slices.shape
        keys_values = self.to_kv(slices).view(batch, num_slices, 2, self.num_heads, self.head_dim)
        keys, values = keys_values.permute(2, 0, 3, 1, 4).unbind(0)
        scores = torch.matmul(self.queries * self.head_dim**-0.5, keys.transpose(-2, -1))
        if padded is not None:
            scores = scores.masked_fill(padded[:, None, None], -torch.inf)
        return scores.softmax(-1), values

    def architecture(self) -> dict[str, Any]:
        """Arguments that build this aggregator again."""
        return {
            "dim": self.dim,
            "num_heads": self.num_heads,
            "head_dim": self.head_dim,
            "num_queries": self.num_queries,
        }

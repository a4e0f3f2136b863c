# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From slice embeddings to tokens that know their neighbours and to one embedding of the volume."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from .deformable_attention import DeformableSliceAttention
from .full_attention import FullSliceAttention
from .padding import check_slices, unit_mean, without_padding

__all__ = ["DeformableAggregator", "SliceLayer", "TransformerAggregator"]

SliceAttention = DeformableSliceAttention | FullSliceAttention


class SliceLayer(nn.Module):
    """One post-norm layer: ``x ← LN(x + A(x))``, ``x ← LN(x + FFN(x))``.

    Args:
        attention: the attention across slices.
        ffn_dim: hidden width of the two-layer network.
        dropout: after the attention, inside and after the network.
    """

    def __init__(self, attention: SliceAttention, ffn_dim: int = 720, dropout: float = 0.1) -> None:
        super().__init__()
        dim = attention.dim
        self.attention = attention
        self.attention_norm, self.ffn_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attention_dropout = nn.Dropout(dropout)
        self.ffn = nn.Sequential(
            nn.Linear(dim, ffn_dim), nn.GELU(), nn.Dropout(dropout), nn.Linear(ffn_dim, dim), nn.Dropout(dropout)
        )

    def forward(self, slices: Tensor, padded: Tensor | None = None, position_mm: Tensor | None = None) -> Tensor:
        """``B S F`` to ``B S F``; rows of padded slices mean nothing."""
        attended = self.attention_dropout(self.attention.attend(slices, padded, position_mm))
        slices = self.attention_norm(slices + attended)
        out: Tensor = self.ffn_norm(slices + self.ffn(slices))
        return out


class _LayeredAggregator(nn.Module):
    """Layers in a row, then the mean over real slices at unit length."""

    def __init__(self, layers: list[SliceLayer], architecture: dict[str, Any]) -> None:
        super().__init__()
        if not layers:
            raise ValueError("num_layers must be at least 1, got 0: use MeanPool for an aggregator without attention.")
        self.dim = layers[0].attention.dim
        self.layers = nn.ModuleList(layers)
        self._architecture = architecture

    def forward(
        self, slices: Tensor, padded: Tensor | None = None, position_mm: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Aggregate slices.

        Args:
            slices: ``B S F``.
            padded: bool ``B S``, True where there is no slice; padding stands at the end and changes nothing.
            position_mm: ``B S``, makes distances millimetres instead of slices.

        Returns:
            tokens ``B S F``, zero on padding, and volume ``B F`` at unit length.

        Raises:
            ValueError: if shapes disagree or padding stands before real slices.
            TypeError: if ``padded`` is not boolean.
        """
        check_slices(slices, padded, position_mm, self.dim)
        tokens = without_padding(slices, padded)
        for layer in self.layers:
            tokens = layer(tokens, padded, position_mm)
        tokens = without_padding(tokens, padded)
        return tokens, unit_mean(tokens, padded)

    def attention_over_slices(
        self, slices: Tensor, padded: Tensor | None = None, position_mm: Tensor | None = None, layer: int = -1
    ) -> Tensor:
        """Attention of one layer over the source slices, ``B heads S S``, rows sum to 1.

        Args:
            slices: ``B S F``.
            padded: bool ``B S``.
            position_mm: ``B S``.
            layer: which layer, from the end where negative.

        Raises:
            ValueError: as :meth:`forward`, or if there is no such layer.
            TypeError: as :meth:`forward`.
        """
        if not -len(self.layers) <= layer < len(self.layers):
            raise ValueError(f"layer must be one of 0..{len(self.layers) - 1}, got {layer}.")
        check_slices(slices, padded, position_mm, self.dim)
        tokens = without_padding(slices, padded)
        for module in self.layers[: layer % len(self.layers)]:
            tokens = module(tokens, padded, position_mm)
        attention: Any = self.layers[layer].attention
        weights: Tensor = attention.attention_over_slices(tokens, padded, position_mm)
        return weights

    def architecture(self) -> dict[str, Any]:
        """Arguments that build this aggregator again."""
        return dict(self._architecture)


class DeformableAggregator(_LayeredAggregator):
    """Deformable attention across slices (the paper's ``f_inter``, arXiv:2212.01893, section 3).

    Args:
        dim: F, the slice embedding's length.
        num_layers: layers in a row.
        num_heads: attention heads.
        head_dim: width of a head.
        ffn_dim: hidden width of each layer's two-layer network.
        dropout: while training.
        stride: slices per sampling point.
        kernel_size: slices that the offset convolution sees.
        offset_scale: largest offset in units of ``stride`` slices.
        offset_groups: groups with offsets of their own, by default one per head.
        position_bias: let attention depend on distance.

    Raises:
        ValueError: as :class:`DeformableSliceAttention`, or for no layer.
    """

    def __init__(
        self,
        dim: int = 640,
        num_layers: int = 4,
        num_heads: int = 8,
        head_dim: int = 64,
        ffn_dim: int = 720,
        dropout: float = 0.1,
        stride: int = 4,
        kernel_size: int = 6,
        offset_scale: float = 2.0,
        offset_groups: int | None = None,
        position_bias: bool = True,
    ) -> None:
        attention = {
            "dim": dim,
            "num_heads": num_heads,
            "head_dim": head_dim,
            "stride": stride,
            "kernel_size": kernel_size,
            "offset_scale": offset_scale,
            "offset_groups": offset_groups,
            "position_bias": position_bias,
        }
        layers = [SliceLayer(DeformableSliceAttention(**attention), ffn_dim, dropout) for _ in range(num_layers)]  # type: ignore[arg-type]
        super().__init__(layers, attention | {"num_layers": num_layers, "ffn_dim": ffn_dim, "dropout": dropout})


class TransformerAggregator(_LayeredAggregator):
    """A plain transformer across slices: the same layers with full attention.

    Args:
        dim: F, the slice embedding's length.
        num_layers: layers in a row.
        num_heads: attention heads.
        head_dim: width of a head.
        ffn_dim: hidden width of each layer's two-layer network.
        dropout: while training.
        position_bias: let attention depend on distance; without it the order of slices does not matter.

    Raises:
        ValueError: as :class:`FullSliceAttention`, or for no layer.
    """

    def __init__(
        self,
        dim: int = 640,
        num_layers: int = 4,
        num_heads: int = 8,
        head_dim: int = 64,
        ffn_dim: int = 720,
        dropout: float = 0.1,
        position_bias: bool = True,
    ) -> None:
        layers = [
            SliceLayer(FullSliceAttention(dim, num_heads, head_dim, position_bias), ffn_dim, dropout)
            for _ in range(num_layers)
        ]
        architecture = {
            "dim": dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "head_dim": head_dim,
            "ffn_dim": ffn_dim,
            "dropout": dropout,
            "position_bias": position_bias,
        }
        super().__init__(layers, architecture)

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Hide slices from the aggregator and predict them from what it makes of the others."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["MaskedSliceDecoder", "draw_hidden_slices"]


def draw_hidden_slices(
    padded: Tensor, ratio: float | Tensor, mode: str = "random", generator: torch.Generator | None = None
) -> Tensor:
    """Choose the slices to hide: at least one and at most all but one of each volume's real slices.

    A volume with a single slice hides none.

    Args:
        padded: bool ``B S``, True (at the end) where there is no slice.
        ratio: share of the real slices to hide, one number or one per volume ``B``.
        mode: ``random`` slices, or one contiguous ``block``, which neighbours cannot simply interpolate.
        generator: source of randomness, on ``padded``'s device.

    Returns:
        bool ``B S``, never True on padding.

    Raises:
        ValueError: for an unknown mode.
    """
    if mode not in ("random", "block"):
        raise ValueError(f"mode must be 'random' or 'block', got {mode!r}.")
    batch, num_slices = padded.shape
    counts = (~padded).sum(dim=1)
    number = (counts * ratio).round().long().clamp(min=1).minimum(counts - 1)
    place = torch.arange(num_slices, device=padded.device)
    if mode == "block":
        chance = torch.rand(batch, generator=generator, device=padded.device)
        start = (chance * (counts - number + 1)).long()
        return (place >= start[:, None]) & (place < (start + number)[:, None])
    chances = torch.rand(batch, num_slices, generator=generator, device=padded.device).masked_fill(padded, 2.0)
    return chances.argsort(dim=1).argsort(dim=1) < number[:, None]


class MaskedSliceDecoder(nn.Module):
    """The learned token that stands in for hidden slices, and the linear decoder that predicts them.

    Args:
        dim: D of the slice embeddings.
        ratio: share of the slices to hide (.1 in the paper, arXiv:2212.01893).
        mode: ``random`` or ``block``; a single missing slice is trivially interpolated, a block is not.
        max_ratio: draw each volume's share between ``ratio`` and this; None always hides ``ratio``.

    Raises:
        ValueError: for shares outside (0, 1), ``max_ratio`` below ``ratio``, or an unknown mode.
    """

    def __init__(
        self, dim: int = 640, ratio: float = 0.1, mode: str = "random", max_ratio: float | None = None
    ) -> None:
        super().__init__()
        largest = ratio if max_ratio is None else max_ratio
        if not 0 < ratio <= largest < 1:
            raise ValueError(f"needs 0 < ratio <= max_ratio < 1, got ratio {ratio} and max_ratio {max_ratio}.")
        if mode not in ("random", "block"):
            raise ValueError(f"mode must be 'random' or 'block', got {mode!r}.")
        self.dim, self.ratio, self.max_ratio, self.mode = dim, ratio, largest, mode
        self.hidden_token = nn.Parameter(torch.randn(dim) * 0.02)
        self.decoder = nn.Linear(dim, dim)

    def draw(self, padded: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Slices to hide, bool ``B S``, for padding ``B S``; see :func:`draw_hidden_slices`."""
        ratio: float | Tensor = self.ratio
        if self.max_ratio > self.ratio:
            chance = torch.rand(len(padded), generator=generator, device=padded.device)
            ratio = self.ratio + chance * (self.max_ratio - self.ratio)
        return draw_hidden_slices(padded, ratio, self.mode, generator)

    def hide(self, slices: Tensor, masked: Tensor) -> Tensor:
        """Slices ``B S D`` with the learned token where ``masked`` (``B S``) is True."""
        return torch.where(masked[..., None], self.hidden_token.to(slices.dtype), slices)

    def forward(self, tokens: Tensor) -> Tensor:
        """Predicted slice embeddings ``B S D`` from the aggregator's tokens ``B S D``."""
        predictions: Tensor = self.decoder(tokens)
        return predictions

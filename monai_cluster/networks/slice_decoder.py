# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From the maps of an image back to its full size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["SliceDecoder", "DecoderLevel", "check_decoder_channels"]


def check_decoder_channels(decoder_channels: Sequence[int], levels: int = 5) -> list[int]:
    """The channels as a list.

    Raises:
        ValueError: if there are not as many as levels, or one is below 1.
    """
    if len(decoder_channels) != levels or min(decoder_channels) < 1:
        raise ValueError(
            f"decoder_channels must be {levels} numbers of 1 or more, deepest first, got {list(decoder_channels)}."
        )
    return [int(width) for width in decoder_channels]


class DecoderLevel(nn.Module):
    """Twice the size, the skipped map beside it, two convolutions.

    Batch norm over all slices of the batch. Norms of a slice by itself were tried: instance norm takes away what
    holds for a whole slice, as what its neighbours show, and group norm, which leaves channels of very different size
    side by side, got stuck at predicting background only (docs/benchmarks.md). Sizes are doubled by repeating pixels:
    unlike bilinear interpolation its gradient is deterministic on GPUs.

    Args:
        in_channels: of the deeper map.
        skip_channels: of the map beside it.
        out_channels: of the result.
    """

    def __init__(self, in_channels: int, skip_channels: int, out_channels: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(in_channels + skip_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, deeper: Tensor, skipped: Tensor) -> Tensor:
        """``N out 2h 2w`` from ``N in h w`` and ``N skip 2h 2w``."""
        larger = F.interpolate(deeper, scale_factor=2.0, mode="nearest")
        out: Tensor = self.convolutions(torch.cat([larger, skipped.to(larger.dtype)], dim=1))
        return out


class SliceDecoder(nn.Module):
    """Up from the deepest map to scores for every pixel, with a skip at every level, the image itself included.

    Args:
        deepest_channels: of the deepest map.
        skip_channels: of the maps beside the way up, deepest first; the last one is of full size.
        decoder_channels: of each level, deepest first.
        out_channels: K.

    Raises:
        ValueError: if there is not one number of channels for each skip.
    """

    def __init__(
        self, deepest_channels: int, skip_channels: Sequence[int], decoder_channels: Sequence[int], out_channels: int
    ) -> None:
        super().__init__()
        widths = check_decoder_channels(decoder_channels, len(skip_channels))
        entering = [deepest_channels, *widths[:-1]]
        self.blocks = nn.ModuleList(
            DecoderLevel(deeper, skip, width)
            for deeper, skip, width in zip(entering, skip_channels, widths, strict=True)
        )
        # With one pixel of few channels Adam's small steps take hundreds of iterations to scores of useful size.
        self.head = nn.Conv2d(widths[-1], out_channels, 3, padding=1)

    def forward(self, deepest: Tensor, skips: list[Tensor]) -> Tensor:
        """Scores ``N K H W`` from the deepest map and the skipped ones, deepest first."""
        x = deepest
        for place, block in enumerate(self.blocks):
            x = block(x, skips[place])
        scores: Tensor = self.head(x)
        return scores

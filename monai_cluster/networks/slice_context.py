# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What neighbouring slices know, brought by the pretrained aggregator to every cell of the deepest map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .slice_encoder import SliceEncoder

__all__ = [
    "SliceContext",
    "as_volume",
    "cell_levels",
    "cells_to_rows",
    "empty_slices_at_the_end",
    "local_slice_embeddings",
    "slice_positions",
    "trailing_padding",
]


def as_volume(image: Tensor, in_channels: int) -> Tensor:
    """``B C H W S`` as it is, ``B C H W`` as a volume of one slice.

    Raises:
        ValueError: for another number of axes or channels.
    """
    if image.dim() not in (4, 5) or image.shape[1] != in_channels:
        raise ValueError(
            f"image must be B C H W or B C H W S with C = {in_channels}, got {list(image.shape)}: add the missing "
            "axis, or build the slice encoder with other in_channels."
        )
    return image.unsqueeze(-1) if image.dim() == 4 else image


def cell_levels(maps: list[Tensor], used_levels: list[int]) -> Tensor:
    """Each level averaged over the cells of the deepest map, at unit length, side by side: ``N h w L``."""
    deepest = maps[-1]
    size = (deepest.shape[2], deepest.shape[3])
    levels = [F.normalize(F.adaptive_avg_pool2d(maps[level - 1], size).float(), dim=1) for level in used_levels]
    return torch.cat(levels, dim=1).permute(0, 2, 3, 1)


def local_slice_embeddings(slice_encoder: SliceEncoder, maps: list[Tensor]) -> Tensor:
    """The slice embedding of every cell of the deepest map: ``N h w D`` from the stages' maps ``N C H W``.

    Made as the embedding of a whole slice is, only that each level is averaged over a cell instead of the slice, so
    that the pretrained projection and aggregator meet what they know.
    """
    embeddings: Tensor = slice_encoder.projection(cell_levels(maps, slice_encoder.used_levels))
    return embeddings


def cells_to_rows(embeddings: Tensor, batch: int) -> Tensor:
    """One row of slices for each cell of each volume: ``B·h·w S D`` from ``B·S h w D``."""
    _, height, width, dim = embeddings.shape
    slices = embeddings.reshape(batch, -1, height, width, dim).permute(0, 2, 3, 1, 4)
    return slices.reshape(batch * height * width, -1, dim)


def empty_slices_at_the_end(volume: Tensor) -> Tensor:
    """Which slices at the end of ``B C H W S`` are all zero, ``B S``; the first counts as real.

    Batches of volumes are filled up with such slices, and attention should not look at them.
    """
    real = (volume != 0).flatten(1, 3).any(dim=1)
    later = real.long().flip(1).cumsum(1).flip(1)  # real slices from here on
    return (later == 0) & (torch.arange(real.shape[1], device=real.device) > 0)


def slice_positions(volume: Tensor, spacing: float) -> Tensor:
    """Millimetres ``B S`` from the first slice of ``B C H W S`` to each."""
    positions = torch.arange(volume.shape[4], device=volume.device, dtype=torch.float32) * spacing
    return positions.unsqueeze(0).expand(volume.shape[0], -1)


def trailing_padding(volume: Tensor) -> Tensor | None:
    """:func:`empty_slices_at_the_end`, or None where there is none."""
    padded = empty_slices_at_the_end(volume)
    return padded if bool(padded.any()) else None


class SliceContext(nn.Module):
    """Add to every cell what the aggregator makes of the same cell in all slices.

    The last layer starts at zero, so that an untrained network is exactly the one without context.

    Args:
        embedding_dim: D of the slice embeddings.
        channels: C of the deepest map.
    """

    def __init__(self, embedding_dim: int, channels: int) -> None:
        super().__init__()
        self.output = nn.Linear(embedding_dim, channels)
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    def forward(self, deepest: Tensor, tokens: Tensor, batch: int) -> Tensor:
        """The deepest maps with context.

        Args:
            deepest: ``B·S C h w``.
            tokens: ``B·h·w S D``, the aggregator's of :func:`cells_to_rows`.
            batch: B.
        """
        height, width = deepest.shape[2], deepest.shape[3]
        context: Tensor = self.output(tokens)
        context = context.reshape(batch, height, width, -1, deepest.shape[1])
        return deepest + context.permute(0, 3, 4, 1, 2).flatten(0, 1).to(deepest.dtype)

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What neighbouring slices know, brought by the pretrained aggregator to every cell of the deepest map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .slice_encoder import SliceEncoder

__all__ = ["SliceContext", "local_slice_embeddings", "trailing_padding"]


def local_slice_embeddings(slice_encoder: SliceEncoder, maps: list[Tensor]) -> Tensor:
    """The slice embedding of every cell of the deepest map: ``N h w D`` from the stages' maps ``N C H W``.

    Made as the embedding of a whole slice is, only that each level is averaged over a cell instead of the slice, so
    that the pretrained projection and aggregator meet what they know.
    """
    height, width = maps[-1].shape[2:]
    pooled = [F.adaptive_avg_pool2d(maps[level - 1], (height, width)) for level in slice_encoder.used_levels]
    levels = [F.normalize(level.float(), dim=1) for level in pooled]
    embeddings: Tensor = slice_encoder.projection(torch.cat(levels, dim=1).movedim(1, -1))
    return embeddings


def trailing_padding(volume: Tensor) -> Tensor | None:
    """Which slices at the end of ``B C H W S`` are all zero, ``B S``, or None where there is none; the first is real.

    Batches of volumes are filled up with such slices, and attention should not look at them.
    """
    empty = (volume == 0).flatten(1, -2).all(dim=1)
    padded = empty.flip(1).cumprod(dim=1).flip(1).bool()
    padded[:, 0] = False
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

    def forward(
        self, deepest: Tensor, embeddings: Tensor, slice_aggregator: nn.Module, batch: int, padded: Tensor | None = None
    ) -> Tensor:
        """The deepest maps with context.

        Args:
            deepest: ``B·S C h w``.
            embeddings: ``B·S h w D``.
            slice_aggregator: called with ``B·h·w S D`` and their padding.
            batch: B.
            padded: ``B S``, True where there is no slice.
        """
        _, height, width, dim = embeddings.shape
        slices = embeddings.reshape(batch, -1, height, width, dim).permute(0, 2, 3, 1, 4)
        rows = None if padded is None else padded.repeat_interleave(height * width, dim=0)
        tokens, _ = slice_aggregator(slices.reshape(batch * height * width, -1, dim), rows)
        context: Tensor = self.output(tokens).reshape(batch, height, width, -1, deepest.shape[1])
        return deepest + context.permute(0, 3, 4, 1, 2).flatten(0, 1).to(deepest.dtype)

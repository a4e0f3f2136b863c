# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A backbone of two small stages, for tests that are not about ResNets."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_cluster.networks import (
    ClusterHead,
    DeformableAggregator,
    JointClusterNet,
    MaskedSliceDecoder,
    ProjectionHead,
    Prototypes,
    SliceEncoder,
)


class TinyStages(nn.Module):
    """Two convolutions with batch norm; maps at 1/2 and 1/4 of the size."""

    stage_channels = (4, 6)

    def __init__(self, in_channels: int = 1) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(in_channels, 4, 3, 2, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, bias=False), nn.BatchNorm2d(6), nn.ReLU())

    def forward(self, x: Tensor) -> list[Tensor]:
        first = self.first(x)
        return [first, self.second(first)]


def tiny_encoder(**options: object) -> SliceEncoder:
    return SliceEncoder(TinyStages(), embedding_dim=8, levels=(1, 2), **options)


def tiny_network(seed: int = 0, **options: object) -> JointClusterNet:
    torch.manual_seed(seed)
    parts = {
        "slice_encoder": tiny_encoder(),
        "slice_aggregator": DeformableAggregator(8, 2, 2, 4, 12, dropout=0.0),
        "image_head": ClusterHead(ProjectionHead(6, 10, 5), Prototypes(5, 7)),
        "volume_head": ClusterHead(None, Prototypes(8, 3)),
        "mask_decoder": MaskedSliceDecoder(8),
    }
    return JointClusterNet(**(parts | options))


def tiny_images(batch: int = 3, seed: int = 1) -> dict:
    torch.manual_seed(seed)
    return {
        "views": [torch.randn(batch, 1, size, size) for size in (16, 16, 8, 8)],
        "sample_index": torch.arange(batch),
    }


def tiny_volumes(batch: int = 2, slices: int = 6, seed: int = 2) -> dict:
    """Two views; the first volume's first view has two slices less; the second view is flipped."""
    torch.manual_seed(seed)
    index = torch.arange(slices).expand(batch, -1).clone()
    short = index.clone()
    short[0, slices - 2 :] = -1
    return {
        "views": [torch.randn(batch, 1, 8, 8, slices) for _ in range(2)],
        "padded": [short < 0, torch.zeros(batch, slices, dtype=torch.bool)],
        "slice_index": [short, index.flip(1)],
        "slice_position": [index * 2.5, index * 2.5],
        "sample_index": torch.arange(batch),
    }

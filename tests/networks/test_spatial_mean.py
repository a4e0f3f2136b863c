# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Pooling that is the mean, and whose gradient does not turn a channels-last network around."""

from __future__ import annotations

import torch
from torch import Tensor

from monai_cluster.networks import SliceEncoder
from monai_cluster.networks.slice_encoder import as_channels_last
from monai_cluster.networks.spatial_mean import spatial_mean


def test_value_and_gradients_are_those_of_the_mean() -> None:
    maps = torch.randn(3, 4, 5, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(spatial_mean(maps), maps.mean(dim=(2, 3)), rtol=0, atol=0)
    assert torch.autograd.gradcheck(spatial_mean, maps)
    assert torch.autograd.gradgradcheck(spatial_mean, maps)


def test_gradients_of_every_stage_keep_the_channels_last_layout() -> None:
    encoder = SliceEncoder("resnet18", embedding_dim=8).to(memory_format=torch.channels_last)
    strides: dict[int, tuple[int, ...]] = {}
    shapes: dict[int, torch.Size] = {}
    pyramid = encoder.pyramid

    def watched(x: Tensor) -> list[Tensor]:
        maps = pyramid(x)
        for stage, found in enumerate(maps):
            shapes[stage] = found.shape
            found.register_hook(lambda grad, stage=stage: strides.update({stage: grad.stride()}))
        return maps

    encoder.pyramid = watched  # type: ignore[method-assign]
    encoder(as_channels_last(torch.rand(2, 1, 64, 64))).embedding.square().sum().backward()
    for stage in range(3):  # the last stage's gradient comes from the pooling alone, one number per map
        _, channels, height, width = shapes[stage]
        assert strides[stage] == (height * width * channels, 1, width * channels, channels)
    assert strides[3][1:] == (1, 0, 0)

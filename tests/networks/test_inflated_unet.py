# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The 3D U-Net: any size, and the 2D network's answers where slices are alike."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from monai_cluster.networks import InflatedUNet, ResNetStages
from monai_cluster.weights import load_encoder_weights

CHANNELS = (16, 16, 8, 8, 8)


def unet(seed: int = 0) -> InflatedUNet:
    torch.manual_seed(seed)
    return InflatedUNet("resnet18", 1, 3, CHANNELS).eval()


@torch.no_grad()
def test_padding_inside_repeats_the_last_slice_and_is_zero_in_plane() -> None:
    network, x = unet(), torch.rand(1, 1, 20, 33, 5, generator=torch.Generator().manual_seed(0))
    padded = torch.cat([x, x[..., -1:].expand(-1, -1, -1, -1, 27)], dim=-1)
    padded = F.pad(padded, (0, 0, 0, 31, 0, 12))
    torch.testing.assert_close(network(x), network.unet(padded)[:, :, :20, :33, :5])
    assert network(x).shape == (1, 3, 20, 33, 5)


@torch.no_grad()
def test_torchscript_computes_the_same_from_inflated_weights() -> None:
    network = unet()
    load_encoder_weights(network.unet.encoder, ResNetStages("resnet18").state_dict())
    x = torch.rand(1, 1, 40, 32, 7)
    torch.testing.assert_close(torch.jit.script(network)(x), network(x))


def test_levels_are_the_encoders_and_all_else_is_new() -> None:
    network = unet()
    held = {id(p) for level in network.pretrained_modules() for module in level for p in module.parameters()}
    assert held == {id(p) for p in network.unet.encoder.parameters()}
    assert len(network.pretrained_modules()) == 5


@torch.no_grad()
def test_bfloat16_on_a_cpu_agrees_with_float32_where_the_deepest_map_has_one_slice() -> None:
    network, x = unet(), torch.rand(1, 1, 32, 64, 20)
    with torch.autocast("cpu", torch.bfloat16):
        cast = network(x)
    assert F.cosine_similarity(cast.float().flatten(), network(x).flatten(), dim=0) > 0.999


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="model must be one of"):
        InflatedUNet("vgg16")
    with pytest.raises(ValueError, match="in_channels and out_channels must be at least 1, got 1 and 0"):
        InflatedUNet("resnet18", 1, 0)
    with pytest.raises(ValueError, match="decoder_channels must be 5 numbers"):
        InflatedUNet("resnet18", 1, 2, (16, 16))
    with pytest.raises(ValueError, match="image must be B C H W S"):
        unet()(torch.zeros(1, 1, 32, 32))

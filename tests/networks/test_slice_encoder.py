# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The slice encoder: what it computes, and that chunks, checkpoints, scripts and memory formats do not change it."""

from __future__ import annotations

import copy

import pytest
import torch
from monai.networks.nets.resnet import ResNet
from torch import nn
from torch.nn import functional as F

from monai_cluster.networks import ResNetStages, SliceEmbedder, SliceEncoder
from monai_cluster.networks.slice_encoder import as_channels_last

from .tiny import TinyStages, tiny_encoder


def torchvision_names(blocks: list[int], convolutions: int) -> set[str]:
    """Names of a torchvision ResNet's state dict without its classifier, by their rule."""
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = {"conv1.weight"} | {f"bn1.{part}" for part in norm}
    for stage, number in enumerate(blocks, 1):
        for block in range(number):
            place = f"layer{stage}.{block}"
            for conv in range(1, convolutions + 1):
                names |= {f"{place}.conv{conv}.weight"} | {f"{place}.bn{conv}.{part}" for part in norm}
            if block == 0 and (stage > 1 or convolutions == 3):
                names |= {f"{place}.downsample.0.weight"} | {f"{place}.downsample.1.{part}" for part in norm}
    return names


@pytest.mark.parametrize(
    ("model", "blocks", "convolutions", "levels"),
    [
        ("resnet18", [2, 2, 2, 2], 2, 960),
        ("resnet34", [3, 4, 6, 3], 2, 960),
        ("resnet50", [3, 4, 6, 3], 3, 3840),
        ("resnet101", [3, 4, 23, 3], 3, 3840),
    ],
)
def test_named_backbones_have_torchvisions_names(model: str, blocks: list[int], convolutions: int, levels: int) -> None:
    with torch.device("meta"):
        encoder = SliceEncoder(model)
    assert set(encoder.backbone.state_dict()) == torchvision_names(blocks, convolutions)
    assert encoder.projection.in_features == levels
    assert encoder.feature_dim == encoder.backbone.stage_channels[-1]


def test_features_are_the_resnets_own() -> None:
    torch.manual_seed(0)
    encoder = SliceEncoder("resnet18", embedding_dim=8).eval()
    x = torch.randn(2, 1, 64, 64)
    torch.testing.assert_close(encoder(x).features, ResNet.forward(encoder.backbone, x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("levels", "duplicate", "used"), [((1, 2), False, [1, 2]), ((2,), False, [2]), ((2, 1), True, [1, 2, 2])]
)
def test_the_embedding_projects_unit_length_levels(levels: tuple[int, ...], duplicate: bool, used: list[int]) -> None:
    encoder = SliceEncoder(TinyStages(), embedding_dim=8, levels=levels, duplicate_last_level=duplicate).eval()
    x = torch.randn(5, 1, 16, 16)
    maps = encoder.pyramid(x)
    side_by_side = torch.cat([F.normalize(maps[level - 1].flatten(2).mean(2), dim=1) for level in used], dim=1)
    expected = side_by_side @ encoder.projection.weight.T + encoder.projection.bias
    found = encoder(x)
    torch.testing.assert_close(found.embedding, expected)
    torch.testing.assert_close(found.features, maps[-1].flatten(2).mean(2))


def test_the_authors_projection_has_5888_inputs() -> None:
    with torch.device("meta"):
        assert SliceEncoder("resnet50", duplicate_last_level=True).projection.in_features == 5888


def gradients(encoder: SliceEncoder, x: torch.Tensor) -> list[torch.Tensor]:
    encoder.zero_grad()
    found = encoder(x)
    (found.embedding.square().sum() + found.features.sum()).backward()
    return [parameter.grad.clone() for parameter in encoder.parameters()]


@pytest.mark.parametrize("checkpointing", [False, True])
def test_chunks_equal_the_whole_in_evaluation_mode(checkpointing: bool) -> None:
    whole = tiny_encoder().eval()
    chunked = tiny_encoder(chunk_size=3, checkpointing=checkpointing).eval()
    chunked.load_state_dict(whole.state_dict())
    x = torch.randn(8, 1, 16, 16)
    torch.testing.assert_close(chunked(x), whole(x))
    torch.testing.assert_close(gradients(chunked, x), gradients(whole, x))


def test_checkpointing_moves_running_statistics_once() -> None:
    plain = tiny_encoder(chunk_size=4).train()
    saving = tiny_encoder(chunk_size=4, checkpointing=True).train()
    saving.load_state_dict(plain.state_dict())
    start = copy.deepcopy(plain.state_dict())
    x = torch.randn(8, 1, 16, 16)
    torch.testing.assert_close(gradients(saving, x), gradients(plain, x))
    for (name, ours), theirs in zip(saving.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=name)
    assert plain.backbone.first[1].num_batches_tracked == 2
    assert not torch.equal(start["backbone.first.1.running_mean"], saving.backbone.first[1].running_mean)
    assert saving.backbone.first[1].momentum == 0.1


def test_the_scripted_embedder_equals_the_encoder() -> None:
    torch.manual_seed(0)
    embedder = SliceEmbedder(model="resnet18", embedding_dim=8).eval()
    x = torch.randn(2, 1, 32, 32)
    torch.testing.assert_close(torch.jit.script(embedder)(x), embedder.slice_encoder(x).embedding)


@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_reaches_the_first_convolution_and_changes_nothing(channels: int) -> None:
    stem = nn.Conv2d(channels, 8, 7, 2, 3).to(memory_format=torch.channels_last)
    x = torch.randn(2, channels, 16, 16)
    arranged = as_channels_last(x)
    assert torch.equal(arranged, x)
    assert not stem(arranged).is_contiguous()
    assert stem(arranged).is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(stem(arranged), stem(x))


def test_embeddings_under_bfloat16_stay_near_float32() -> None:
    encoder = tiny_encoder().eval()
    x = torch.randn(4, 1, 16, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = encoder(x)
    torch.testing.assert_close(found.embedding.float(), encoder(x).embedding, rtol=0.05, atol=0.05)


def test_what_cannot_be_built_or_encoded_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model must be one of resnet18, .* got 'resnet7'"):
        SliceEncoder("resnet7")
    with pytest.raises(TypeError, match="Linear has no stage_channels"):
        SliceEncoder(nn.Linear(1, 1))
    for levels in ((), (0,), (3,), (1, 1)):
        with pytest.raises(ValueError, match=r"levels must be different stages out of 1\.\.2"):
            SliceEncoder(TinyStages(), levels=levels)
    with pytest.raises(ValueError, match="chunk_size must be at least 1, got 0"):
        tiny_encoder(chunk_size=0)
    with pytest.raises(ValueError, match="in_channels must be at least 1, got 0"):
        ResNetStages("resnet18", 0)
    for shape in ((2, 3, 8, 8), (2, 1, 8, 8, 8)):
        with pytest.raises(ValueError, match="needs N C H W with C = 1"):
            tiny_encoder()(torch.zeros(shape))


@pytest.mark.parametrize("size", [(16, 16), (16, 32)])
def test_sides_whose_bfloat16_gradients_are_wrong_on_a_cpu_are_refused(size: tuple[int, int]) -> None:
    encoder, x = SliceEncoder("resnet18", embedding_dim=8), torch.rand(2, 1, *size)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(ValueError, match=r"16 px or less.*larger views, or switch amp off"):
            encoder(x)
        with torch.no_grad():
            assert encoder(x).features.isfinite().all()
        encoder(torch.rand(2, 1, 17, 17))
    assert encoder(x).features.isfinite().all()


@pytest.mark.parametrize("size", [(32, 16), (33, 32), (48, 24), (128, 32)])
def test_maps_one_pixel_wide_are_refused_in_bfloat16_on_a_cpu_without_gradient_too(size: tuple[int, int]) -> None:
    encoder, x = SliceEncoder("resnet18", embedding_dim=8), torch.rand(2, 1, *size)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        with pytest.raises(ValueError, match=r"one pixel wide.*pad them to a square"):
            encoder(x)
        assert encoder(x.mT).features.shape == (2, 512)
        assert encoder(torch.rand(2, 1, 64, 33)).features.shape == (2, 512)
    assert encoder(x).features.isfinite().all()

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The classifier: what it sees of images and volumes, and that it can learn from embeddings of unit length."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from monai_cluster.networks import (
    ClusterClassifier,
    DeformableAggregator,
    MaxPool,
    MeanPool,
    QueryAttentionPool,
    SliceEncoder,
)

from .tiny import tiny_encoder


def classifier(aggregator: nn.Module | None = None, **options: object) -> ClusterClassifier:
    torch.manual_seed(0)
    return ClusterClassifier(tiny_encoder(), aggregator, 3, **options).eval()


def volume(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(5)) + 0.1


@torch.no_grad()
def test_images_are_seen_by_features_or_embedding() -> None:
    x = volume(4, 1, 12, 16)
    for level in ("features", "embedding"):
        network = classifier(level=level)
        torch.testing.assert_close(network.embed(x[..., None]), getattr(network.slice_encoder(x), level))
        torch.testing.assert_close(network(x), network(x[..., None]))


@torch.no_grad()
def test_volumes_are_seen_by_the_aggregators_embedding() -> None:
    network, x = classifier(DeformableAggregator(8, 2, 2, 4, 12)), volume(2, 1, 8, 8, 7)
    slices = network.slice_encoder(x.permute(0, 4, 1, 2, 3).flatten(0, 1)).embedding.view(2, 7, 8)
    torch.testing.assert_close(network.embed(x), network.slice_aggregator(slices)[1])
    position = torch.arange(7.0).expand(2, -1) * 40
    torch.testing.assert_close(network.embed(x, position), network.slice_aggregator(slices, None, position)[1])
    assert not torch.allclose(network.embed(x, position), network.embed(x))


@torch.no_grad()
def test_without_aggregator_a_volume_is_the_mean_of_its_slices() -> None:
    network, x = classifier(), volume(2, 1, 8, 8, 5)
    expected = torch.stack([network.slice_encoder(x[..., place]).features for place in range(5)]).mean(0)
    torch.testing.assert_close(network.embed(x), expected)


@torch.no_grad()
@pytest.mark.parametrize("aggregator", [None, MeanPool(), MaxPool(8), DeformableAggregator(8, 1, 2, 4, 12)])
def test_empty_slices_at_the_end_change_nothing(aggregator: nn.Module | None) -> None:
    network, x = classifier(aggregator), volume(2, 1, 8, 8, 5)
    torch.testing.assert_close(network(F.pad(x, (0, 4))), network(x))


def test_nearly_parallel_embeddings_are_learned_from_in_a_few_steps() -> None:
    x, label = volume(12, 1, 8, 8, 4), torch.arange(12) % 3
    x += label[:, None, None, None, None] * torch.linspace(0, 0.5, 8)[:, None, None]
    losses = []
    for norm in (None, nn.Identity()):
        network = classifier(MeanPool(8))
        network.requires_grad_(False)
        network.head.requires_grad_(True)
        network.norm = network.norm.train() if norm is None else norm
        with torch.no_grad():
            seen = network.embed(x)
            assert F.cosine_similarity(seen[:1], seen).min() > 0.95
        optimizer = torch.optim.Adam(network.head.parameters(), 0.05)
        for _ in range(60):
            loss = F.cross_entropy(network.head(network.norm(seen)), label)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        losses.append(loss.item())
        if norm is None:
            assert (network.eval()(x).argmax(1) == label).float().mean() > 0.9
    assert losses[0] < 0.3 < 0.9 < losses[1]


def test_a_batch_of_one_trains_with_running_statistics() -> None:
    network = classifier(DeformableAggregator(8, 1, 2, 4, 12, dropout=0.0))
    network.norm.running_mean.fill_(0.2)
    x = volume(1, 1, 8, 8, 5)
    network.head.train()
    expected = network(x)
    network.train()
    network.slice_encoder.eval()
    torch.testing.assert_close(network(x), expected)


@pytest.mark.parametrize(
    ("level", "aggregator"), [(None, None), ("embedding", None), (None, QueryAttentionPool(8, 2, 4))]
)
def test_every_parameter_that_may_learn_does(level: str | None, aggregator: nn.Module | None) -> None:
    network = classifier(aggregator, level=level).train()
    network(volume(3, 1, 8, 8, 4)).square().sum().backward()
    assert [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None] == []


def test_levels_hold_what_was_pretrained_and_is_used() -> None:
    torch.manual_seed(0)
    encoder, aggregator = SliceEncoder("resnet18", 1, 8), MeanPool(8)
    levels = ClusterClassifier(encoder, aggregator).pretrained_modules()
    assert levels[-1] == [encoder.projection, aggregator]
    assert levels[0] == [encoder.backbone.conv1, encoder.backbone.bn1]
    assert len(ClusterClassifier(encoder).pretrained_modules()) == 5
    assert ClusterClassifier(encoder, QueryAttentionPool(512, 2, 4), level="features").pretrained_modules()[-1][:1] != [
        encoder.projection
    ]


@torch.no_grad()
@pytest.mark.parametrize("aggregator", [None, QueryAttentionPool(8, 2, 4), DeformableAggregator(8, 1, 2, 4, 12)])
def test_torchscript_computes_the_same(aggregator: nn.Module | None) -> None:
    torch.manual_seed(0)
    network = ClusterClassifier(SliceEncoder("resnet18", 1, 8), aggregator, 4).eval()
    scripted = torch.jit.script(network)
    for x in (volume(2, 1, 40, 64), F.pad(volume(2, 1, 33, 40, 4), (0, 2))):
        torch.testing.assert_close(scripted(x), network(x))


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 20, 3), (16, 16, 3)])
def test_bfloat16_on_a_cpu_agrees_with_float32_for_narrow_images(size: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network, x = ClusterClassifier(SliceEncoder("resnet18", 1, 8), None, 4).eval(), volume(2, 1, *size)
    with torch.autocast("cpu", torch.bfloat16), torch.enable_grad():
        cast = network(x)
    torch.testing.assert_close(cast.float(), network(x), rtol=0.02, atol=0.02)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(ValueError, match="level must be 'features', 'embedding' or None, got 'pixels'"):
        classifier(level="pixels")
    with pytest.raises(ValueError, match=r"num_classes must be at least 1 and dropout in \[0, 1\), got 3 and 1.0"):
        classifier(dropout=1.0)
    with pytest.raises(ValueError, match="the aggregator takes 8 numbers per slice and level 'features' gives 6"):
        classifier(MaxPool(8), level="features")
    with pytest.raises(ValueError, match="image must be B C H W or B C H W S with C = 1"):
        classifier()(torch.zeros(2, 2, 8, 8))


@torch.no_grad()
def test_slices_lie_as_far_apart_as_the_classifier_was_told() -> None:
    aggregator, x = DeformableAggregator(8, 2, 2, 4, 12), volume(2, 1, 8, 8, 7)
    counted, thick = classifier(aggregator), classifier(aggregator, slice_spacing=40.0)
    thick.load_state_dict(counted.state_dict())
    position = torch.arange(7.0).expand(2, -1) * 40
    assert torch.equal(thick.embed(x), counted.embed(x, position))
    assert thick.architecture()["slice_spacing"] == 40.0
    with pytest.raises(ValueError, match="slice_spacing must be above 0, got -1"):
        classifier(slice_spacing=-1)

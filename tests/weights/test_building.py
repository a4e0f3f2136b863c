# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Modules of a pretrained file's architecture, and of one's own choice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from monai_cluster.networks import DeformableAggregator, QueryAttentionPool, SliceEncoder, TransformerAggregator
from monai_cluster.weights import build_slice_aggregator, build_slice_encoder, save_encoder, side_file


@pytest.fixture(scope="module")
def export(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    aggregator = TransformerAggregator(dim=24, num_layers=1, num_heads=3, head_dim=8, ffn_dim=16)
    return save_encoder(folder / "exported", SliceEncoder("resnet34", embedding_dim=24), aggregator)


def test_an_export_decides_the_architecture_and_the_data_the_channels(export: Path) -> None:
    for place in (export, export.parent, export.parent.parent):
        encoder = build_slice_encoder(place, model="resnet18", in_channels=2, embedding_dim=7)
        assert encoder.architecture() | {"in_channels": 1} == SliceEncoder("resnet34", embedding_dim=24).architecture()
        assert encoder.in_channels == 2
        aggregator = build_slice_aggregator(place, embedding_dim=7, kind="MeanPool")
        assert isinstance(aggregator, TransformerAggregator)
        assert aggregator.architecture()["num_heads"] == 3


def test_other_weights_and_none_leave_it_to_the_arguments(tmp_path: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(1)}, tmp_path / "imagenet.pth")
    assert side_file(tmp_path / "imagenet.pth") == side_file(None) == {}
    encoder = build_slice_encoder(tmp_path / "imagenet.pth", "resnet18", embedding_dim=16)
    assert (encoder.model_name, encoder.embedding_dim) == ("resnet18", 16)
    aggregator = build_slice_aggregator(None, 16, num_layers=1, num_heads=2, head_dim=8, ffn_dim=8)
    assert isinstance(aggregator, DeformableAggregator)
    assert aggregator.architecture()["num_layers"] == 1
    assert isinstance(build_slice_aggregator(None, 16, "QueryAttentionPool"), QueryAttentionPool)
    with pytest.raises(ValueError, match="the aggregator must be one of"):
        build_slice_aggregator(None, 16, "GraphPool")


def test_a_backbone_of_ones_own_cannot_be_built_from_its_name(tmp_path: Path) -> None:
    class Own(torch.nn.Module):
        stage_channels = (4,)

    save_encoder(tmp_path, SliceEncoder(Own(), embedding_dim=4, levels=(1,)))
    with pytest.raises(ValueError, match="a backbone of its own"):
        build_slice_encoder(tmp_path)

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Pretrained weights into networks for fine-tuning, and those networks out of their descriptions."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import torch
from torch import nn

from monai_cluster.networks import (
    ClusterClassifier,
    ClusterDetector,
    ContextSliceUNet,
    DeformableAggregator,
    DynUNetBaseline,
    InflatedUNet,
    MeanPool,
    SliceEncoder,
    TransformerAggregator,
    inflate_kernel,
)
from monai_cluster.weights import build_network, load_pretrained_into, pretrained_architecture, save_encoder

CHANNELS = (16, 16, 8, 8, 8)


def encoder() -> SliceEncoder:
    return SliceEncoder("resnet18", 1, 8)


def aggregator() -> DeformableAggregator:
    return DeformableAggregator(8, 2, 2, 4, 12, stride=3)


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SliceEncoder, nn.Module]:
    """A run's folder with an export of random weights, and the modules that were exported."""
    torch.manual_seed(7)
    run, made, related = tmp_path_factory.mktemp("run"), encoder(), aggregator()
    save_encoder(run / "exported", made, related, {"recipe": {"epochs": 3}})
    return run, made, related


def same(first: nn.Module, second: nn.Module) -> bool:
    mine, theirs = first.state_dict(), second.state_dict()
    return mine.keys() == theirs.keys() and all(torch.equal(mine[name], theirs[name]) for name in mine)


NETWORKS = {
    "unet": lambda: ContextSliceUNet(encoder(), aggregator(), 3, CHANNELS),
    "plain unet": lambda: ContextSliceUNet(encoder(), None, 3, CHANNELS),
    "inflated": lambda: InflatedUNet("resnet18", 1, 3, CHANNELS),
    "classifier": lambda: ClusterClassifier(encoder(), aggregator(), 4, 0.1),
    "mean classifier": lambda: ClusterClassifier(encoder(), MeanPool(), 4, level="features"),
    "detector": lambda: ClusterDetector(2, 2, slice_encoder=encoder(), channels=16),
    "stacked detector": lambda: ClusterDetector(3, 2, "stacked", encoder(), aggregator(), channels=16),
    "inflated detector": lambda: ClusterDetector(3, 2, "inflated", model="resnet18", channels=16),
    "baseline": lambda: DynUNetBaseline(3, 1, 2, (8, 16, 16), 1),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_built_again_from_its_description(name: str) -> None:
    network = NETWORKS[name]()
    text = json.dumps({"type": type(network).__name__, **network.architecture()})
    again = build_network(json.loads(text))
    again.load_state_dict(network.state_dict())
    assert type(again) is type(network)
    assert json.loads(json.dumps(again.architecture())) == json.loads(json.dumps(network.architecture()))


@pytest.mark.parametrize("name", ["unet", "classifier", "stacked detector"])
def test_encoder_and_aggregator_come_from_a_runs_folder(
    name: str, export: tuple[Path, SliceEncoder, nn.Module]
) -> None:
    run, made, related = export
    network = NETWORKS[name]()
    receipts = load_pretrained_into(network, run)
    holder = network.extractor if name == "stacked detector" else network
    assert same(holder.slice_encoder, made)
    assert same(holder.slice_aggregator, related)
    assert [receipt.coverage for receipt in receipts] == [1.0, 1.0]
    assert "DeformableAggregator" in receipts[1].target


@pytest.mark.parametrize("name", ["plain unet", "mean classifier", "detector"])
def test_where_no_aggregator_learns_only_the_encoder_is_loaded(
    name: str, export: tuple[Path, SliceEncoder, nn.Module]
) -> None:
    network = NETWORKS[name]()
    assert len(load_pretrained_into(network, export[0] / "exported" / "encoder.safetensors")) == 1
    holder = network.extractor if name == "detector" else network
    assert same(holder.slice_encoder, export[1])


@pytest.mark.parametrize("name", ["inflated", "inflated detector"])
def test_3d_networks_take_inflated_kernels(name: str, export: tuple[Path, SliceEncoder, nn.Module]) -> None:
    network = NETWORKS[name]()
    (receipt,) = load_pretrained_into(network, str(export[0]))
    deep = network.unet.encoder if name == "inflated" else network.extractor.encoder
    torch.testing.assert_close(
        deep.layer3[1].conv2.weight, inflate_kernel(export[1].backbone.layer3[1].conv2.weight.detach(), 3)
    )
    assert receipt.reshaped["conv1.weight"] == "inflated to depth 7"


def test_foreign_weights_load_the_encoder_and_say_that_the_aggregator_is_new(
    caplog: pytest.LogCaptureFixture,
) -> None:
    torch.manual_seed(1)
    foreign = {f"module.{name}": value for name, value in SliceEncoder("resnet18", 3, 8).backbone.state_dict().items()}
    network = NETWORKS["unet"]()
    before = {name: value.clone() for name, value in network.slice_aggregator.state_dict().items()}
    with caplog.at_level(logging.WARNING):
        (receipt,) = load_pretrained_into(network, foreign)
    assert receipt.reshaped["conv1.weight"] == "3 input channels folded to 1"
    assert all(torch.equal(before[name], value) for name, value in network.slice_aggregator.state_dict().items())
    assert "holds no aggregator: the encoder is pretrained, the DeformableAggregator starts from random" in caplog.text


def test_weights_of_another_kind_are_refused(export: tuple[Path, SliceEncoder, nn.Module]) -> None:
    with pytest.raises(ValueError, match=r"covers .* of SliceEncoder, resnet34"):
        load_pretrained_into(ContextSliceUNet(SliceEncoder("resnet34", 1, 8)), export[0])
    with pytest.raises(ValueError, match=r"covers .* of TransformerAggregator"):
        load_pretrained_into(ContextSliceUNet(encoder(), TransformerAggregator(8, 2, 2, 4, 12)), export[0])
    with pytest.raises(TypeError, match="DynUNetBaseline holds no SliceEncoder and no ResNet of ours"):
        load_pretrained_into(NETWORKS["baseline"](), export[0])
    with pytest.raises(FileNotFoundError, match="no weights file"):
        load_pretrained_into(NETWORKS["unet"](), export[0] / "absent.pt")


def test_the_side_file_tells_the_architecture_and_foreign_weights_nothing(
    export: tuple[Path, SliceEncoder, nn.Module], tmp_path: Path
) -> None:
    run, made, related = export
    described = pretrained_architecture(run)
    assert described["slice_encoder"] == made.architecture()
    assert described["slice_aggregator"] == {"type": "DeformableAggregator", **related.architecture()}
    assert described["metadata"] == {"recipe": {"epochs": 3}}
    torch.save(made.state_dict(), tmp_path / "bare.pt")
    nothing = {"slice_encoder": None, "slice_aggregator": None, "metadata": {}}
    assert pretrained_architecture(tmp_path / "bare.pt") == nothing
    assert pretrained_architecture(None) == nothing


def test_descriptions_that_cannot_be_built_are_refused() -> None:
    good = {"type": "ContextSliceUNet", **NETWORKS["unet"]().architecture()}
    with pytest.raises(ValueError, match=r"the description's type must be one of ContextSliceUNet, .*, got 'UNet'"):
        build_network(good | {"type": "UNet"})
    with pytest.raises(ValueError, match="got None"):
        build_network({})
    with pytest.raises(ValueError, match="a backbone of its own, which no description can hold"):
        build_network(good | {"slice_encoder": good["slice_encoder"] | {"model": ""}})
    with pytest.raises(ValueError, match=r"the aggregator's type must be one of DeformableAggregator, .*, got 'Own'"):
        build_network(good | {"slice_aggregator": {"type": "Own"}})

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Other people's checkpoints into our encoder: every wrapping, the folds, and what is refused."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.networks.nets import resnet50
from safetensors.torch import save_file
from torch import Tensor, nn

from monai_cluster.networks import DeformableAggregator, MeanPool, SliceEncoder, TransformerAggregator
from monai_cluster.weights import load_aggregator_weights, load_encoder_weights, load_network_weights
from tests.networks.tiny import tiny_images, tiny_network

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def reference() -> SliceEncoder:
    """A three-channel ResNet-18 with random weights and random running statistics: torchvision's layout."""
    torch.manual_seed(0)
    encoder = SliceEncoder("resnet18", 3, 8).eval()
    for module in encoder.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return encoder


def prefixed(state: Mapping[str, Tensor], prefix: str) -> State:
    return {f"{prefix}{name}": value for name, value in state.items()}


def noise(state: Mapping[str, Tensor]) -> State:
    return {name: torch.zeros_like(value) for name, value in state.items()}


WRAPPINGS: dict[str, tuple[Callable[[State], dict], str]] = {
    "torchvision": (lambda s: s | {"fc.weight": torch.ones(9, 512), "fc.bias": torch.ones(9)}, "torchvision"),
    "swav": (
        lambda s: prefixed(
            s | {"projection_head.0.weight": torch.ones(3, 3), "prototypes.prototypes0.weight": torch.ones(3, 3)},
            "module.",
        ),
        "SwAV or DeepCluster, prefix 'module.'",
    ),
    "vissl": (
        lambda s: {
            "classy_state_dict": {
                "base_model": {
                    "model": {"trunk": prefixed(s, "_feature_blocks."), "heads": {"0.weight": torch.ones(2)}}
                }
            },
            "loss": np.float64(2.5),
        },
        "VISSL",
    ),
    "moco": (
        lambda s: {
            "epoch": 200,
            "arch": "resnet18",
            "state_dict": prefixed(noise(s), "module.encoder_k.")
            | prefixed(s, "module.encoder_q.")
            | {"module.queue": torch.ones(2, 2)},
            "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}},
        },
        "MoCo",
    ),
    "dino": (
        lambda s: {
            "student": prefixed(noise(s), "module.backbone."),
            "teacher": prefixed(s, "backbone."),
            "args": argparse.Namespace(arch="resnet18"),
        },
        "DINO",
    ),
    "student only": (lambda s: {"student": prefixed(s, "module.backbone.")}, "DINO"),
    "byol": (lambda s: prefixed(noise(s), "target_network.") | prefixed(s, "online_network."), "plain state dict"),
    "momentum copy": (
        lambda s: {"state_dict": prefixed(noise(s), "backbone_momentum.") | prefixed(s, "backbone.")},
        "plain state dict",
    ),
    "backbone": (lambda s: {"state_dict": prefixed(s, "backbone.")}, "plain state dict"),
    "model": (lambda s: {"model": s}, "plain state dict"),
    "joint network": (lambda s: {"model": prefixed(s, "module.slice_encoder.backbone.")}, "monai_cluster"),
}


@pytest.mark.parametrize(("name", "kind"), [(name, "file") for name in WRAPPINGS] + [("moco", "dictionary")])
def test_every_wrapping_gives_the_three_channel_features_on_a_grey_image(
    name: str, kind: str, reference: SliceEncoder, tmp_path: Path
) -> None:
    wrap, origin = WRAPPINGS[name]
    source: object = wrap(dict(reference.backbone.state_dict()))
    if kind == "file":
        torch.save(source, tmp_path / "weights.pth")
        source = tmp_path / "weights.pth"
    encoder = SliceEncoder("resnet18", 1, 8).eval()
    receipt = load_encoder_weights(encoder, source)  # type: ignore[arg-type]
    x = torch.rand(2, 1, 64, 64)
    theirs = reference(x.expand(-1, 3, -1, -1)).features
    torch.testing.assert_close(encoder(x).features, theirs, rtol=1e-4, atol=1e-4)
    assert receipt.coverage == 1.0
    assert receipt.reshaped == {"conv1.weight": "3 input channels folded to 1"}
    assert receipt.missing == ("projection.weight", "projection.bias")
    assert receipt.looks_like == "resnet18 with 3 input channels"
    assert origin in receipt.source_format
    assert receipt.source == ("weights.pth" if kind == "file" else "state dict")


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_stems_fold_both_ways(channels: int, reference: SliceEncoder) -> None:
    grey = SliceEncoder("resnet18", 1, 8).eval()
    load_encoder_weights(grey, reference.backbone.state_dict())
    encoder = SliceEncoder("resnet18", channels, 8).eval()
    load_encoder_weights(encoder, grey.backbone.state_dict())
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(encoder(x.expand(-1, channels, -1, -1)).features, grey(x).features, rtol=1e-4, atol=1e-4)


def test_monais_default_shortcut_biases_are_folded_into_the_batch_norm() -> None:
    torch.manual_seed(0)
    monai = resnet50(spatial_dims=2, n_input_channels=1, conv1_t_stride=2, feed_forward=False).eval()
    encoder = SliceEncoder("resnet50", 1, 8).eval()
    receipt = load_encoder_weights(encoder, monai.state_dict())
    x = torch.rand(1, 1, 64, 64)
    torch.testing.assert_close(encoder(x).features, monai(x), rtol=1e-4, atol=1e-4)
    assert sorted(receipt.reshaped) == [f"layer{stage}.0.downsample.1.running_mean" for stage in range(1, 5)]


def test_our_own_encoder_brings_its_projection(tmp_path: Path, reference: SliceEncoder) -> None:
    save_file(prefixed(reference.state_dict(), "slice_encoder."), tmp_path / "encoder.safetensors")
    encoder = SliceEncoder("resnet18", 3, 8).eval()
    receipt = load_encoder_weights(encoder, tmp_path)
    x = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(encoder(x), reference(x))
    assert receipt.missing == ()


def test_a_network_is_loaded_whole_and_through_its_encoder(tmp_path: Path) -> None:
    first, second, third = (tiny_network(seed=seed).eval() for seed in range(3))
    torch.save({"model": prefixed(first.state_dict(), "module."), "optimizer": {}}, tmp_path / "last.pt")
    assert load_network_weights(second, tmp_path / "last.pt").coverage == 1.0
    torch.testing.assert_close(second(tiny_images(), None), first(tiny_images(), None))
    load_encoder_weights(third, tmp_path / "last.pt")
    torch.testing.assert_close(third.slice_encoder.state_dict(), first.slice_encoder.state_dict())
    assert not torch.equal(third.volume_head.prototypes.weight, first.volume_head.prototypes.weight)


def test_an_aggregator_is_found_inside_a_network() -> None:
    network, fresh = tiny_network(seed=0), DeformableAggregator(8, 2, 2, 4, 12)
    receipt = load_aggregator_weights(fresh, network.state_dict())
    torch.testing.assert_close(fresh.state_dict(), network.slice_aggregator.state_dict())
    assert "slice_aggregator." in receipt.source_format
    assert load_aggregator_weights(MeanPool(), network.state_dict()).coverage == 1.0
    with pytest.raises(ValueError, match="of TransformerAggregator; at least 90% of the same model is needed"):
        load_aggregator_weights(TransformerAggregator(8, 2, 2, 4, 12), network.state_dict())


@pytest.mark.parametrize(
    ("file", "ours"), [("resnet50", "resnet18"), ("resnet34", "resnet18"), ("resnet18", "resnet34")]
)
def test_another_architecture_is_refused_by_name_and_changes_nothing(file: str, ours: str) -> None:
    """ResNet-34 is the trap: it holds every name and shape of ResNet-18."""
    encoder = SliceEncoder(ours, 1, 8)
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    other = SliceEncoder(file, 3, 8).backbone.state_dict()
    with pytest.raises(ValueError, match=f"looks like {file} with 3 input channels") as caught:
        load_encoder_weights(encoder, other)
    assert f"SliceEncoder, {ours} with 1 input channel" in str(caught.value)
    assert "loaded" in str(caught.value), "the receipt is part of the message"
    torch.testing.assert_close(dict(encoder.state_dict()), before, rtol=0, atol=0)


def test_a_partial_file_passes_below_its_coverage_and_says_what_is_missing(reference: SliceEncoder) -> None:
    state = {name: value for name, value in reference.backbone.state_dict().items() if not name.startswith("layer4")}
    encoder = SliceEncoder("resnet18", 3, 8)
    with pytest.raises(ValueError, match=r"covers \d+\.\d% of .*; at least 90% of the same model is needed"):
        load_encoder_weights(encoder, state)
    receipt = load_encoder_weights(encoder, state, min_coverage=0.0)
    inside = sum(value.numel() for name, value in state.items() if not name.endswith("tracked"))
    whole = sum(
        value.numel() for name, value in reference.backbone.state_dict().items() if not name.endswith("tracked")
    )
    assert receipt.coverage == pytest.approx(inside / whole)
    assert {name.split(".")[0] for name in receipt.missing} == {"layer4", "projection"}


def test_files_of_other_networks_are_refused(reference: SliceEncoder) -> None:
    encoder = SliceEncoder("resnet18", 3, 8)
    with pytest.raises(ValueError, match="It looks like a vision transformer"):
        load_encoder_weights(encoder, {"patch_embed.proj.weight": torch.ones(2, 3, 4, 4)})
    volumes = {
        name: value[..., None] if value.ndim == 4 else value for name, value in reference.backbone.state_dict().items()
    }
    with pytest.raises(ValueError, match="It looks like 3D resnet18"):
        load_encoder_weights(encoder, volumes)
    broken = dict(reference.backbone.state_dict())
    broken["bn1.weight"] = broken["bn1.weight"] * float("nan")
    with pytest.raises(ValueError, match=r"holds NaN or infinite weights in .*bn1.weight"):
        load_encoder_weights(encoder, broken)


class Dangerous:
    """Runs code when it is unpickled without care."""

    def __reduce__(self) -> tuple:
        return (exec, ("raise SystemExit('this ran')",))


def test_files_that_cannot_be_read_safely_are_refused(tmp_path: Path) -> None:
    encoder = SliceEncoder("resnet18", 3, 8)
    torch.save({"state_dict": {}, "hook": Dangerous()}, tmp_path / "dangerous.pt")
    with pytest.raises(ValueError, match=r"dangerous.pt holds more than tensors"):
        load_encoder_weights(encoder, tmp_path / "dangerous.pt")
    (tmp_path / "cut.safetensors").write_bytes(b"12345678 no header")
    with pytest.raises(ValueError, match=r"cut.safetensors is no safetensors file, or is cut off"):
        load_encoder_weights(encoder, tmp_path / "cut.safetensors")
    torch.save(encoder.state_dict(), tmp_path / "whole.pt")
    (tmp_path / "cut.pt").write_bytes((tmp_path / "whole.pt").read_bytes()[:5000])
    with pytest.raises(ValueError, match=r"cut.pt is no PyTorch file, or is cut off"):
        load_encoder_weights(encoder, tmp_path / "cut.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(ValueError, match="holds a list, not a state dict"):
        load_encoder_weights(encoder, tmp_path / "list.pt")
    with pytest.raises(ValueError, match="state dict holds no tensors"):
        load_encoder_weights(encoder, {"epoch": 3})
    with pytest.raises(FileNotFoundError, match="no weights file"):
        load_encoder_weights(encoder, tmp_path / "absent.pt")


def test_the_receipt_is_seen_with_logging_on_and_off(
    reference: SliceEncoder, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    state = reference.backbone.state_dict() | {"fc.weight": torch.ones(2, 512)}
    encoder = SliceEncoder("resnet18", 1, 8)
    logging.getLogger("monai_cluster.weights.load").setLevel(logging.WARNING)
    load_encoder_weights(encoder, state)
    seen = capsys.readouterr().err
    with caplog.at_level(logging.INFO, "monai_cluster.weights.load"):
        receipt = load_encoder_weights(encoder, state)
    logging.getLogger("monai_cluster.weights.load").setLevel(logging.NOTSET)
    assert str(receipt) in caplog.text
    for line in (
        "weights from state dict (torchvision) into SliceEncoder, resnet18 with 1 input channel",
        "loaded    120 tensors, 100.0% of the parameters",
        "reshaped  conv1.weight: 3 input channels folded to 1",
        "missing   2, left as they were: projection.weight, projection.bias",
        "skipped   1, not part of it: fc.weight",
    ):
        assert line in seen
        assert line in str(receipt)

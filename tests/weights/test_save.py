# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Exports: rebuilt bit by bit, checked before use, and free of what must not travel."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from monai_cluster.networks import (
    DeformableAggregator,
    GatedAttentionPool,
    MaxPool,
    MeanPool,
    QueryAttentionPool,
    SliceEncoder,
    TransformerAggregator,
)
from monai_cluster.weights import load_pretrained, save, save_encoder, to_torchvision_state_dict
from tests.networks.tiny import TinyStages, tiny_encoder

AGGREGATORS = [
    DeformableAggregator(
        8, 2, 4, 2, 12, stride=3, kernel_size=5, offset_scale=1.0, offset_groups=2, position_bias=False
    ),
    TransformerAggregator(8, 1, 2, 4, 12, position_bias=False),
    GatedAttentionPool(8, 5),
    QueryAttentionPool(8, 2, 3, 4),
    MeanPool(8),
    MaxPool(),
    None,
]


@pytest.fixture
def encoder() -> SliceEncoder:
    torch.manual_seed(0)
    return SliceEncoder("resnet18", 2, 8, levels=(2, 4), duplicate_last_level=True).eval()


@pytest.mark.parametrize("aggregator", AGGREGATORS, ids=lambda module: type(module).__name__)
def test_an_export_is_rebuilt_exactly(aggregator: nn.Module | None, encoder: SliceEncoder, tmp_path: Path) -> None:
    path = save_encoder(tmp_path / "out", encoder, aggregator, {"recipe": {"lr": 0.1, "stages": ["image", "mask"]}})
    assert path == tmp_path / "out" / "encoder.safetensors"
    found, rebuilt, description = load_pretrained(tmp_path / "out")
    x, slices = torch.rand(2, 2, 32, 32), torch.randn(2, 9, 8)
    torch.testing.assert_close(found(x), encoder(x), rtol=0, atol=0)
    if aggregator is None:
        assert rebuilt is None
    else:
        assert type(rebuilt) is type(aggregator)
        torch.testing.assert_close(rebuilt(slices), aggregator.eval()(slices), rtol=0, atol=0)
    assert description["metadata"] == {"recipe": {"lr": 0.1, "stages": ["image", "mask"]}}
    assert description["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert description["versions"]["torch"] == torch.__version__
    assert set(description["versions"]) == {"monai_cluster", "monai", "torch"}
    assert str(tmp_path) not in path.with_suffix(".json").read_text()


def test_a_module_of_ones_own_is_given_back_in(tmp_path: Path) -> None:
    class OwnPool(MeanPool):
        pass

    encoder = tiny_encoder().eval()
    save_encoder(tmp_path / "own.safetensors", encoder, OwnPool(8))
    with pytest.raises(ValueError, match="made with a backbone of its own"):
        load_pretrained(tmp_path / "own.safetensors")
    with pytest.raises(ValueError, match="an aggregator of its own, OwnPool"):
        load_pretrained(tmp_path / "own.safetensors", TinyStages())
    found, aggregator, _ = load_pretrained(tmp_path / "own.safetensors", TinyStages(), OwnPool(8))
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(found(x), encoder(x))
    assert isinstance(aggregator, OwnPool)
    with pytest.raises(ValueError, match=r"own.safetensors does not fit the SliceEncoder"):
        load_pretrained(tmp_path / "own.safetensors", TinyStages(2), OwnPool(8))
    with pytest.raises(ValueError, match="only the named ResNets have torchvision's layout"):
        to_torchvision_state_dict(encoder)


def test_damaged_and_incomplete_exports_are_refused(tmp_path: Path) -> None:
    path = save_encoder(tmp_path, tiny_encoder())
    side = path.with_suffix(".json")
    text, weights = side.read_text(), path.read_bytes()
    path.write_bytes(weights[:-1] + b"x")
    with pytest.raises(ValueError, match=r"encoder.safetensors is not the file that encoder.json describes"):
        load_pretrained(tmp_path, TinyStages())
    path.write_bytes(weights)
    side.write_text(json.dumps(json.loads(text) | {"format": "monai_cluster encoder 9"}))
    with pytest.raises(ValueError, match="is of format 'monai_cluster encoder 9', this version reads"):
        load_pretrained(tmp_path, TinyStages())
    side.write_text(text[:40])
    with pytest.raises(ValueError, match=r"encoder.json is no JSON file"):
        load_pretrained(tmp_path, TinyStages())
    side.unlink()
    with pytest.raises(FileNotFoundError, match=r"the description .* is missing"):
        load_pretrained(tmp_path, TinyStages())
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"the weights .* is missing"):
        load_pretrained(tmp_path, TinyStages())


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"recipe": {"datalist": "/data/list.json"}}, "metadata.recipe.datalist is the path '/data/list.json'"),
        ({"recipe": ["~/x"]}, r"metadata.recipe\[0\] is the path"),
        ({"recipe": r"C:\data"}, "is the path"),
        ({"recipe": Path("data")}, "is the path"),
        ({"Patient_ID": "7"}, "the key 'Patient_ID', an identifier"),
        ({"recipe": {3: 1}}, "has the key 3: JSON keys are text"),
        ({"recipe": torch.ones(1)}, "metadata.recipe is a Tensor"),
        ({"loss": float("nan")}, "metadata.loss is nan"),
    ],
)
def test_paths_identifiers_and_what_json_cannot_hold_stay_out(metadata: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        save_encoder(tmp_path, tiny_encoder(), metadata=metadata)
    assert not list(tmp_path.iterdir())


def test_broken_weights_are_not_exported(tmp_path: Path) -> None:
    encoder = tiny_encoder()
    with torch.no_grad():
        encoder.projection.weight[0, 0] = float("inf")
    with pytest.raises(ValueError, match=r"slice_encoder.projection.weight and 0 more hold NaN or infinite"):
        save_encoder(tmp_path, encoder)


def test_a_crash_while_writing_leaves_the_old_export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = tiny_encoder().eval()
    save_encoder(tmp_path, encoder)

    def crash(tensors: dict, path: Path, metadata: dict) -> None:
        save_file(tensors, path)
        raise OSError("disk full")

    monkeypatch.setattr(save, "save_file", crash)
    with pytest.raises(OSError, match="disk full"):
        save_encoder(tmp_path, tiny_encoder())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json", "encoder.safetensors"]
    x = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(load_pretrained(tmp_path, TinyStages())[0](x), encoder(x))


@pytest.mark.parametrize("channels", [1, 3])
def test_torchvisions_layout_gives_the_same_features_on_a_grey_image(channels: int) -> None:
    torch.manual_seed(0)
    encoder = SliceEncoder("resnet18", 1, 8).eval()
    other = SliceEncoder("resnet18", channels, 8).eval()
    other.backbone.load_state_dict(to_torchvision_state_dict(encoder, channels))
    x = torch.rand(2, 1, 32, 32)
    torch.testing.assert_close(
        other(x.expand(-1, channels, -1, -1)).features, encoder(x).features, rtol=1e-4, atol=1e-4
    )

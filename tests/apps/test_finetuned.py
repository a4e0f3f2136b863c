# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A saved model is the model: same predictions, whole files or none, nothing about where it was made."""

from __future__ import annotations

import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from monai_cluster.apps.finetuned import is_finetuned, load_finetuned, model_file, save_finetuned
from monai_cluster.networks import (
    ClusterClassifier,
    ClusterDetector,
    ContextSliceUNet,
    DeformableAggregator,
    MeanPool,
    SliceEncoder,
)

PREPROCESSING = {"spatial_dims": 3, "spacing": [1.0, 1.0, 2.0], "plane": "axial"}


def encoder() -> SliceEncoder:
    return SliceEncoder(model="resnet18", in_channels=1, embedding_dim=16)


def aggregator() -> DeformableAggregator:
    return DeformableAggregator(16, num_layers=1, num_heads=2, head_dim=8, ffn_dim=16)


def network_of(task: str) -> nn.Module:
    torch.manual_seed(3)
    if task == "segmentation":
        return ContextSliceUNet(encoder(), aggregator(), out_channels=3, decoder_channels=(16, 16, 8, 8, 8))
    if task == "detection":
        return ClusterDetector(
            spatial_dims=2, num_classes=2, kind="slice", slice_encoder=encoder(), channels=16, score_threshold=0.0,
            max_detections=5,
        )  # fmt: skip
    return ClusterClassifier(encoder(), MeanPool(16), num_classes=2)


def saved(path: Path, task: str = "segmentation", network: nn.Module | None = None, **changes: Any) -> Path:
    parts: dict[str, Any] = {
        "class_names": ["background", "liver", "spleen"] if task == "segmentation" else ["healthy", "lesion"],
        "preprocessing": PREPROCESSING,
        "prediction": {"patch_size": [32, 32, 4], "overlap": 0.25} if task == "segmentation" else {},
        "recipe": {"schedule": "full", "flip_axes": [1]},
    }
    return save_finetuned(path, network or network_of(task), task, **parts | changes)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
@pytest.mark.parametrize("task", ["segmentation", "detection", "classification"])
def test_a_loaded_model_predicts_what_the_saved_one_does(tmp_path: Path, task: str, suffix: str) -> None:
    network = network_of(task).train()
    shape = (1, 40, 36) if task == "detection" else (1, 40, 36, 5)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):  # not what a fresh network has
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.5, 2)
    path = saved(tmp_path / f"model.{suffix}", task, network)
    model = load_finetuned(path)
    assert not model.network.training
    image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        predictor = model.predictor()
        found, wanted = (predictor(image, one) for one in (model.network, network.eval()))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    if task == "segmentation":
        assert (predictor.patch_size, predictor.overlap) == ([32, 32, 4], 0.25)
        assert model.predictor(overlap=0.5).overlap == 0.5
    assert (model.task, model.preprocessing) == (task, PREPROCESSING)


def test_every_way_to_name_a_model_finds_the_same_file(tmp_path: Path) -> None:
    path = saved(tmp_path / "run" / "exported" / "model.safetensors", "classification")
    assert model_file(tmp_path / "run") == model_file(path.parent) == model_file(path) == path
    assert all(is_finetuned(one) for one in (tmp_path / "run", path.parent, path))
    (tmp_path / "models").mkdir()
    bundled = saved(tmp_path / "models" / "model.pt", "classification")
    assert model_file(tmp_path / "models") == bundled
    assert is_finetuned(tmp_path / "models")
    assert not is_finetuned(tmp_path)


# refusals


def test_a_file_changed_in_one_byte_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", "classification")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is not the file that model\.json describes"):
        load_finetuned(path)


def test_another_format_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", "classification")
    side = path.with_suffix(".json")
    side.write_text(side.read_text().replace("monai_cluster model 1", "monai_cluster model 9"))
    assert not is_finetuned(path)
    with pytest.raises(ValueError, match=r"is of format 'monai_cluster model 9', this version reads"):
        load_finetuned(path)


@pytest.mark.parametrize(("lost", "named"), [("safetensors", "weights"), ("json", "description")])
def test_a_missing_file_is_named(tmp_path: Path, lost: str, named: str) -> None:
    path = saved(tmp_path / "model.safetensors", "classification")
    path.with_suffix(f".{lost}").unlink()
    assert not is_finetuned(path)
    with pytest.raises(FileNotFoundError, match=rf"the {named} .*model\.{lost} of a fine-tuned model are missing"):
        load_finetuned(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"recipe": {"pretrained": "/scans/anna/run"}},
            r"description\.recipe\.pretrained is the path '/scans/anna/run'",
        ),
        ({"preprocessing": {"window": Path("a")}}, r"description\.preprocessing\.window is the path 'a'"),
        ({"recipe": {"patient": "p1"}}, r"has the key 'patient', an identifier"),
        ({"prediction": {"overlap": math.nan}}, r"description\.prediction\.overlap is nan"),
    ],
)
def test_a_description_that_gives_away_places_or_people_is_refused(tmp_path: Path, changes: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        saved(tmp_path / "model.safetensors", "classification", **changes)
    assert list(tmp_path.iterdir()) == []


def test_broken_weights_are_refused_and_the_old_file_stays(tmp_path: Path) -> None:
    path = saved(tmp_path / "model.safetensors", "classification")
    before = path.read_bytes()
    network = network_of("classification")
    with torch.no_grad():
        next(network.parameters()).view(-1)[0] = math.nan
    with pytest.raises(ValueError, match=r"hold NaN or infinite weights: training broke down"):
        saved(path, "classification", network)
    assert path.read_bytes() == before
    load_finetuned(path)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_a_write_that_fails_half_way_leaves_the_old_model(tmp_path: Path, monkeypatch, suffix: str) -> None:
    path = saved(tmp_path / f"model.{suffix}", "classification")
    before = path.read_bytes()

    def half(tensors: Any, target: Any, **options: Any) -> None:
        Path(target).write_bytes(b"half a file")
        raise OSError("No space left on device")

    monkeypatch.setattr("monai_cluster.apps.finetuned.save_file", half)
    monkeypatch.setattr("monai_cluster.apps.finetuned.torch.save", half)
    with pytest.raises(OSError, match="No space left"):
        saved(path, "classification", ClusterClassifier(encoder(), None, num_classes=2))
    assert path.read_bytes() == before
    assert sorted(os.listdir(tmp_path)) == ["model.json", path.name]
    load_finetuned(path)


def test_a_description_of_another_model_beside_the_weights_is_refused(tmp_path: Path) -> None:
    one = saved(tmp_path / "one" / "model.safetensors", "classification")
    other = saved(tmp_path / "other" / "model.safetensors")
    shutil.copy(other.with_suffix(".json"), one.with_suffix(".json"))
    with pytest.raises(ValueError, match=r"their sha256 differ"):
        load_finetuned(one)
    assert json.loads(one.with_suffix(".json").read_text())["task"] == "segmentation"

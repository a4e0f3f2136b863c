# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Tiny labelled data, tiny pretrained weights and the settings of runs that take seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.utils import set_determinism

from monai_cluster.data.task_phantoms import write_task_phantoms
from monai_cluster.networks import DeformableAggregator, SliceEncoder
from monai_cluster.weights import save_encoder

ALL_TASKS: dict[str, Any] = {
    "embedding_dim": 16, "iterations_per_epoch": 1, "batch_size": 2, "warmup_epochs": 0, "val_interval": 1,
    "cache_workers": 1, "amp": False, "pictures": False,
}  # fmt: skip
ONE_TASK: dict[str, dict[str, Any]] = {
    "segmentation": {"decoder_channels": [16, 16, 8, 8, 8]},
    "detection": {"channels": 16, "score_threshold": 0.0, "max_detections": 3},
    "classification": {"image_size": 32, "label_key": "class"},
}


def tiny(task: str, dims: int = 2, **changes: Any) -> dict[str, Any]:
    """Overrides that make a run of the ``cpu`` preset as small as can be."""
    patch = {} if task == "classification" else {"patch_size": [32, 32, 4][:dims]}
    slices = {"num_slices": 4} if task == "classification" and dims == 3 else {}
    return ALL_TASKS | ONE_TASK[task] | patch | slices | changes


@pytest.fixture(autouse=True)
def _determinism_as_before() -> Iterator[None]:
    """The bundles set MONAI's determinism, which is global."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    set_determinism(None)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """Four volumes and images to learn from, two to validate with, four to test with."""
    return write_task_phantoms(
        tmp_path_factory.mktemp("labelled") / "phantoms",
        num_volumes=10, num_images=10, size=32, validation_share=0.2, test_share=0.4,
    )  # fmt: skip


@pytest.fixture(scope="session")
def pretraining(tmp_path_factory) -> Path:
    """The folder of a pretraining run, as far as fine-tuning looks into it."""
    torch.manual_seed(5)
    folder = tmp_path_factory.mktemp("pretraining") / "run"
    encoder = SliceEncoder(model="resnet18", in_channels=1, embedding_dim=16)
    for name, value in encoder.named_buffers():
        if name.endswith("running_mean"):
            value.uniform_(-0.1, 0.1)  # as after training: these must not move either
    aggregator = DeformableAggregator(16, num_layers=1, num_heads=2, head_dim=8, ffn_dim=16)
    save_encoder(folder / "exported", encoder, aggregator)
    return folder

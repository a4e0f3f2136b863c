# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Untrained modules of the architecture that a pretrained file holds, or of one's own choice where there is none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch import nn

from monai_cluster import networks
from monai_cluster.networks import SliceEncoder

from .save import weights_path

__all__ = ["build_slice_aggregator", "build_slice_encoder", "side_file"]


def side_file(pretrained: str | Path | None) -> dict[str, Any]:
    """The description beside an export of ours; empty for other people's weights, and where there are none.

    Args:
        pretrained: our export (folder or safetensors file), a run's folder, any other weights file, or None.
    """
    if pretrained is None:
        return {}
    path = Path(pretrained)
    for candidate in (path / "exported", path) if path.is_dir() else (path,):
        side = weights_path(candidate).with_suffix(".json")
        if side.is_file():
            found: dict[str, Any] = json.loads(side.read_text(encoding="utf-8"))
            return found if "architecture" in found else {}
    return {}


def build_slice_encoder(
    pretrained: str | Path | None = None, model: str = "resnet50", in_channels: int = 1, embedding_dim: int = 640
) -> SliceEncoder:
    """The slice encoder of a pretrained file, untrained, with another number of input channels if need be.

    Args:
        pretrained: our export names the architecture; for other weights, and None, the arguments below do.
        model: ``resnet18``, ``resnet34``, ``resnet50`` or ``resnet101``.
        in_channels: of the images to come; the file's stem is folded to them when its weights are loaded.
        embedding_dim: length of the slice embedding.

    Raises:
        ValueError: for an unknown model, or an export with a backbone of its own.
    """
    described = side_file(pretrained).get("architecture", {}).get("slice_encoder")
    arguments = dict(described or {"model": model, "embedding_dim": embedding_dim})
    if not arguments["model"]:
        raise ValueError("this export was made with a backbone of its own: build its SliceEncoder yourself.")
    return SliceEncoder(**{**arguments, "in_channels": in_channels})


def build_slice_aggregator(
    pretrained: str | Path | None = None,
    embedding_dim: int = 640,
    kind: str = "DeformableAggregator",
    num_layers: int = 2,
    num_heads: int = 4,
    head_dim: int = 32,
    ffn_dim: int = 256,
) -> nn.Module:
    """The slice aggregator of a pretrained file, untrained, or a deformable one of these sizes where there is none.

    Args:
        pretrained: our export names the architecture.
        embedding_dim: F of the slices.
        kind: class of the aggregator where no export names it; pooling ones take only F.
        num_layers: layers in a row.
        num_heads: attention heads.
        head_dim: width of a head.
        ffn_dim: hidden width of each layer's network.

    Raises:
        ValueError: for an unknown kind.
    """
    described = side_file(pretrained).get("architecture", {}).get("slice_aggregator")
    layers = {"num_layers": num_layers, "num_heads": num_heads, "head_dim": head_dim, "ffn_dim": ffn_dim}
    arguments = dict(described) if described else {"type": kind, "dim": embedding_dim}
    name = arguments.pop("type")
    known = (
        "DeformableAggregator",
        "TransformerAggregator",
        "GatedAttentionPool",
        "QueryAttentionPool",
        "MeanPool",
        "MaxPool",
    )
    if name not in known:
        raise ValueError(f"the aggregator must be one of {', '.join(known)}, got {name!r}.")
    if not described and name in known[:2]:
        arguments |= layers
    built: nn.Module = getattr(networks, name)(**arguments)
    return built

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Pretrained weights into networks for fine-tuning, and such networks from their description."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from monai_cluster import networks
from monai_cluster.networks import ResNetStages, SliceEncoder

from .building import side_file
from .checkpoint_files import ENCODER_FILE, read_tensors
from .load import Source, load_aggregator_weights, load_encoder_weights
from .receipt import LoadReceipt

__all__ = ["build_network", "load_pretrained_into", "pretrained_architecture"]

NETWORKS = ("ContextSliceUNet", "InflatedUNet", "ClusterClassifier", "ClusterDetector", "DynUNetBaseline")
AGGREGATORS = (
    "DeformableAggregator",
    "TransformerAggregator",
    "GatedAttentionPool",
    "QueryAttentionPool",
    "MeanPool",
    "MaxPool",
)

logger = logging.getLogger(__name__)


def load_pretrained_into(network: nn.Module, source: Source, min_coverage: float = 0.9) -> list[LoadReceipt]:
    """Load the encoder, and the aggregator where the network and the file both have one.

    A 3D encoder gets the file's 2D kernels inflated.

    Args:
        network: holds a ``SliceEncoder`` or a bare ResNet, at any depth, and maybe a ``slice_aggregator``.
        source: a pretraining run's folder, our export (folder or file), or anything else that
            :func:`load_encoder_weights` reads, such as ImageNet weights.
        min_coverage: least share of each part's numbers that must be loaded.

    Returns:
        one receipt for each part that was loaded, each also logged.

    Raises:
        FileNotFoundError: if there is no such file.
        TypeError: if the network has no encoder that could be loaded.
        ValueError: if the file covers too little of a part.
    """
    source = _file_of(source)
    encoder = _encoder_of(network)
    aggregator = next((part for name, part in network.named_modules() if name.endswith("slice_aggregator")), None)
    receipts = [load_encoder_weights(encoder, source, min_coverage)]
    if aggregator is None or not aggregator.state_dict():
        return receipts
    name, tensors = read_tensors(source)
    if any("slice_aggregator." in key for key in tensors):
        receipts.append(load_aggregator_weights(aggregator, source, min_coverage))
    else:
        logger.warning(
            "%s holds no aggregator: the encoder is pretrained, the %s starts from random weights.",
            name,
            type(aggregator).__name__,
        )
    return receipts


def pretrained_architecture(source: str | Path | None) -> dict[str, Any]:
    """What the JSON file beside an export of ours says.

    Args:
        source: a run's folder, an export, other people's weights, or None.

    Returns:
        ``slice_encoder`` and ``slice_aggregator``, the arguments that build them or None where nothing is known, and
        ``metadata``, such as preprocessing and recipe.
    """
    described = side_file(source)
    architecture = described.get("architecture", {})
    return {
        "slice_encoder": architecture.get("slice_encoder"),
        "slice_aggregator": architecture.get("slice_aggregator"),
        "metadata": described.get("metadata", {}),
    }


def build_network(description: Mapping[str, Any]) -> nn.Module:
    """An untrained network for fine-tuning from ``{"type": class name} | network.architecture()``.

    Args:
        description: JSON values; ``slice_encoder`` and ``slice_aggregator`` are descriptions themselves.

    Raises:
        ValueError: if the type is missing or unknown, or the encoder's backbone is a module of one's own.
    """
    arguments = dict(description)
    kind = arguments.pop("type", None)
    if kind not in NETWORKS:
        raise ValueError(f"the description's type must be one of {', '.join(NETWORKS)}, got {kind!r}.")
    encoder, aggregator = arguments.get("slice_encoder"), arguments.get("slice_aggregator")
    if encoder is not None:
        if not encoder["model"]:
            raise ValueError(
                "this network was made with a backbone of its own, which no description can hold: build it in Python."
            )
        arguments["slice_encoder"] = SliceEncoder(**encoder)
    if aggregator is not None:
        arguments["slice_aggregator"] = _build_aggregator(aggregator)
    built: nn.Module = getattr(networks, kind)(**arguments)
    return built


def _build_aggregator(description: Mapping[str, Any]) -> nn.Module:
    arguments = dict(description)
    kind = arguments.pop("type", None)
    if kind not in AGGREGATORS:
        raise ValueError(f"the aggregator's type must be one of {', '.join(AGGREGATORS)}, got {kind!r}.")
    built: nn.Module = getattr(networks, kind)(**arguments)
    return built


def _file_of(source: Source) -> Source:
    """A run's folder holds its export one level down."""
    if isinstance(source, (str, Path)):
        inside = Path(source) / "exported"
        if (inside / ENCODER_FILE).is_file():
            return inside
    return source


def _encoder_of(network: nn.Module) -> nn.Module:
    for kind in (SliceEncoder, ResNetStages):
        for part in network.modules():
            if isinstance(part, kind):
                return part
    raise TypeError(
        f"{type(network).__name__} holds no SliceEncoder and no ResNet of ours: there is nothing to load weights into."
    )

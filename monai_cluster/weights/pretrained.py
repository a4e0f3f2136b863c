# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Rebuild what :func:`save_encoder` wrote."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import monai_cluster.networks as networks
from monai_cluster.networks.slice_encoder import SliceEncoder

from .save import FORMAT, sha256_of, weights_path

__all__ = ["build_untrained", "load_pretrained"]

_AGGREGATORS = (
    "DeformableAggregator",
    "TransformerAggregator",
    "GatedAttentionPool",
    "QueryAttentionPool",
    "MeanPool",
    "MaxPool",
)


def load_pretrained(
    path: str | Path, backbone: nn.Module | None = None, aggregator: nn.Module | None = None
) -> tuple[SliceEncoder, nn.Module | None, dict[str, Any]]:
    """Rebuild the encoder and the aggregator from an export, after checking that it is whole.

    Args:
        path: the export folder or its safetensors file; the JSON file lies beside it.
        backbone: where the export was made with a backbone of one's own, that module.
        aggregator: where it was made with an aggregator of one's own, that module.

    Returns:
        encoder and aggregator (None where there was none) in evaluation mode on the CPU, and the JSON file's content.

    Raises:
        FileNotFoundError: if the weights or the JSON file are missing.
        ValueError: if the two do not belong together, are damaged or of another format, or a module is needed.
    """
    weights = weights_path(path)
    side = weights.with_suffix(".json")
    for file, what in ((weights, "weights"), (side, "description")):
        if not file.is_file():
            raise FileNotFoundError(
                f"the {what} {file} is missing: an export is {weights.name} with {side.name} beside it; for bare "
                "weights use load_encoder_weights."
            )
    description = _description(side)
    if sha256_of(weights) != description["sha256"]:
        raise ValueError(
            f"{weights.name} is not the file that {side.name} describes (their sha256 differ): one of them was "
            "changed, cut off or replaced; copy both again."
        )
    architecture = description["architecture"]
    encoder = _build_encoder(architecture["slice_encoder"], backbone)
    built = _build_aggregator(architecture["slice_aggregator"], aggregator)
    tensors = load_file(weights)
    _fill(encoder, "slice_encoder.", tensors, weights.name)
    if built is not None:
        _fill(built, "slice_aggregator.", tensors, weights.name)
    return encoder.eval(), None if built is None else built.eval(), description


def build_untrained(path: str | Path, seed: int = 0) -> tuple[SliceEncoder, nn.Module | None, dict[str, Any]]:
    """The architecture of an export with fresh weights: the baseline that pretraining must beat.

    Args:
        path: the export folder or its safetensors file; only the JSON file beside it is read.
        seed: of the fresh weights; the global random state is left as it was.

    Returns:
        as :func:`load_pretrained`.

    Raises:
        FileNotFoundError: if the JSON file is missing.
        ValueError: if it is of another format, or a module of one's own is needed.
    """
    side = weights_path(path).with_suffix(".json")
    if not side.is_file():
        raise FileNotFoundError(f"the description {side} is missing: an export has its JSON file beside it.")
    description = _description(side)
    architecture = description["architecture"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = _build_encoder(architecture["slice_encoder"], None)
        aggregator = _build_aggregator(architecture["slice_aggregator"], None)
    return encoder.eval(), None if aggregator is None else aggregator.eval(), description


def _description(side: Path) -> dict[str, Any]:
    try:
        description = json.loads(side.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{side.name} is no JSON file ({error}): copy it again.") from error
    found = description.get("format") if isinstance(description, dict) else None
    if found != FORMAT or not {"architecture", "sha256"} <= set(description):
        raise ValueError(f"{side.name} is of format {found!r}, this version reads {FORMAT!r}: update monai-cluster.")
    return dict(description)


def _build_encoder(arguments: Mapping[str, Any], backbone: nn.Module | None) -> SliceEncoder:
    if not arguments["model"] and backbone is None:
        raise ValueError("this export was made with a backbone of its own: build that module and give it as backbone.")
    return SliceEncoder(**{**arguments, "model": arguments["model"] or backbone})


def _build_aggregator(arguments: Mapping[str, Any] | None, own: nn.Module | None) -> nn.Module | None:
    if arguments is None:
        return None
    arguments = dict(arguments)
    kind = arguments.pop("type")
    if kind in _AGGREGATORS:
        built: nn.Module = getattr(networks, kind)(**arguments)
        return built
    if own is None:
        raise ValueError(
            f"this export was made with an aggregator of its own, {kind}: build it and give it as aggregator."
        )
    return own


def _fill(module: nn.Module, prefix: str, tensors: Mapping[str, Tensor], name: str) -> None:
    inside = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    try:
        module.load_state_dict(inside)
    except RuntimeError as error:
        raise ValueError(f"{name} does not fit the {type(module).__name__} that was built for it: {error}") from error

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Load encoder, aggregator or network weights from our files and other people's, with a receipt."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_cluster.networks.inflate import inflate_kernel, inflates_to

from .checkpoint_files import read_tensors
from .receipt import LoadReceipt
from .recognise import find_prefix, look_of, origin_of, resnet_of
from .stem import fold_stem

__all__ = ["load_aggregator_weights", "load_encoder_weights", "load_network_weights"]

Source = str | Path | Mapping[str, Any]
logger = logging.getLogger(__name__)


def load_encoder_weights(encoder: nn.Module, source: Source, min_coverage: float = 0.9) -> LoadReceipt:
    """Load a ResNet's weights from torchvision, SwAV, DeepCluster, VISSL, MoCo, DINO, MONAI or our own files.

    Prefixes are found rather than listed: the tensors stand wherever most of the encoder's names do. A stem for other
    input channels is folded; a bias in a shortcut (MONAI's default) is folded into the batch norm behind it; a 3D
    encoder gets 2D kernels inflated.

    Args:
        encoder: a ``SliceEncoder``, a network with a ``slice_encoder``, or a bare backbone. The slice encoder's
            projection is loaded from our own files and does not count for the coverage.
        source: a safetensors or PyTorch file, our export folder, or a state dict.
        min_coverage: least share of the backbone's numbers that must be loaded.

    Returns:
        the receipt, which is also logged (or written to standard error where logging is off).

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read safely, or covers too little; the message holds the receipt and names the
            model that the file looks like. The encoder is then unchanged.
    """
    encoder = getattr(encoder, "slice_encoder", encoder)
    backbone: nn.Module = getattr(encoder, "backbone", encoder)
    name, tensors = read_tensors(source)
    load = _Load(backbone, tensors, _title(encoder, backbone))
    projection = getattr(encoder, "projection", None)
    if isinstance(projection, nn.Module) and load.prefix is not None:
        load.add_projection(projection)
    return load.finish(name, min_coverage)


def load_aggregator_weights(aggregator: nn.Module, source: Source, min_coverage: float = 0.9) -> LoadReceipt:
    """Load a slice aggregator from our export or from a checkpoint of the joint network.

    Args:
        aggregator: any aggregator; one without parameters takes nothing.
        source: a safetensors or PyTorch file, our export folder, or a state dict.
        min_coverage: least share of the aggregator's numbers that must be loaded.

    Returns:
        the receipt.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read safely or covers too little; the aggregator is then unchanged.
    """
    name, tensors = read_tensors(source)
    return _Load(aggregator, tensors, type(aggregator).__name__).finish(name, min_coverage)


def load_network_weights(network: nn.Module, source: Source, min_coverage: float = 0.9) -> LoadReceipt:
    """Load a whole joint network from a training checkpoint, wrapped or not.

    Args:
        network: the joint network.
        source: a safetensors or PyTorch file, or a state dict.
        min_coverage: least share of the network's numbers that must be loaded.

    Returns:
        the receipt.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read safely or covers too little; the network is then unchanged.
    """
    name, tensors = read_tensors(source)
    return _Load(network, tensors, type(network).__name__).finish(name, min_coverage)


def _title(encoder: nn.Module, backbone: nn.Module) -> str:
    return f"{type(encoder).__name__}, {look_of(backbone.state_dict()) or type(backbone).__name__}"


class _Load:
    """One load: find the prefix, match names and shapes, then take over or refuse as a whole."""

    def __init__(self, module: nn.Module, tensors: Mapping[str, Tensor], title: str) -> None:
        self.module, self.tensors, self.title = module, tensors, title
        self.wanted = {name: value for name, value in module.state_dict().items() if isinstance(value, Tensor)}
        self.targets = dict(self.wanted)
        self.new: dict[str, Tensor] = {}
        self.missing: list[str] = []
        self.reshaped: dict[str, str] = {}
        self.used: set[str] = set()
        self.wrong_shape: dict[str, str] = {}
        self.prefix = find_prefix(self.wanted, tensors)
        self.inside = {key: value for key, value in tensors.items() if key.startswith(self.prefix or "")}
        self._match()

    def _match(self) -> None:
        stem = next((name for name, value in self.wanted.items() if value.ndim >= 4), None)
        for name, value in self.wanted.items():
            key = f"{self.prefix}{name}"
            found = self.tensors.get(key) if self.prefix is not None else None
            if found is not None and inflates_to(found, value):
                found = inflate_kernel(found.float(), value.shape[-1])
                self.reshaped[name] = f"inflated to depth {value.shape[-1]}"
            if found is not None and name == stem and _differ_in_channels(found, value):
                how = f"{found.shape[1]} input channels folded to {value.shape[1]}"
                self.reshaped[name] = ", ".join(filter(None, [self.reshaped.get(name), how]))
                found = fold_stem(found.float(), value.shape[1])
            if found is not None and found.shape == value.shape:
                self._take(name, found, key)
            elif not name.endswith("num_batches_tracked"):
                self.missing.append(name)
                if found is not None:
                    self.wrong_shape[key] = f"other shape, {tuple(found.shape)} instead of {tuple(value.shape)}"
        self._fold_shortcut_biases()

    def _take(self, name: str, found: Tensor, key: str) -> None:
        self.new[name] = found
        self.used.add(key)

    def _fold_shortcut_biases(self) -> None:
        """A batch norm subtracts the bias of the convolution before it: running mean minus bias is the same network."""
        for name in [name for name in self.new if name.endswith("downsample.1.running_mean")]:
            bias_name = name.replace("1.running_mean", "0.bias")
            bias = self.tensors.get(f"{self.prefix}{bias_name}")
            if bias is not None and bias_name not in self.wanted:
                self._take(name, self.new[name] - bias, f"{self.prefix}{bias_name}")
                self.reshaped[name] = "bias of the convolution before it subtracted"

    def add_projection(self, projection: nn.Module) -> None:
        """The slice encoder's projection, which stands beside ``backbone.`` in our files."""
        above = (self.prefix or "").removesuffix("backbone.")
        for name, value in projection.state_dict().items():
            key = f"{above}projection.{name}"
            found = self.tensors.get(key)
            if found is None or found.shape != value.shape:
                self.missing.append(f"projection.{name}")
                continue
            self.targets[f"projection.{name}"] = value
            self._take(f"projection.{name}", found, key)

    def receipt(self, name: str) -> LoadReceipt:
        sizes = {key: value.numel() for key, value in self.wanted.items() if not key.endswith("num_batches_tracked")}
        covered = sum(size for key, size in sizes.items() if key in self.new)
        skipped = {key: "not part of it" for key in self.tensors if key not in self.used} | self.wrong_shape
        return LoadReceipt(
            source=name,
            source_format="unknown format" if self.prefix is None else origin_of(self.prefix, self.tensors),
            target=self.title,
            loaded=tuple(self.new),
            reshaped={key: how for key, how in self.reshaped.items() if key in self.new},
            missing=tuple(self.missing),
            skipped=skipped,
            coverage=covered / sum(sizes.values()) if sizes else 1.0,
            looks_like=look_of(self.inside),
        )

    def finish(self, name: str, min_coverage: float) -> LoadReceipt:
        """Take the weights over and announce it, or refuse without having changed anything."""
        receipt = self.receipt(name)
        # A small ResNet's names and shapes all occur in the deeper one of its kind: coverage alone would not notice.
        models = {resnet_of(self.inside), resnet_of(self.wanted)} - {""}
        if min_coverage > 0 and (receipt.coverage < min_coverage or len(models) > 1):
            what = f" It looks like {receipt.looks_like}." if receipt.looks_like else ""
            raise ValueError(
                f"{name} covers {receipt.coverage:.1%} of {self.title}; at least {min_coverage:.0%} of the same model "
                f"is needed.{what} Build the model that the file holds, or pass min_coverage=0 to take what fits."
                f"\n{receipt}"
            )
        broken = [key for key, value in self.new.items() if not value.isfinite().all()]
        if broken:
            raise ValueError(
                f"{name} holds NaN or infinite weights in {broken[:3]}: the training that wrote it broke down."
            )
        with torch.no_grad():
            for key, value in self.new.items():
                self.targets[key].copy_(value)  # a state dict's tensors share the module's memory
        receipt.announce(logger)
        return receipt


def _differ_in_channels(found: Tensor, wanted: Tensor) -> bool:
    ours, theirs = list(wanted.shape), list(found.shape)
    return len(ours) == len(theirs) and ours[1] != theirs[1] and ours[:1] + ours[2:] == theirs[:1] + theirs[2:]

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Pretrained encoders and fine-tuned models as files that other programs read."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from monai_cluster.apps.finetuned import is_finetuned, load_finetuned, save_finetuned
from monai_cluster.apps.output_folder import OutputFolder
from monai_cluster.networks import SliceEmbedder, SliceEncoder
from monai_cluster.weights import (
    export_bundle_model,
    export_onnx,
    export_torchscript,
    export_torchvision,
    load_pretrained,
    save_encoder,
)
from monai_cluster.weights.round_trip import frozen_copy, require_agreement

__all__ = ["export"]

SUFFIXES: dict[str, tuple[str, ...]] = {
    "safetensors": (".safetensors",),
    "torchscript": (".ts", ".pt"),
    "onnx": (".onnx",),
    "bundle": (".pt",),
    "torchvision": (".pth", ".pt"),
}
NAMES = {"torchscript": "model.ts", "onnx": "model.onnx", "bundle": "models/model.pt", "torchvision": "resnet.pth"}
LENGTHS = (64, 64, 16)  # of the example, where the description has none

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Source:
    """What is exported.

    Attributes:
        network: one batch in, one tensor out (a detector: boxes).
        description: of the source's JSON file.
        in_channels: of the images.
        lengths: H W or H W S of an example.
        name: of the safetensors file.
        write: the model in this package's own format.
        read: a network from that file, and the one to compare it with.
    """

    network: nn.Module
    description: dict[str, Any]
    in_channels: int
    lengths: list[int]
    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], tuple[nn.Module, nn.Module]]


class _EncoderAndAggregator(nn.Module):
    """All that an exported encoder holds, as one function of images: they are embedded, and as a volume's slices."""

    def __init__(self, encoder: SliceEncoder, aggregator: nn.Module | None) -> None:
        super().__init__()
        self.encoder, self.aggregator = encoder, aggregator

    def forward(self, image: Tensor) -> list[Tensor]:
        embedding = self.encoder.embed(image)
        return [embedding] if self.aggregator is None else [embedding, *self.aggregator(embedding[None])]


def export(
    weights: str,
    out: str,
    format: Literal["safetensors", "torchscript", "onnx", "bundle", "torchvision"],
    size: Sequence[int] | None = None,
    dynamic: bool = True,
    in_channels: int = 3,
) -> Path:
    """Write a pretrained encoder or a fine-tuned model as a file for others, read back and compared within 1e-4.

    A pretrained encoder becomes a network from images to slice embeddings. Preprocessing is not part of the network;
    the description of it travels inside TorchScript and ONNX files, and as JSON beside safetensors and bundle models.

    Args:
        weights: folder of a pretraining or fine-tuning run, or an exported file.
        out: the file, or a folder for it; in a folder a bundle's model becomes models/model.pt.
        format: safetensors (from which this package builds the model again), torchscript, onnx (needs the extra
            monai-cluster[onnx]), bundle (state dict for a MONAI bundle), torchvision (the slice encoder's ResNet as a
            state dict).
        size: height and width, and slices for a volume model, of the example; by default as in training.
        dynamic: onnx files take any height, width and number of slices; otherwise only any batch size.
        in_channels: for torchvision, of the first convolution; an encoder of grey images is spread over as many.

    Returns:
        The file.

    Raises:
        FileExistsError: if the file exists.
        FileNotFoundError: for missing weights.
        ImportError: for onnx without its extra.
        TypeError: if the format cannot hold the model, such as a detector as TorchScript.
        ValueError: for an unknown format, a file name of another format, or a size that does not suit the model.
        RuntimeError: if what was written does not compute the same; nothing is kept then.
    """
    if format not in SUFFIXES:
        raise ValueError(f"format must be one of {', '.join(SUFFIXES)}, got {format!r}.")
    source = _finetuned(weights) if is_finetuned(weights) else _pretrained(weights)
    target = _target(Path(out), format, source.name)
    example = _example(source, size)
    described = {key: value for key, value in source.description.items() if key != "sha256"}
    described["source_sha256"] = source.description["sha256"]
    if format == "torchscript":
        export_torchscript(source.network, example, target, described)
    elif format == "onnx":
        export_onnx(source.network, example, target, dynamic, described)
    elif format == "torchvision":
        export_torchvision(source.network, example, target, in_channels)
    elif format == "bundle" and isinstance(source.network, SliceEmbedder):
        export_bundle_model(source.network, example, target)
    else:
        _write_described(source, example, target)
    logger.info("%s written to %s", format, target)
    return target


def _pretrained(weights: str) -> _Source:
    run = OutputFolder(weights).encoder
    encoder, aggregator, description = load_pretrained(run if run.is_file() else weights)
    preprocessing = description.get("metadata", {}).get("preprocessing") or {}
    side = preprocessing.get("image", {}).get("size") or LENGTHS[0]

    def read(file: Path) -> tuple[nn.Module, nn.Module]:
        return _EncoderAndAggregator(*load_pretrained(file)[:2]), _EncoderAndAggregator(encoder, aggregator)

    return _Source(
        network=SliceEmbedder(encoder),
        description=description,
        in_channels=encoder.in_channels,
        lengths=_lengths(side, 2),
        name="encoder.safetensors",
        write=lambda file: save_encoder(file, encoder, aggregator, description.get("metadata")),
        read=read,
    )


def _finetuned(weights: str) -> _Source:
    model = load_finetuned(weights)
    described, preprocessing = model.description["network"], model.preprocessing
    lengths = model.prediction.get("patch_size") or described.get("window") or preprocessing.get("image_size")
    if isinstance(lengths, int) and preprocessing.get("num_slices"):
        lengths = [lengths, lengths, preprocessing["num_slices"]]
    encoder = described.get("slice_encoder") or {}

    def write(file: Path) -> Path:
        parts = (model.task, model.class_names, model.preprocessing, model.prediction, model.description["recipe"])
        return save_finetuned(file, model.network, *parts)

    return _Source(
        network=model.network,
        description=model.description,
        in_channels=int(encoder.get("in_channels") or described.get("in_channels") or 1),
        lengths=_lengths(lengths or LENGTHS[0], int(preprocessing["spatial_dims"])),
        name="model.safetensors",
        write=write,
        read=lambda file: (load_finetuned(file).network, model.network),
    )


def _lengths(known: Any, dims: int) -> list[int]:
    """One length per axis from a side, or from as many lengths as are known."""
    given = [known, known] if isinstance(known, int) else list(known)
    return [*given, *LENGTHS[len(given) :]][:dims]


def _example(source: _Source, size: Sequence[int] | None) -> Tensor:
    """Two images or volumes of noise in 0..1, as preprocessing makes them."""
    lengths = source.lengths if size is None else list(size)
    if len(lengths) != len(source.lengths) or min(lengths) < 1:
        axes = "height and width" if len(source.lengths) == 2 else "height, width and slices"
        raise ValueError(f"size must be {axes} for this model, got {list(lengths)}.")
    return torch.rand(2, source.in_channels, *lengths, generator=torch.Generator().manual_seed(0))


def _target(out: Path, format: str, name: str) -> Path:
    """The file; refuses one that exists, or whose name says that it holds something else."""
    if out.suffix in SUFFIXES[format]:
        target = out
    elif any(out.suffix in suffixes for suffixes in SUFFIXES.values()):
        raise ValueError(f"{out.name} is no name for {format}: end it in {' or '.join(SUFFIXES[format])}.")
    else:
        target = out / NAMES.get(format, name)
    for file in (target, target.with_suffix(".json")) if format in ("safetensors", "bundle") else (target,):
        if file.exists():
            raise FileExistsError(f"{file} exists: choose another place, or delete it yourself.")
    return target


def _write_described(source: _Source, example: Tensor, target: Path) -> None:
    """Weights and JSON file, in place only once they are checked."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".export") as work:
        written = source.write(Path(work) / target.name)
        found, expected = source.read(written)
        require_agreement(frozen_copy(expected), frozen_copy(found), [example], target.suffix.removeprefix("."))
        for file in (written.with_suffix(".json"), written):
            file.replace(target.parent / file.name)

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Embed the images, slices and volumes of a datalist with a pretrained encoder."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import DataLoader
from torch import Tensor, nn
from tqdm import tqdm

from monai_cluster.apps.embeddings import Embeddings
from monai_cluster.apps.output_folder import OutputFolder
from monai_cluster.data import (
    ClusterImageDataset,
    Datalist,
    VolumeDataset,
    image_preprocessing,
    load_datalist,
    volume_preprocessing,
)
from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.networks import SliceEncoder
from monai_cluster.transforms import SliceVolume
from monai_cluster.weights import build_untrained, load_pretrained

__all__ = ["embed", "embed_datalist", "embed_rows", "weights_file"]

HIDDEN_COLUMNS = {Keys.IMAGE, Keys.SAMPLE_INDEX, Keys.KIND}


def embed(
    weights: str,
    data: str,
    out: str,
    split: str = "training",
    device: str | None = None,
    num_workers: int = 0,
    batch_size: int = 64,
) -> Path:
    """Write embeddings of every image, slice and volume of a datalist to one ``.npz`` file with ids.

    Args:
        weights: run folder or exported ``encoder.safetensors``.
        data: folder of scans, datalist JSON or CSV.
        out: the ``.npz`` file; an existing one is refused.
        split: which list of the datalist.
        device: such as ``cpu`` or ``cuda``; CUDA by default where there is one.
        num_workers: reading processes.
        batch_size: images, or slices of one volume, encoded at once.

    Returns:
        The file, for :func:`load_embeddings`.

    Raises:
        FileExistsError: if ``out`` exists.
        FileNotFoundError: for missing weights or data.
    """
    if Path(out).exists():
        raise FileExistsError(f"{out} exists: choose another file, or delete it yourself.")
    rows = load_datalist(data, split=split)
    embeddings = embed_datalist(weights, rows, device, num_workers, batch_size)
    path = embeddings.save(out)
    logging.getLogger(__name__).info(
        "%d images, %d slices of %d volumes embedded in %s",
        len(embeddings.image_sample_index),
        len(embeddings.slice_sample_index),
        len(embeddings.volume_sample_index),
        path,
    )
    return path


def weights_file(weights: str | Path) -> Path:
    """The exported encoder of a run folder, or the file itself."""
    return OutputFolder(weights).encoder if Path(weights).is_dir() else Path(weights)


def embed_datalist(
    weights: str | Path,
    rows: Datalist,
    device: str | None = None,
    num_workers: int = 0,
    batch_size: int = 64,
    untrained_seed: int | None = None,
) -> Embeddings:
    """Embed loaded rows with an exported encoder, or with the same architecture untrained.

    Args:
        weights: run folder or exported file; its side file says how the data were prepared.
        rows: images and volumes.
        device: such as ``cpu``; CUDA by default where there is one.
        num_workers: reading processes.
        batch_size: images or slices encoded at once.
        untrained_seed: draw fresh weights with this seed instead, as the baseline of a probe.

    Raises:
        FileNotFoundError: for missing weights.
        ValueError: if the side file does not say how images were prepared.
    """
    file = weights_file(weights)
    built = load_pretrained(file) if untrained_seed is None else build_untrained(file, untrained_seed)
    encoder, aggregator, description = built
    preprocessing = description["metadata"].get("preprocessing")
    if preprocessing is None:
        raise ValueError(f"{file.name} does not say how its images were prepared: embed with embed_rows and say it.")
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    return embed_rows(encoder, aggregator, rows, preprocessing, place, num_workers, batch_size)


@torch.inference_mode()
def embed_rows(
    encoder: SliceEncoder,
    aggregator: nn.Module | None,
    rows: Datalist,
    preprocessing: Mapping[str, Any],
    device: torch.device,
    num_workers: int = 0,
    batch_size: int = 64,
) -> Embeddings:
    """Embed rows with given modules in evaluation mode; their training mode is restored.

    Args:
        encoder: slice encoder.
        aggregator: slice aggregator; None uses the normalised mean of the slice embeddings.
        rows: images and volumes.
        preprocessing: ``{"volume": {...}, "image": {...}, "num_slices": S}``, arguments of the two preprocessings,
            images
            padded to a square; a volume is embedded from at most S evenly spaced slices.
        device: where to compute.
        num_workers: reading processes.
        batch_size: images or slices encoded at once.
    """
    modules = [module for module in (encoder, aggregator) if module is not None]
    modes = [module.training for module in modules]
    for module in modules:
        module.eval().to(device)
    images = ClusterImageDataset(rows.images, image_preprocessing(**preprocessing["image"]))
    volumes = VolumeDataset(rows.volumes, volume_preprocessing(**preprocessing["volume"]))
    arrays = _embed_images(encoder, images, device, num_workers, batch_size)
    arrays |= _embed_volumes(encoder, aggregator, volumes, preprocessing["num_slices"], device, num_workers, batch_size)
    for module, mode in zip(modules, modes, strict=True):
        module.train(mode)
    columns = {"image": _columns(rows.images), "volume": _columns(rows.volumes)}
    return Embeddings(**{name: np.asarray(value) for name, value in arrays.items()}, columns=columns)


def _read(dataset: Any, name: str, num_workers: int) -> Iterator[Any]:
    """Prepared samples one by one, with progress and ETA."""
    if not len(dataset):
        return
    loader = DataLoader(dataset, batch_size=None, num_workers=num_workers, collate_fn=_unchanged)
    yield from tqdm(loader, desc=f"embedding {name}", unit=name[:-1], dynamic_ncols=True, disable=None)


def _unchanged(sample: Any) -> Any:
    return sample


def _encode(encoder: SliceEncoder, slices: Tensor, device: torch.device, batch_size: int) -> tuple[Tensor, Tensor]:
    parts = [encoder(part.to(device)) for part in torch.split(slices, batch_size)]
    return torch.cat([part.features for part in parts]).float(), torch.cat([part.embedding for part in parts]).float()


def _embed_images(
    encoder: SliceEncoder, dataset: Any, device: torch.device, num_workers: int, batch_size: int
) -> dict[str, Any]:
    features, embedding, index = [torch.zeros(0, encoder.feature_dim)], [torch.zeros(0, encoder.embedding_dim)], []
    waiting: list[Tensor] = []

    def flush() -> None:
        if waiting:
            found = _encode(encoder, torch.stack(waiting), device, batch_size)
            features.append(found[0].cpu())
            embedding.append(found[1].cpu())
            waiting.clear()

    for sample in _read(dataset, "images", num_workers):
        waiting.append(torch.as_tensor(sample[Keys.IMAGE]).as_subclass(Tensor))
        index.append(int(sample[Keys.SAMPLE_INDEX]))
        if len(waiting) == batch_size:
            flush()
    flush()
    return {
        "image_features": torch.cat(features),
        "image_embedding": torch.cat(embedding),
        "image_sample_index": np.array(index, dtype=np.int64),
    }


def _embed_volumes(
    encoder: SliceEncoder,
    aggregator: nn.Module | None,
    dataset: Any,
    num_slices: int,
    device: torch.device,
    num_workers: int,
    batch_size: int,
) -> dict[str, Any]:
    dim = encoder.embedding_dim
    found: dict[str, list[Tensor]] = {
        "volume_embedding": [torch.zeros(0, dim)],
        "volume_features": [torch.zeros(0, encoder.feature_dim)],
        "slice_embedding": [torch.zeros(0, dim)],
        "slice_index": [torch.zeros(0, dtype=torch.int64)],
        "slice_position_mm": [torch.zeros(0)],
    }
    owner: list[int] = []
    index: list[int] = []
    for sample in _read(dataset, "volumes", num_workers):
        slices, slice_index, position = thin(sample, num_slices)
        features, embedding = _encode(encoder, slices, device, batch_size)
        if aggregator is None:
            volume = nn.functional.normalize(embedding.mean(0, keepdim=True), dim=-1)
        else:
            volume = aggregator(embedding[None], None, position[None].to(device))[1]
        index.append(int(sample[Keys.SAMPLE_INDEX]))
        owner += [index[-1]] * len(slices)
        for name, value in (
            ("volume_embedding", volume),
            ("volume_features", features.mean(0, keepdim=True)),
            ("slice_embedding", embedding),
            ("slice_index", slice_index),
            ("slice_position_mm", position),
        ):
            found[name].append(value.cpu())
    return {name: torch.cat(values) for name, values in found.items()} | {
        "volume_sample_index": np.array(index, dtype=np.int64),
        "slice_sample_index": np.array(owner, dtype=np.int64),
    }


def thin(sample: Mapping[str, Any], num_slices: int) -> tuple[Tensor, Tensor, Tensor]:
    """At most ``num_slices`` slices of a prepared volume: the middles of equal strata, so every call gives the same.

    Returns:
        slices ``S C H W``, their index in the prepared volume ``S``, their position in mm ``S``.
    """
    volume = sample[Keys.IMAGE]
    every = SliceVolume(-1)(volume)
    count = min(num_slices, volume.shape[-1])
    chosen = ((torch.arange(count) + 0.5) / count * volume.shape[-1]).long()
    return (
        every.as_tensor()[..., chosen].movedim(-1, 0).contiguous(),
        torch.as_tensor(every.meta[Keys.SLICE_INDEX])[chosen],
        torch.as_tensor(every.meta[Keys.SLICE_POSITION]).float()[chosen],
    )


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Scalar columns of the datalist as text arrays; a value that a row lacks is empty."""
    names = sorted({name for row in rows for name in row} - HIDDEN_COLUMNS)
    table = {name: [row.get(name) for row in rows] for name in names}
    return {
        name: np.array(["" if value is None else str(value) for value in values], dtype=np.str_)
        for name, values in table.items()
        if all(value is None or isinstance(value, (str, int, float, bool)) for value in values)
    }

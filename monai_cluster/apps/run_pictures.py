# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The pictures of a run: curves, nearest neighbours, a map of the embeddings, attention over slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from monai_cluster.apps.embedding import embed_rows, thin
from monai_cluster.apps.output_folder import OutputFolder
from monai_cluster.data import ClusterImageDataset, Datalist, VolumeDataset, image_preprocessing, volume_preprocessing
from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.networks import SliceEncoder

__all__ = ["draw_run", "source_of"]

MOST_IMAGES, MOST_VOLUMES, SLICES_SHOWN = 150, 60, 3


def source_of(row: Mapping[str, Any]) -> str:
    """Where a row comes from, for colours: its ``dataset`` or ``label`` column, else the folder of its file."""
    for column in ("dataset", Keys.LABEL):
        if isinstance(row.get(column), (str, int)):
            return str(row[column])
    image = row[Keys.IMAGE]
    return Path(image if isinstance(image, (str, Path)) else image[0]).parent.name


def draw_run(
    folder: OutputFolder,
    encoder: SliceEncoder,
    aggregator: nn.Module | None,
    datalist: Datalist,
    preprocessing: Mapping[str, Any],
) -> Iterator[Path]:
    """Draw all pictures of a finished run from an even sample of its data, one after the other.

    Args:
        folder: the run's.
        encoder: the trained slice encoder.
        aggregator: the trained slice aggregator; attention is drawn for those that have any.
        datalist: what the run learned from.
        preprocessing: how images and volumes were prepared.

    Yields:
        Each picture's path once it is written.
    """
    # Matplotlib takes a second to import; only the end of a run needs it.
    from monai_cluster.apps.pictures import draw_curves, draw_embedding_map, draw_neighbours

    yield draw_curves(folder.metrics, folder.pictures / "curves.png")
    sample = Datalist(_even(datalist.images, MOST_IMAGES), _even(datalist.volumes, MOST_VOLUMES), [])
    device = next(encoder.parameters()).device
    found = embed_rows(encoder, aggregator, sample, preprocessing, device)
    images = ClusterImageDataset(sample.images, image_preprocessing(**preprocessing["image"]))
    volumes = VolumeDataset(sample.volumes, volume_preprocessing(**preprocessing["volume"]))

    pictures = [np.asarray(images[place][Keys.IMAGE][0]) for place in range(len(images))]
    embeddings, sources = [*found.image_embedding], [source_of(row) for row in sample.images]
    for number, row in enumerate(sample.volumes):
        slices = thin(volumes[number], preprocessing["num_slices"])[0]
        places = np.flatnonzero(found.slice_sample_index == row[Keys.SAMPLE_INDEX])
        for place in np.unique(np.linspace(0, len(slices) - 1, SLICES_SHOWN + 2).round().astype(int)[1:-1]):
            pictures.append(np.asarray(slices[place][0]))
            embeddings.append(found.slice_embedding[places[place]])
            sources.append(source_of(row))
    # Raw embeddings of one encoder share a large mean; without it neighbours are told apart by what differs.
    table = np.stack(embeddings)
    table = table - table.mean(0)
    if len(table) > 1:
        yield draw_neighbours(pictures, table, sources, folder.pictures / "neighbours.png")
        yield draw_embedding_map(table, sources, folder.pictures / "map_images_and_slices.png")
    if len(found.volume_embedding) > 1:
        names = [source_of(row) for row in sample.volumes]
        yield draw_embedding_map(found.volume_embedding, names, folder.pictures / "map_volumes.png")
    if hasattr(aggregator, "attention_over_slices") and len(volumes):
        yield _draw_attention(folder, encoder, aggregator, volumes, preprocessing["num_slices"], device)


def _even(rows: Sequence[Any], most: int) -> list[Any]:
    """At most so many rows, evenly from the whole list."""
    return (
        [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, min(most, len(rows))).astype(int))]
        if rows
        else []
    )


@torch.inference_mode()
def _draw_attention(
    folder: OutputFolder,
    encoder: SliceEncoder,
    aggregator: Any,
    volumes: VolumeDataset,
    num_slices: int,
    device: torch.device,
) -> Path:
    """Attention of the last layer in the volume with most slices."""
    from monai_cluster.apps.pictures import draw_attention

    items = [thin(volumes[place], num_slices) for place in _even(range(len(volumes)), 12)]
    slices, _, position = max(items, key=lambda item: len(item[0]))
    modes = encoder.training, aggregator.training
    encoder.eval()
    aggregator.eval()
    embedding = encoder(slices.to(device)).embedding[None]
    attention = aggregator.attention_over_slices(embedding, None, position[None].to(device))[0].float().cpu().numpy()
    encoder.train(modes[0])
    aggregator.train(modes[1])
    drawn: Path = draw_attention(attention, position.numpy(), slices[:, 0].numpy(), folder.pictures / "attention.png")
    return drawn

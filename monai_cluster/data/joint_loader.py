# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The loader of joint batches: images and volumes side by side, each of its own batch size, as plain tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.data import DataLoader, MetaTensor
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.keys import ClusterKeys

from .batch_sampler import STREAMS, JointBatchSampler
from .joint_dataset import JointDataset

__all__ = ["JointLoader", "collate_joint"]

Sample = dict[str, Any]
PADDING = {ClusterKeys.SLICE_INDEX: -1, ClusterKeys.SLICE_POSITION: 0, ClusterKeys.PADDED: True}
DTYPES = {
    ClusterKeys.SLICE_INDEX: torch.int64,
    ClusterKeys.SLICE_POSITION: torch.float32,
    ClusterKeys.PADDED: torch.bool,
}


def collate_joint(samples: Sequence[Sample]) -> dict[str, dict[str, Any]]:
    """Put samples of both streams into one batch.

    Returns:
        ``{"images": {"views": V tensors B C H W, "sample_index": B}, "volumes": {"views": V tensors B C H W S,
        "padded", "slice_position", "slice_index": V tensors B S, "sample_index": "
        "B}}``; a stream without samples is absent. Volumes
        are padded at the end to the most slices of the view in the batch, and marked there.

    Raises:
        ValueError: when views of one stream differ in number, channels or size.
    """
    batch: dict[str, dict[str, Any]] = {}
    for stream in STREAMS:
        chosen = [sample for sample in samples if sample["stream"] == stream]
        if chosen:
            batch[stream] = _collate_stream(chosen, stream)
    return batch


def _collate_stream(samples: Sequence[Sample], stream: str) -> dict[str, Any]:
    counts = {len(sample[ClusterKeys.VIEWS]) for sample in samples}
    if len(counts) > 1:
        raise ValueError(f"all samples of a batch must have as many views, got {sorted(counts)} in {stream}")
    views = [[_plain(sample[ClusterKeys.VIEWS][v]) for sample in samples] for v in range(counts.pop())]
    result: dict[str, Any] = {}
    if stream == ClusterKeys.VOLUMES:
        longest = [max(view.shape[-1] for view in same) for same in views]
        for name, value in PADDING.items():
            lists = [[_per_slice(sample, name, v) for sample in samples] for v in range(len(views))]
            result[name] = [
                torch.stack([_pad(one, most, value) for one in same]) for same, most in zip(lists, longest, strict=True)
            ]
        views = [[_pad(view, most, 0) for view in same] for same, most in zip(views, longest, strict=True)]
    result[ClusterKeys.VIEWS] = [_stack(same, stream, samples) for same in views]
    indices = [int(sample[ClusterKeys.SAMPLE_INDEX]) for sample in samples]
    result[ClusterKeys.SAMPLE_INDEX] = torch.tensor(indices, dtype=torch.int64)
    return result


def _plain(value: Any) -> Tensor:
    return value.as_tensor() if isinstance(value, MetaTensor) else torch.as_tensor(value)


def _per_slice(sample: Sample, name: str, view: int) -> Tensor:
    if name in sample:
        return _plain(sample[name][view]).to(DTYPES[name])
    raise ValueError(
        f"volumes in a batch need {name!r} for each view, got none; put SliceVolumed before or into the "
        "views (volume_views)"
    )


def _pad(values: Tensor, length: int, value: float) -> Tensor:
    missing = length - values.shape[-1]
    return F.pad(values, (0, missing), value=value) if missing else values


def _stack(views: list[Tensor], stream: str, samples: Sequence[Sample]) -> Tensor:
    shapes = {tuple(view.shape) for view in views}
    if len(shapes) > 1:
        indices = [int(sample[ClusterKeys.SAMPLE_INDEX]) for sample in samples]
        raise ValueError(
            f"views of one batch must have one shape, got {sorted(shapes)} in {stream} (sample_index "
            f"{indices}); give all files "
            "the same number of channels (channel=0 in the preprocessing) and all views a size"
        )
    return torch.stack(views)


class JointLoader(DataLoader):
    """MONAI's ``DataLoader`` over a :class:`JointDataset`: any number of workers gives the same batches for a seed.

    Args:
        dataset: the joint dataset.
        image_batch_size: images per batch over all ranks; 0 leaves the image stream out.
        volume_batch_size: volumes per batch over all ranks; 0 leaves the volume stream out.
        seed: of the order of samples; augmentation has the dataset's own.
        epoch_length: batches per epoch, see :class:`JointBatchSampler`.
        num_workers: worker processes.
        pin_memory: page-locked batches, for CUDA.
        persistent_workers: keep the workers between epochs; epochs still differ, since each address carries its epoch.
        prefetch_factor: batches fetched ahead per worker; None takes PyTorch's 2.

    Raises:
        ValueError: as for :class:`JointBatchSampler`.
    """

    def __init__(
        self,
        dataset: JointDataset,
        image_batch_size: int = 1,
        volume_batch_size: int = 1,
        seed: int = 0,
        epoch_length: str | int = "longest",
        num_workers: int = 0,
        pin_memory: bool = False,
        persistent_workers: bool = False,
        prefetch_factor: int | None = None,
    ) -> None:
        self.joint_sampler = JointBatchSampler(
            dataset.num_images,
            dataset.num_volumes,
            dataset.groups,
            image_batch_size,
            volume_batch_size,
            seed,
            epoch_length,
        )
        # an own generator: MONAI's loader would re-seed torch's global one
        generator = torch.Generator().manual_seed(seed)
        super().__init__(
            dataset,
            num_workers=num_workers,
            batch_sampler=self.joint_sampler,
            collate_fn=collate_joint,
            generator=generator,
            pin_memory=pin_memory,
            persistent_workers=persistent_workers and num_workers > 0,
            prefetch_factor=prefetch_factor if num_workers else None,
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.joint_sampler.set_epoch(epoch)

    def set_streams(self, streams: Sequence[str]) -> None:
        """Choose which streams the next iteration has, ``("images",)`` for example; ``len`` stays."""
        self.joint_sampler.set_streams(streams)

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Labelled samples, drawn evenly and augmented as a function of (seed, draw) alone, in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from monai.data import DataLoader, MetaTensor
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.transforms import SharedRandomState

from .datalist import Datalist
from .datasets import _RowDataset
from .joint_dataset import derive_seed
from .slice_store import SliceStore

__all__ = ["AugmentedDataset", "DrawSampler", "FinetuneLoader", "LabelledDataset", "SampleLoader", "collate_labelled"]

Row = dict[str, Any]
Draw = tuple[int, int]


class LabelledDataset(_RowDataset):
    """Preprocessed labelled images or volumes.

    Args:
        rows: rows with ``sample_index``, or a :class:`Datalist` of one kind.
        preprocessing: deterministic, see :func:`labelled_preprocessing`.
        cache_rate: share of the samples kept in memory.
        cache_workers: threads that fill the cache.
        progress: show a progress bar meanwhile.
        store: keeps the samples on disk, as for :class:`VolumeDataset`.

    Raises:
        ValueError: for a datalist of images and volumes, and as for :class:`VolumeDataset`.
        RuntimeError: on access, when a sample cannot be loaded; names row, file and cause.
    """

    kind = "labelled sample"

    def __init__(
        self,
        rows: Sequence[Row] | Datalist,
        preprocessing: Callable[[Any], Any],
        cache_rate: float = 0.0,
        cache_workers: int = 1,
        progress: bool = False,
        store: SliceStore | str | Path | None = None,
    ) -> None:
        if isinstance(rows, Datalist):
            if rows.images and rows.volumes:
                raise ValueError(
                    f"fine-tuning takes images or volumes, got {len(rows.images)} and {len(rows.volumes)}: list them "
                    "apart."
                )
            rows = rows.rows
        super().__init__(rows, preprocessing, cache_rate, cache_workers, progress, store)


class AugmentedDataset(Dataset[Row]):
    """Item (draw, row) is the row's sample augmented with the generator of that draw: no worker changes it.

    Args:
        samples: the preprocessed samples.
        augmentation: random transform of one sample; None leaves it.
        seed: base of all augmentation.
    """

    def __init__(
        self, samples: LabelledDataset, augmentation: Callable[[Any], Any] | None = None, seed: int = 0
    ) -> None:
        self.samples, self.augmentation, self.seed = samples, augmentation, seed
        self.random_state = SharedRandomState(augmentation)

    @property
    def data(self) -> list[Row]:
        """The rows, under the name that MONAI's tools look for."""
        return self.samples.rows

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, address: Draw) -> Row:
        """Load and augment one sample: (number of the draw since the run's start, row)."""
        draw, row = address
        sample = self.samples[row]
        if self.augmentation is None:
            return sample
        self.random_state.seed(derive_seed(self.seed, draw))
        try:
            augmented: Any = self.augmentation(sample)
        except Exception as error:
            raise RuntimeError(
                f"sample_index {sample[Keys.SAMPLE_INDEX]} cannot be augmented: {error.__cause__ or error}"
            ) from error
        result: Row = augmented[0] if isinstance(augmented, list) else augmented
        return result


class DrawSampler(Sampler[Draw]):
    """Rows in one endless sequence of shuffled rounds, cut into epochs of equally many draws.

    Every row is drawn equally often (to within one), however few there are and wherever epochs end; a resumed epoch
    draws what it would have drawn. Ranks take turns.

    Args:
        num_rows: rows to draw from.
        num_draws: draws of all ranks together in an epoch.
        seed: of the order.

    Raises:
        ValueError: for numbers below 1.
    """

    def __init__(self, num_rows: int, num_draws: int, seed: int = 0) -> None:
        if num_rows < 1 or num_draws < 1:
            raise ValueError(f"num_rows and num_draws must be at least 1, got {num_rows} and {num_draws}.")
        self.num_rows, self.num_draws, self.seed, self.epoch = num_rows, num_draws, seed, 1

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 1."""
        self.epoch = epoch

    def _shard(self) -> tuple[int, int]:
        ready = dist.is_available() and dist.is_initialized()
        return (dist.get_rank(), dist.get_world_size()) if ready else (0, 1)

    def __len__(self) -> int:
        return -(-self.num_draws // self._shard()[1])

    def __iter__(self) -> Iterator[Draw]:
        rank, world = self._shard()
        start = (self.epoch - 1) * self.num_draws
        number, order = -1, np.empty(0, int)
        for place in range(len(self)):
            draw = start + place * world + rank
            if draw // self.num_rows != number:
                number = draw // self.num_rows
                order = np.random.default_rng((self.seed, number)).permutation(self.num_rows)
            yield draw, int(order[draw % self.num_rows])


def collate_labelled(samples: Sequence[Row], stack: bool = True) -> dict[str, Any]:
    """Images and label maps stacked, class labels as a vector, boxes and all else as lists.

    Args:
        samples: with the same entries.
        stack: off leaves images as a list too, for detectors, which pad by themselves.

    Raises:
        ValueError: if images differ in size: only patches and resized images make batches.
    """
    batch: dict[str, Any] = {}
    listed = (Keys.BOX, Keys.BOX_LABEL, *([] if stack else [Keys.IMAGE]))
    for key in samples[0]:
        values = [sample[key] for sample in samples]
        if key in listed or not isinstance(values[0], (Tensor, int, float)):
            batch[key] = [value.as_tensor() if isinstance(value, MetaTensor) else value for value in values]
            continue
        if not isinstance(values[0], Tensor):
            batch[key] = torch.tensor(values)
            continue
        shapes = {tuple(value.shape) for value in values}
        if len(shapes) > 1:
            if key == Keys.IMAGE:
                raise ValueError(
                    f"images of one batch must have one size, got {sorted(shapes)}: set a patch size or image_size, or "
                    "batch_size 1."
                )
            batch[key] = values
            continue
        batch[key] = torch.stack([value.as_tensor() if isinstance(value, MetaTensor) else value for value in values])
    return batch


class FinetuneLoader(DataLoader):
    """Batches of augmented samples, so many in each epoch whatever the number of rows.

    Args:
        dataset: the augmented samples.
        batch_size: samples of all ranks' batches divided by the ranks.
        num_batches: batches in an epoch.
        seed: of the order.
        num_workers: reading processes; the result does not depend on them.
        stack: off leaves images as a list, see :func:`collate_labelled`.

    Raises:
        ValueError: for numbers below 1.
    """

    def __init__(
        self,
        dataset: AugmentedDataset,
        batch_size: int,
        num_batches: int,
        seed: int = 0,
        num_workers: int = 0,
        stack: bool = True,
    ) -> None:
        if batch_size < 1 or num_batches < 1:
            raise ValueError(f"batch_size and num_batches must be at least 1, got {batch_size} and {num_batches}.")
        world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=DrawSampler(len(dataset), batch_size * num_batches * world, seed),
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            collate_fn=partial(collate_labelled, stack=stack),
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, counted from 1."""
        self.sampler.set_epoch(epoch)  # type: ignore[attr-defined]


class SampleLoader(DataLoader):
    """One sample after the other, each of its own size, split over the ranks without repeats.

    Args:
        dataset: preprocessed samples.
        num_workers: reading processes.

    Raises:
        ValueError: if there are fewer samples than ranks.
    """

    def __init__(self, dataset: Dataset[Row], num_workers: int = 0) -> None:
        ready = dist.is_available() and dist.is_initialized()
        rank, world = (dist.get_rank(), dist.get_world_size()) if ready else (0, 1)
        if len(dataset) < world:  # type: ignore[arg-type]
            raise ValueError(
                f"every rank needs a sample, got {len(dataset)} samples for {world} ranks: "  # type: ignore[arg-type]
                "start fewer processes, or name a larger split."
            )
        super().__init__(
            dataset,
            batch_size=1,
            sampler=range(rank, len(dataset), world),  # type: ignore[arg-type]
            num_workers=num_workers,
            collate_fn=list,
        )

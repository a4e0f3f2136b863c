# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Batches of two streams with independent sizes, never two slices of one volume together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch.distributed as dist
from torch.utils.data import Sampler

from monai_cluster.keys import ClusterKeys

from .joint_dataset import Address, derive_seed

__all__ = ["JointBatchSampler", "grouped_batches"]

STREAMS = (ClusterKeys.IMAGES, ClusterKeys.VOLUMES)


def grouped_batches(groups: Sequence[int], batch_size: int, seed: int) -> np.ndarray:
    """Deal all items into random batches in which no group occurs twice.

    Every item is dealt once. As few batches as possible are made; places that are then left are filled with further
    items at random. Groups are dealt to the batches with most room, which always succeeds (Gale and Ryser, 1957).

    Args:
        groups: group of each item, N numbers.
        batch_size: B, at most the number of groups.
        seed: of the shuffling.

    Returns:
        int64 ``M B``, indices of items, M the larger of ceil(N / B) and the largest group.

    Raises:
        ValueError: when there are fewer groups than ``batch_size``.
    """
    random = np.random.default_rng(seed)
    _, group_of, sizes = np.unique(np.asarray(groups), return_inverse=True, return_counts=True)
    _need_groups(len(sizes), batch_size)
    count = max(-(-len(group_of) // batch_size), int(sizes.max()))
    batches: list[list[int]] = [[] for _ in range(count)]
    room = np.full(count, batch_size)
    members = np.argsort(group_of, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)])
    single: list[int] = []
    for group in random.permutation(len(sizes)):
        items = members[starts[group] : starts[group + 1]]
        if len(items) == 1:
            single.append(int(items[0]))
            continue
        fullest_last = np.lexsort((random.random(count), -room))[: len(items)]
        for batch, item in zip(fullest_last, random.permutation(items), strict=True):
            batches[batch].append(int(item))
        room[fullest_last] -= 1
    places = random.permutation(np.repeat(np.arange(count), room))
    for batch, item in zip(places, single, strict=False):
        batches[batch].append(item)
    for batch in places[len(single) :]:
        present = {int(group_of[item]) for item in batches[batch]}
        batches[batch].append(_other(group_of, present, random))
    return np.array([random.permutation(batch) for batch in batches], dtype=np.int64)


def _other(group_of: np.ndarray, present: set[int], random: np.random.Generator) -> int:
    """A random item whose group is not present yet."""
    while True:
        for item in random.integers(len(group_of), size=64):
            if int(group_of[item]) not in present:
                return int(item)


def _need_groups(found: int, batch_size: int, stream: str = "the stream") -> None:
    if found < batch_size:
        raise ValueError(
            f"a batch takes at most one slice of each volume, so {stream} needs at least {batch_size} "
            "independent samples "
            f"for a batch of {batch_size}, got {found}; lower the batch size or add data"
        )


class JointBatchSampler(Sampler[list[Address]]):
    """Addresses (stream, epoch, index) of joint batches, a function of seed and epoch alone.

    The driving stream is seen once per epoch, in a fresh order (its last batch is filled up with further samples); a
    shorter stream is cycled in fresh orders, a longer one goes on where the last epoch stopped. With
    ``torch.distributed`` the batch sizes are those of all ranks together: rank r takes the r-th share of each batch,
    so that any number of ranks sees the same batches as one process.

    Args:
        num_images: length of the image stream.
        num_volumes: length of the volume stream.
        groups: group of each item of the image stream (slices of one volume); None means all independent.
        image_batch_size: images per batch over all ranks.
        volume_batch_size: volumes per batch over all ranks.
        seed: base of all orders.
        epoch_length: batches per epoch: a number, or those of the ``"longest"`` or ``"shortest"`` stream, of
            ``"images"`` or of ``"volumes"``.

    Raises:
        ValueError: for empty streams, fewer independent samples than a batch takes, an unknown epoch length or
            stream, or, when iterated, a batch size that the ranks cannot share.
    """

    def __init__(
        self,
        num_images: int,
        num_volumes: int,
        groups: Sequence[int] | None = None,
        image_batch_size: int = 1,
        volume_batch_size: int = 1,
        seed: int = 0,
        epoch_length: str | int = "longest",
    ) -> None:
        image_groups = list(range(num_images)) if groups is None else list(groups)
        if len(image_groups) != num_images:
            raise ValueError(f"groups must have one entry per image, got {len(image_groups)} for {num_images}")
        self.groups = {STREAMS[0]: image_groups, STREAMS[1]: list(range(num_volumes))}
        self.sizes = {STREAMS[0]: image_batch_size, STREAMS[1]: volume_batch_size}
        self.seed = seed
        self.epoch = 0
        self.lengths: dict[str, int] = {}
        for stream in STREAMS:
            if self.sizes[stream] < 0:
                raise ValueError(
                    f"batch sizes must not be negative, got {self.sizes[stream]} for {stream}; 0 leaves it out"
                )
            if self.groups[stream] and self.sizes[stream]:
                distinct, counts = np.unique(self.groups[stream], return_counts=True)
                _need_groups(len(distinct), self.sizes[stream], stream)
                self.lengths[stream] = max(-(-len(self.groups[stream]) // self.sizes[stream]), int(counts.max()))
        if not self.lengths:
            raise ValueError("at least one stream needs samples and a batch size above 0, got none; check the datalist")
        self.streams: tuple[str, ...] = tuple(self.lengths)
        self._length = self._epoch_length(epoch_length)

    def _epoch_length(self, wanted: str | int) -> int:
        if isinstance(wanted, int) and wanted > 0:
            return wanted
        if wanted == "longest":
            return max(self.lengths.values())
        if wanted == "shortest":
            return min(self.lengths.values())
        if isinstance(wanted, str) and wanted in self.lengths:
            return self.lengths[wanted]
        raise ValueError(
            f"epoch_length must be a positive number, 'longest', 'shortest' or one of "
            f"{', '.join(self.lengths)}, got {wanted!r}"
        )

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration."""
        self.epoch = int(epoch)

    def set_streams(self, streams: Sequence[str]) -> None:
        """Choose which streams the next iteration has; the number of batches stays.

        Raises:
            ValueError: for a stream without samples.
        """
        for stream in streams:
            if stream not in self.lengths:
                raise ValueError(
                    f"streams must be of {', '.join(self.lengths)}, got {stream!r}; it has no samples or size 0"
                )
        if not streams:
            raise ValueError(f"at least one stream is needed, got none; choose of {', '.join(self.lengths)}")
        self.streams = tuple(stream for stream in STREAMS if stream in streams)

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[list[Address]]:
        # eager: the epoch is that of this call, whatever set_epoch does while workers fetch
        dealt = [(stream, self._rows(stream)) for stream in self.streams]
        epoch = self.epoch
        return iter(
            [
                [(stream, epoch, int(i)) for stream, rows in dealt for i in rows[number]]
                for number in range(self._length)
            ]
        )

    def _rows(self, stream: str) -> np.ndarray:
        """This rank's share of the epoch's batches."""
        # the batches of all epochs are one endless sequence of passes through the stream; an epoch is a stretch of it
        per_pass, first = self.lengths[stream], self.epoch * self._length
        size, passes = self.sizes[stream], range(first // per_pass, (first + self._length - 1) // per_pass + 1)
        batches = [grouped_batches(self.groups[stream], size, derive_seed(self.seed, stream, p)) for p in passes]
        start = first - passes[0] * per_pass
        rows = np.concatenate(batches)[start : start + self._length]
        rank, world = (
            (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)
        )
        if size % world:
            raise ValueError(
                f"the batch of {size} {stream} is shared by all ranks, so it must be a multiple of their "
                f"number {world}; "
                f"take {size // world * world or world} or {(size // world + 1) * world}"
            )
        share = size // world
        return rows[:, rank * share : (rank + 1) * share]

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Datasets of preprocessed images, volumes and slices of volumes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from monai.data import CacheDataset, MetaTensor
from monai.data import Dataset as MonaiDataset
from monai.transforms import Compose, Randomizable, Transform
from torch.utils.data import Dataset

from monai_cluster.keys import ClusterKeys
from monai_cluster.transforms.slice_geometry import split_volume
from monai_cluster.transforms.slices import SelectSlice

from .datalist import Datalist
from .slice_store import SliceStore
from .store_rows import StoredRows, check_crop

__all__ = ["ClusterImageDataset", "SliceDataset", "VolumeDataset"]

Row = dict[str, Any]


class SampleError(RuntimeError):
    """A sample that cannot be loaded; the message names row, file and cause."""


class _Deterministic(Transform):
    """The preprocessing of one row, which names the row when something in it fails."""

    def __init__(self, transform: Callable[[Any], Any], kind: str) -> None:
        self.transform = transform
        self.kind = kind

    def __call__(self, row: Row) -> Row:
        return self.apply(row, row)

    def apply(self, shown: Mapping[str, Any], row: Mapping[str, Any]) -> Row:
        """Transform a row as it is shown, and name the row itself."""
        try:
            result: Row = self.transform(dict(shown))
        except Exception as error:
            cause: BaseException = error
            while cause.__cause__ is not None:
                cause = cause.__cause__
            image = row.get(ClusterKeys.IMAGE)
            paths = image if isinstance(image, (list, tuple)) else [image]
            names = ", ".join(Path(path).name for path in paths if isinstance(path, (str, Path)))
            raise SampleError(
                f"{self.kind} of sample_index {row.get(ClusterKeys.SAMPLE_INDEX)} ({names}) cannot be loaded: "
                f"{type(cause).__name__}: {cause}"
            ) from error
        return result


@contextmanager
def _named() -> Iterator[None]:
    """Raise the sample's own error in place of the ones MONAI wraps round it."""
    try:
        yield
    except RuntimeError as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, SampleError):
            cause = cause.__cause__
        if cause is None:
            raise
        raise SampleError(str(cause)) from cause.__cause__


def _random_parts(transform: Any) -> list[str]:
    if isinstance(transform, Compose):
        return [name for part in transform.transforms for name in _random_parts(part)]
    return [type(transform).__name__] if isinstance(transform, Randomizable) else []


class _RowDataset(Dataset[Row]):
    kind = ""

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
            rows = rows.volumes if self.kind == "volume" else rows.images
        if not 0 <= cache_rate <= 1:
            raise ValueError(f"cache_rate must lie in 0..1, got {cache_rate}; 1 keeps every sample in memory")
        if store is not None and cache_rate > 0:
            raise ValueError(f"samples are kept in memory or in a store, got cache_rate {cache_rate} and a store")
        if random := _random_parts(preprocessing):
            raise ValueError(
                f"preprocessing must be deterministic, got {', '.join(random)}; move random transforms "
                "to the view transform"
            )
        for number, row in enumerate(rows):
            if ClusterKeys.SAMPLE_INDEX not in row:
                raise ValueError(f"every row needs a sample_index, row {number} has none; make rows with load_datalist")
        self.rows = list(rows)
        load = _Deterministic(preprocessing, self.kind)
        self.stored: StoredRows | None = None
        self._data: Dataset[Row]
        if store is not None:
            store = store if isinstance(store, SliceStore) else SliceStore(store)
            workers = cache_workers if cache_workers > 1 else 0
            self._data = self.stored = StoredRows(self.rows, preprocessing, load.apply, store, workers, progress)
        elif cache_rate > 0:
            with _named():  # no copies: views never change the cached volume in place
                self._data = CacheDataset(
                    self.rows,
                    load,
                    cache_rate=cache_rate,
                    num_workers=cache_workers,
                    progress=progress,
                    copy_cache=False,
                )
        else:
            self._data = MonaiDataset(self.rows, load)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        with _named():
            item: Row = self._data[index]
        return dict(item)

    def with_slice(self, index: int, choose: Callable[[int], int]) -> tuple[Row, int]:
        """A sample with one slice as its image, and that slice's number; a store reads no other slice.

        Args:
            index: of the sample, a volume ``C H W S``.
            choose: from the number of slices to the slice.

        Returns:
            the sample with ``image`` as ``C H W``, and the number.
        """
        if self.stored is not None:
            with _named():
                return self.stored.with_slice(index, choose)
        sample = self[index]
        chosen = choose(int(sample[ClusterKeys.IMAGE].shape[-1]))
        sample[ClusterKeys.IMAGE] = SelectSlice(axis=-1)(sample[ClusterKeys.IMAGE], chosen)
        return sample, chosen

    def crop(self, index: int, start: Sequence[int], size: Sequence[int]) -> MetaTensor:
        """Part of a volume's image; a store reads its rows only.

        Args:
            index: of the sample.
            start: first ``H W S``.
            size: ``H W S`` of the part.

        Returns:
            ``C *size``, with its affine.

        Raises:
            ValueError: if the part does not lie in the volume.
        """
        stop = [first + length for first, length in zip(start, size, strict=True)]
        if self.stored is not None:
            with _named():
                part, affine = self.stored.crop(index, start, stop)
        else:
            image, affine = split_volume(self[index][ClusterKeys.IMAGE])
            check_crop(image.shape[1:], start, stop)
            part = image[:, start[0] : stop[0], start[1] : stop[1], start[2] : stop[2]].contiguous()
        moved = affine.clone()
        moved[:3, 3] += affine[:3, :3] @ torch.tensor([*start], dtype=torch.float64)
        return MetaTensor(part, affine=moved)


class VolumeDataset(_RowDataset):
    """Preprocessed volumes ``C H W S``, slice axis last.

    Args:
        rows: rows with ``sample_index``, or a :class:`Datalist`, whose volumes are taken.
        preprocessing: deterministic transform from row to volume, see ``volume_preprocessing``.
        cache_rate: share of the samples kept in memory by MONAI's ``CacheDataset``; 0 loads each time.
        cache_workers: threads that fill the cache.
        progress: show a progress bar meanwhile.
        store: a :class:`SliceStore` or its folder: samples are preprocessed once, at construction, by
            ``cache_workers`` processes (1: this one), and read from there, single slices without the rest of their
            volume. Values are the same.

    Raises:
        ValueError: for random preprocessing (a cache would freeze it), rows without index, a cache rate outside 0..1
            or beside a store, a preprocessing that the store cannot tell from others.
        RuntimeError: on access (with a store at construction), when a sample cannot be loaded; names row, file and
            cause.
        StoreFullError: if the store has no room.
    """

    kind = "volume"


class ClusterImageDataset(_RowDataset):
    """Preprocessed 2D images ``C H W``; arguments and errors as for :class:`VolumeDataset`."""

    kind = "image"


class SliceDataset(Dataset[Row]):
    """2D slices of volumes, thinned: n per volume, the middle of n equal strata of its slice axis.

    Slice j of volume v is item ``v * n + j`` and has ``sample_index`` ``first_index + v * n + j``. Slices of one
    volume share a ``group``, the volume's ``sample_index``.

    Args:
        volumes: volumes with the slice axis last; cache them, since every slice loads its volume otherwise.
        slices_per_volume: n.
        first_index: index of the first slice; one above the largest index of the volumes by default.

    Raises:
        ValueError: for less than one slice per volume.
    """

    def __init__(self, volumes: VolumeDataset, slices_per_volume: int, first_index: int | None = None) -> None:
        if slices_per_volume < 1:
            raise ValueError(f"slices_per_volume must be at least 1, got {slices_per_volume}; for example 8")
        self.volumes = volumes
        self.slices_per_volume = slices_per_volume
        above = 1 + max((int(row[ClusterKeys.SAMPLE_INDEX]) for row in volumes.rows), default=-1)
        self.first_index = above if first_index is None else first_index

    def __len__(self) -> int:
        return len(self.volumes) * self.slices_per_volume

    def group(self, index: int) -> int:
        """The volume's ``sample_index``, from the row alone."""
        return int(self.volumes.rows[index // self.slices_per_volume][ClusterKeys.SAMPLE_INDEX])

    def __getitem__(self, index: int) -> Row:
        return self.item(index, 0.5)

    def item(self, index: int, place: float) -> Row:
        """Slice at ``place`` in 0..1 of its stratum; 0.5 is the middle."""
        if not 0 <= index < len(self):
            raise IndexError(f"slice {index} of {len(self)}")
        volume, stratum = divmod(index, self.slices_per_volume)
        share = (stratum + place) / self.slices_per_volume
        sample, chosen = self.volumes.with_slice(volume, lambda count: int(share * count))
        known = sample.pop(ClusterKeys.SLICE_INDEX, None)
        return {
            **sample,
            ClusterKeys.KIND: "slice",
            ClusterKeys.SLICE_INDEX: chosen if known is None else int(known[chosen]),
            ClusterKeys.GROUP: self.group(index),
            ClusterKeys.SAMPLE_INDEX: self.first_index + index,
        }

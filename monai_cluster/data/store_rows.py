# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The rows of a dataset behind a slice store: built in worker processes, read whole, by slice or by crop."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from monai.data import MetaTensor
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm import tqdm

from monai_cluster.keys import ClusterKeys
from monai_cluster.transforms.slice_geometry import sliced_affine

from .slice_store import SliceStore
from .store_description import describe_transform
from .store_entry import BrokenEntryError, StoredEntry

__all__ = ["StoredRows", "check_crop"]

Row = dict[str, Any]
Load = Callable[[Mapping[str, Any], Mapping[str, Any]], Row]
Result = TypeVar("Result")
IMAGE = ClusterKeys.IMAGE


class StoredRows(Dataset[Row]):
    """Preprocessed samples of rows, from the store; what is missing there is made at construction.

    Args:
        rows: of a datalist.
        preprocessing: deterministic transform, whose text is part of the keys.
        load: applies it: called with the row as the store shows it, and with the row itself for messages.
        store: where samples are kept.
        workers: processes that build; 0 builds in this one. Each holds one sample at a time.
        progress: show a bar meanwhile.

    Raises:
        DescriptionError: for a preprocessing that two processes cannot tell apart from others.
        StoreFullError: if there is no room; what was built stays.
        RuntimeError: if a sample cannot be loaded.
    """

    def __init__(
        self, rows: Sequence[Row], preprocessing: Any, load: Load, store: SliceStore, workers: int, progress: bool
    ) -> None:
        self.rows, self.load, self.store = rows, load, store
        self.transform = describe_transform(preprocessing)
        # Shared with loader processes: what one has verified, no other reads again.
        self.verified = torch.zeros(len(rows), dtype=torch.uint8).share_memory_()  # type: ignore[no-untyped-call]
        self.keys: list[str] = self._build(workers, progress)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self._use(index, lambda entry: entry.sample(self.rows[index]))

    def with_slice(self, index: int, choose: Callable[[int], int]) -> tuple[Row, int]:
        """The sample with one slice ``C H W`` as its image, and the slice's number; reads no other slice.

        Args:
            index: of the row.
            choose: from the number of slices to the slice.
        """

        def use(entry: StoredEntry) -> tuple[Row, int]:
            coded = _volume(entry)
            count = coded["shape"][-1]
            chosen = choose(count)
            if not -count <= chosen < count:
                raise ValueError(f"slice {chosen} must lie in 0..{count - 1}; choose another slice")
            affine = sliced_affine(entry.affine(coded), 2, torch.tensor([chosen % count]))
            plane = entry.slice(coded, chosen % count)
            image = MetaTensor(plane, affine=affine, meta={ClusterKeys.SLICE_INDEX: chosen % count})
            return entry.sample(self.rows[index], {IMAGE: image}), chosen

        return self._use(index, use)

    def crop(self, index: int, start: Sequence[int], stop: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The image between two corners ``H W S``, and the whole image's affine ``4 4``; reads these rows only."""

        def use(entry: StoredEntry) -> tuple[Tensor, Tensor]:
            coded = _volume(entry)
            check_crop(coded["shape"][1:], start, stop)
            return entry.crop(coded, start, stop), entry.affine(coded)

        return self._use(index, use)

    def _use(self, index: int, use: Callable[[StoredEntry], Result]) -> Result:
        """Read from an entry; one that was damaged or removed meanwhile is built anew."""
        key = self.keys[index]
        try:
            verified = bool(self.verified[index])
            entry = self.store.get(key, verify=not verified)
            if entry is not None:
                if not verified:
                    self.verified[index] = 1
                return use(entry)
            reason = "it was removed"
        except (BrokenEntryError, OSError) as error:
            reason = str(error) if isinstance(error, BrokenEntryError) else type(error).__name__
        _warn(self.rows[index], reason)
        self._rebuild(index)
        entry = self.store.get(key)
        assert entry is not None
        return use(entry)

    def _rebuild(self, index: int) -> None:
        row = self.rows[index]
        self.store.forget(self.keys[index])
        if self.store.key(row, self.transform) != self.keys[index]:
            raise RuntimeError(
                f"the files of sample_index {row.get(ClusterKeys.SAMPLE_INDEX)} have changed since the dataset was "
                "made: start anew."
            )
        self.store.make(self.keys[index], row, self.load)

    def _build(self, workers: int, progress: bool) -> list[str]:
        keys = [self.store.key(row, self.transform, known=True) for row in self.rows]
        missing = [index for index, key in enumerate(keys) if key is None or not _present(self.store, key)]
        # Ranks begin at different rows and skip what is there by then: together they do the work once.
        start = len(missing) * int(os.environ.get("RANK", 0)) // int(os.environ.get("WORLD_SIZE", 1))
        missing = missing[start:] + missing[:start]
        tasks = Subset(_Build(self.rows, self.transform, self.load, self.store), missing)
        made = DataLoader(
            tasks,
            batch_size=None,
            collate_fn=_same,
            num_workers=min(workers, len(missing)) if len(missing) > 1 else 0,
            generator=torch.Generator(),  # an own one: the global one stays as it was
        )
        bar = tqdm(made, "Slice store", total=len(missing), disable=not progress or not missing)
        for index, (key, damage, error) in zip(missing, bar, strict=True):
            if error is not None:
                raise error
            if damage:
                _warn(self.rows[index], damage)
            keys[index], self.verified[index] = key, damage is not None
        return [str(key) for key in keys]


class _Build(Dataset[Any]):
    """Item i makes entry i: ``(key, None if it was there, "" if it is new or else what was wrong, error)``."""

    def __init__(self, rows: Sequence[Row], transform: str, load: Load, store: SliceStore) -> None:
        self.rows, self.transform, self.load, self.store = rows, transform, load, store

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[str | None, str | None, Exception | None]:
        row, damage = self.rows[index], ""
        try:
            key = self.store.key(row, self.transform)
            assert key is not None
            try:
                if self.store.get(key, verify=False) is not None:
                    return key, None, None
            except BrokenEntryError as error:
                damage = str(error)
            self.store.make(key, row, self.load)
        except Exception as error:
            if type(error).__module__.startswith("monai_cluster"):
                return None, None, error  # as it is: the loader would wrap it into the worker's traceback
            raise
        return key, damage, None


def _same(item: Any) -> Any:
    return item


def _present(store: SliceStore, key: str) -> bool:
    try:
        return store.get(key, verify=False) is not None
    except BrokenEntryError:
        return False


def _volume(entry: StoredEntry) -> dict[str, Any]:
    coded = entry.coded(IMAGE)
    if coded is None:
        raise ValueError("slices and crops are read of volumes C H W S, but the preprocessing gives something else.")
    return coded


def check_crop(shape: Sequence[int], start: Sequence[int], stop: Sequence[int]) -> None:
    """Refuse corners outside an image ``H W S``, or in the wrong order."""
    if len(shape) != len(start) or not all(
        0 <= first < last <= length for first, last, length in zip(start, stop, shape, strict=True)
    ):
        raise ValueError(f"a crop must lie within {tuple(shape)}, got {tuple(start)} to {tuple(stop)}.")


def _warn(row: Row, reason: str) -> None:
    warnings.warn(
        f"the slice store's entry of sample_index {row.get(ClusterKeys.SAMPLE_INDEX)} is built anew: {reason}.",
        stacklevel=2,
    )

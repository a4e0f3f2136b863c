# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One entry of the slice store: a folder with ``entry.json`` and its large arrays, slices first, as plain ``.npy``.

Arrays are mapped into memory by PyTorch, privately and without keeping a descriptor: any number of volumes can be open,
workers share the page cache, forked processes inherit the maps. With ``compressed`` every slice is a chunk of a Blosc2
array.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib
import io
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .store_values import decode_sample

__all__ = ["BrokenEntryError", "StoredEntry", "entry_files", "write_files"]

FORMAT = 1
DOCUMENT = "entry.json"
LONGEST = 2**28  # bytes of an entry.json
NARROW = (torch.uint8, torch.int16)
WIDE = (torch.float32, torch.float64, torch.int64, torch.int32)
VOLUME = 4  # axes of C H W S
Files = list[tuple[str, list[Any]]]


class BrokenEntryError(ValueError):
    """An entry whose files are not what was written."""


def blosc2() -> Any:
    """The optional library of compressed stores.

    Raises:
        ImportError: with the way to install it.
    """
    try:
        return importlib.import_module("blosc2")
    except ImportError as error:
        raise ImportError("a compressed slice store needs the library blosc2: pip install blosc2.") from error


def entry_files(key: str, items: Sequence[Any], arrays: Sequence[Tensor], compressed: bool = False) -> Files:
    """Names and contents of an entry's files, the document last.

    Args:
        key: of the entry.
        items: see :func:`encode_sample`.
        arrays: ``C H W S`` are stored as ``S C H W``, all others as they are. Whole numbers in wide types are stored
            in narrow ones where that loses nothing.
        compressed: one Blosc2 chunk (zstd) per slice instead of plain values.
    """
    files: Files = []
    specs = []
    for number, array in enumerate(arrays):
        slices = array.ndim == VOLUME
        stored = (array.movedim(-1, 0) if slices else array).contiguous()
        stored = stored.to(_narrowest(stored))
        plain = (stored.view(torch.int16) if stored.dtype == torch.bfloat16 else stored).numpy()
        name = f"{number}.b2nd" if compressed else f"{number}.npy"
        parts = _compressed(plain, slices) if compressed else _npy(plain)
        size, digest = sum(len(part) for part in parts), hashlib.sha256()
        for part in parts:
            digest.update(part)
        spec = {"file": name, "bytes": size, "sha256": digest.hexdigest(), "dtype": str(stored.dtype)[6:]}
        specs.append(spec | {"shape": list(stored.shape), "slices": slices, "offset": size - plain.nbytes})
        files.append((name, parts))
    document = {"format": FORMAT, "key": key, "items": items, "arrays": specs}
    sealed = document | {"sha256": _seal(document)}
    return [*files, (DOCUMENT, [json.dumps(sealed).encode()])]


def write_files(folder: Path, files: Files) -> None:
    """Write an entry's files into a new folder, down to the disk."""
    folder.mkdir(mode=0o700)
    for name, parts in files:
        with (folder / name).open("xb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system can."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


class StoredEntry:
    """A stored sample, of which whole arrays, slices or crops can be read.

    Args:
        folder: of the entry.
        key: that it must have been written under.
        verify: compare the arrays' checksums too, which reads all of them.

    Raises:
        FileNotFoundError: if there is no such entry.
        BrokenEntryError: if its files are not what was written.
    """

    def __init__(self, folder: Path, key: str, verify: bool = True) -> None:
        if not folder.is_dir():
            raise FileNotFoundError("the slice store has no such entry.")
        self.folder = folder
        document = _read_document(folder / DOCUMENT, key)
        self.items: list[Any] = document["items"]
        self.arrays: list[dict[str, Any]] = document["arrays"]
        self.paths = [str(folder / spec["file"]) for spec in self.arrays]
        self._maps: dict[int, tuple[int, Tensor]] = {}
        self._affines: dict[int, Tensor] = {}
        for spec in self.arrays:
            _check_file(folder / spec["file"], spec, verify)

    def sample(self, row: Mapping[str, Any], given: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The whole sample, as the preprocessing gave it, of fresh memory.

        Args:
            row: the row that asks; what the preprocessing passed through is taken from it.
            given: values to take instead of stored ones, which are then not read.
        """
        given = given or {}
        items = [[key, None if key in given else coded] for key, coded in self.items]
        sample = decode_sample(items, row, self._whole)
        return {key: given.get(key, value) for key, value in sample.items()}

    def coded(self, name: str) -> dict[str, Any] | None:
        """The JSON of an entry that is a volume in slices (``shape``, ``dtype``, ``array``), or None."""
        found = [coded for key, coded in self.items if key == name and isinstance(coded, dict)]
        volume = found and "array" in found[0] and self.arrays[found[0]["array"]]["slices"]
        return found[0] if volume else None

    def affine(self, coded: Mapping[str, Any]) -> Tensor:
        """``4 4`` of a volume, index to RAS mm; the identity where it has none. Not to be changed in place."""
        number = coded["array"]
        if number not in self._affines:
            state = {} if coded["type"] != "MetaTensor" else coded["state"]
            meta = decode_sample([["state", state]], {}, self._whole)["state"].get("_meta", {}) if state else {}
            self._affines[number] = torch.as_tensor(meta.get("affine", torch.eye(4)), dtype=torch.float64).cpu()
        return self._affines[number]

    def slice(self, coded: Mapping[str, Any], index: int) -> Tensor:
        """Slice ``index`` (from 0) of a volume as ``C H W``; reads no other."""
        plane: Any = self._stored(coded["array"], np.s_[index : index + 1])[0]
        return plane.to(getattr(torch, coded["dtype"]), copy=True)  # type: ignore[no-any-return]

    def crop(self, coded: Mapping[str, Any], start: Sequence[int], stop: Sequence[int]) -> Tensor:
        """``C h w s`` between two corners ``H W S``; reads nothing outside."""
        rows, columns, slices = (slice(*ends) for ends in zip(start, stop, strict=True))
        window = self._stored(coded["array"], np.s_[slices, :, rows, columns])
        window = window.contiguous().movedim(0, -1)  # row by row from the file, then turned in the cache
        return torch.empty(window.shape, dtype=getattr(torch, coded["dtype"])).copy_(window)

    def _whole(self, coded: Mapping[str, Any]) -> Tensor:
        stored = self._stored(coded["array"], ...)
        # The same strides as the preprocessing's tensor, so that sums over it add up in the same order.
        result = torch.empty_permuted(coded["shape"], coded["order"], dtype=getattr(torch, coded["dtype"]))
        return result.copy_(stored.movedim(0, -1) if self.arrays[coded["array"]]["slices"] else stored)

    def _stored(self, number: int, where: Any) -> Tensor:
        """Part of an array as it is stored, to be copied and never changed: it may be the file itself."""
        spec = self.arrays[number]
        path = self.paths[number]
        status = os.stat(path)  # a map of a file that was cut short would end the process
        if status.st_size != spec["bytes"]:
            raise BrokenEntryError("an array's file has another length than was written")
        dtype = getattr(torch, spec["dtype"])
        if path.endswith(".b2nd"):
            return _decompressed(path, status.st_ino, where).view(dtype)
        inode, mapped = self._maps.get(number, (None, None))
        if mapped is None or inode != status.st_ino:
            flat = torch.from_file(path, shared=False, size=spec["bytes"], dtype=torch.uint8)
            mapped = flat[spec["offset"] :].view(dtype).view(spec["shape"])
            self._maps[number] = status.st_ino, mapped
        return mapped[where]


def _decompressed(path: str, inode: int, where: Any) -> Tensor:
    try:
        return torch.from_numpy(np.ascontiguousarray(_opened(path, inode, os.getpid())[where]))
    except RuntimeError as error:
        raise BrokenEntryError("a compressed file of the slice store cannot be read") from error


@functools.lru_cache(maxsize=32)
def _opened(path: str, inode: int, process: int) -> Any:
    """A Blosc2 array, kept open by the process that opened it: a forked one would share its place in the file."""
    return blosc2().open(path, mode="r", dparams={"nthreads": 1})


def _narrowest(tensor: Tensor) -> torch.dtype:
    """The narrowest type that holds every value exactly; looks at one slice after the other and stops early."""
    fitting = [dtype for dtype in NARROW if tensor.dtype in WIDE and tensor.numel()]
    for part in tensor.reshape(len(tensor), -1) if fitting else ():
        if not fitting:
            break
        low, high = (float(bound) for bound in part.aminmax())
        fitting = [dtype for dtype in fitting if torch.iinfo(dtype).min <= low and high <= torch.iinfo(dtype).max]
        if part.is_floating_point() and fitting:
            negative_zero = (part == 0) & part.signbit()
            if bool(negative_zero.any()) or not bool((part == part.round()).all()):
                return tensor.dtype
    return fitting[0] if fitting else tensor.dtype


def _compressed(array: np.ndarray[Any, Any], slices: bool) -> list[Any]:
    library = blosc2()
    chunks = (1, *array.shape[1:]) if slices else array.shape
    options = {"codec": library.Codec.ZSTD, "clevel": 5, "filters": [library.Filter.SHUFFLE], "nthreads": 1}
    return [library.asarray(array, chunks=chunks, cparams=options).to_cframe()]


def _npy(array: np.ndarray[Any, Any]) -> list[Any]:
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    return [header.getvalue(), array.reshape(-1).view(np.uint8).data]


def _seal(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(document).encode()).hexdigest()


def _read_document(path: Path, key: str) -> dict[str, Any]:
    try:
        if path.stat().st_size > LONGEST:
            raise ValueError
        sealed = json.loads(path.read_bytes())
        seal = sealed.pop("sha256")
        intact = seal == _seal(sealed) and sealed["format"] == FORMAT and sealed["key"] == key
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise BrokenEntryError("its entry.json is missing or damaged") from error
    if not intact:
        raise BrokenEntryError("its entry.json is damaged or belongs to another entry")
    return dict(sealed)


def _check_file(path: Path, spec: Mapping[str, Any], verify: bool) -> None:
    try:
        if path.stat().st_size != spec["bytes"]:
            raise BrokenEntryError("an array's file has another length than was written")
        if verify:
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256") if hasattr(hashlib, "file_digest") else _digest(file)
            if digest.hexdigest() != spec["sha256"]:
                raise BrokenEntryError("an array's checksum is not the one written")
    except OSError as error:
        raise BrokenEntryError("an array's file is missing or cannot be read") from error


def _digest(file: Any) -> Any:
    digest = hashlib.sha256()
    while part := file.read(2**24):
        digest.update(part)
    return digest

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One entry: whatever a sample holds comes back exactly, slices are read alone, every damage is noticed."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.utils.enums import SpaceKeys
from torch import Tensor

from monai_cluster.data.store_entry import BrokenEntryError, StoredEntry, entry_files, write_files
from monai_cluster.data.store_values import Hidden, UnstorableError, encode_sample

KEY = "k" * 64
COMPRESSED = pytest.param(
    True,
    marks=pytest.mark.skipif(importlib.util.find_spec("blosc2") is None, reason="needs blosc2 (pip install blosc2)"),
)
both_forms = pytest.mark.parametrize("compressed", [False, COMPRESSED])


def stored(
    folder: Path, sample: dict[str, Any], row: dict[str, Any] | None = None, compressed: bool = False
) -> StoredEntry:
    items, arrays = encode_sample(sample, row or {}, {})
    folder.mkdir(exist_ok=True)
    write_files(folder / KEY, entry_files(KEY, items, arrays, compressed))
    return StoredEntry(folder / KEY, KEY)


def strides(tensor: Tensor) -> list[int]:
    """Strides where they matter; those of a copy where the tensor has gaps."""
    order = sorted(range(tensor.ndim), key=tensor.stride, reverse=True)
    tensor = tensor if tensor.permute(order).is_contiguous() else tensor.contiguous()
    return [tensor.stride(axis) for axis in range(tensor.ndim) if tensor.shape[axis] > 1]


def same(one: Any, other: Any) -> bool:
    """Equal to the bit: type, values, strides, meta data."""
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        plain, again = (value.as_subclass(Tensor) for value in (one, other))
        bits = [value.contiguous().reshape(-1).view(torch.uint8) for value in (plain, again)]
        if plain.dtype != again.dtype or plain.shape != again.shape or not torch.equal(*bits):
            return False
        return strides(plain) == strides(again) and same(dict(one.__dict__), dict(other.__dict__))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.shape == other.shape and one.tobytes() == other.tobytes()
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one.hex() == other.hex() or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


def volume(dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = (2, 6, 5, 4)) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(shape, generator=generator) * 1000
    return (values > 0) if dtype == torch.bool else values.to(dtype)


def everything() -> dict[str, Any]:
    affine = torch.tensor([[0.7, 0, 0.1, -3], [0, -1 / 3, 0, 1e-300], [0, 0, 2, 5], [0, 0, 0, 1]], dtype=torch.float64)
    meta = {"modality": "CT", "space": SpaceKeys.RAS, "channel": float("nan"), "shape": np.array([1, 2]), 3: ("a", [])}
    return {
        "image": MetaTensor(volume(), affine=affine, meta=meta),
        "label": MetaTensor(volume(torch.uint8), affine=affine, applied_operations=[{"class": "Flip", "id": 5}]),
        "turned": volume().permute(0, 3, 1, 2),
        "gaps": volume()[..., ::2],
        "flat": volume(shape=(3, 7, 5)),
        "picture": MetaTensor(volume(shape=(1, 7, 5)).transpose(1, 2)),
        "half": volume(torch.bfloat16),
        "yes": volume(torch.bool),
        "long": torch.arange(20_000),
        "negative zero": torch.tensor([0.0, -0.0]).reshape(1, 1, 1, 2),
        "not a number": torch.full((1, 2, 2, 2), float("nan")),
        "nothing": torch.empty(0, 4),
        "no slices": torch.empty(1, 3, 3, 0),
        "scalar": torch.tensor(2.5),
        "array": np.arange(24, dtype=np.uint16).reshape(2, 3, 4),
        "text array": np.array(["ab", "c"]),
        "numpy number": np.float32(0.1),
        "size": torch.Size([1, 2]),
        "type": torch.int16,
        "words": {"a": [1, None, True, -0.0, 1e-310, float("inf"), "ü"]},
    }


@both_forms
def test_every_kind_of_value_comes_back_to_the_bit(tmp_path: Path, compressed: bool) -> None:
    sample = everything()
    entry = stored(tmp_path, sample, compressed=compressed)
    again = entry.sample({})
    assert list(again) == list(sample)
    assert [key for key in sample if not same(sample[key], again[key])] == []
    again["image"].zero_()  # fresh memory each time
    assert same(entry.sample({})["image"], sample["image"])


def test_what_is_read_can_be_changed_without_changing_what_is_stored(tmp_path: Path) -> None:
    whole = volume()
    entry = stored(tmp_path, {"image": whole, "flat": whole[0].clone()})
    coded = entry.coded("image")
    assert coded is not None
    for _ in range(2):
        for part, expected in (
            (entry.slice(coded, 1), whole[..., 1]),
            (entry.crop(coded, (0, 0, 0), (6, 5, 4)), whole),
            (entry.sample({})["image"], whole),
            (entry.sample({})["flat"], whole[0]),
        ):
            assert torch.equal(part, expected)
            part.zero_()


def test_many_entries_can_be_open_without_descriptors(tmp_path: Path) -> None:
    entries = []
    before = len(os.listdir("/dev/fd"))
    for number in range(20):
        entry = stored(tmp_path / str(number), {"image": volume() + number})
        coded = entry.coded("image")
        assert coded is not None
        entries.append((entry, entry.slice(coded, 0)))
    assert len(os.listdir("/dev/fd")) == before


@both_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.int16, torch.bfloat16])
def test_slices_and_crops_are_the_volumes(tmp_path: Path, compressed: bool, dtype: torch.dtype) -> None:
    whole = volume(dtype, (2, 9, 7, 5))
    entry = stored(tmp_path, {"image": whole}, compressed=compressed)
    coded = entry.coded("image")
    assert coded is not None
    for index in range(5):
        assert same(entry.slice(coded, index), whole[..., index].contiguous())
    assert same(entry.crop(coded, (2, 1, 1), (8, 5, 4)), whole[:, 2:8, 1:5, 1:4].contiguous())
    assert same(entry.crop(coded, (0, 0, 0), (9, 7, 5)), whole)


@pytest.mark.parametrize(
    ("low", "high", "dtype", "narrow"),
    [
        (0, 255, torch.float32, "uint8"),
        (-1024, 3071, torch.float32, "int16"),
        (-1024, 3071, torch.float64, "int16"),
        (0, 32767, torch.int64, "int16"),
        (0, 32768, torch.int64, "int64"),
        (0, 255, torch.uint8, "uint8"),
        (0, 200, torch.int16, "int16"),
    ],
)
def test_whole_numbers_are_stored_in_narrow_types_and_come_back_in_theirs(
    tmp_path: Path, low: int, high: int, dtype: torch.dtype, narrow: str
) -> None:
    values = torch.randint(low, high + 1, (1, 8, 8, 3), generator=torch.Generator().manual_seed(0)).to(dtype)
    values[0, 0, 0, :2] = torch.tensor([low, high])
    entry = stored(tmp_path, {"image": values})
    assert entry.arrays[0]["dtype"] == narrow
    assert same(entry.sample({})["image"], values)
    coded = entry.coded("image")
    assert coded is not None
    assert same(entry.slice(coded, 1), values[..., 1].contiguous())


@pytest.mark.parametrize("value", [0.5, -0.0, float("nan"), float("inf"), 40_000.0, 2.0**60])
def test_one_value_that_would_be_lost_keeps_the_wide_type(tmp_path: Path, value: float) -> None:
    values = torch.zeros(1, 4, 4, 3)
    values[0, 3, 3, 2] = value
    entry = stored(tmp_path, {"image": values})
    assert entry.arrays[0]["dtype"] == "float32"
    assert same(entry.sample({})["image"], values)


def test_the_file_is_a_plain_npy_with_the_slices_first(tmp_path: Path) -> None:
    whole = volume()
    stored(tmp_path, {"image": whole})
    mapped = np.load(tmp_path / KEY / "0.npy", mmap_mode="r")
    assert np.array_equal(mapped, whole.movedim(-1, 0).numpy())


def resident(path: Path) -> int:
    """Bytes of a mapped file that this process has touched."""
    maps = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    sizes = [re.search(r"^Rss:\s+(\d+) kB", part, re.MULTILINE) for part in maps if str(path) in part]
    assert sizes
    return sum(int(size[1]) * 1024 for size in sizes if size)


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux to count touched pages")
def test_only_the_wanted_slices_and_rows_are_read(tmp_path: Path) -> None:
    whole = volume(shape=(1, 512, 512, 24))
    stored(tmp_path, {"image": whole})
    entry = StoredEntry(tmp_path / KEY, KEY, verify=False)
    coded = entry.coded("image")
    assert coded is not None
    path, offset, slice_bytes, around = tmp_path / KEY / "0.npy", entry.arrays[0]["offset"], 512 * 512 * 4, 2**21
    with path.open("r+b") as file:  # everything but slice 7 becomes a hole
        file.seek(offset + 7 * slice_bytes)
        kept = file.read(slice_bytes)
        file.truncate(0)
        file.seek(offset + 7 * slice_bytes)
        file.write(kept)
        file.truncate(offset + 24 * slice_bytes)
    crop = entry.crop(coded, (100, 3, 7), (104, 9, 8))
    assert torch.equal(crop, whole[:, 100:104, 3:9, 7:8])
    assert resident(path) <= 4 * 512 * 4 + around  # the system maps its neighbours too, up to a large page
    assert torch.equal(entry.slice(coded, 7), whole[..., 7])
    assert slice_bytes <= resident(path) <= slice_bytes + around


def cut(folder: Path) -> None:
    path = folder / "0.npy"
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 1)


def flip(folder: Path) -> None:
    path = folder / "0.npy"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def flip_document(folder: Path) -> None:
    path = folder / "entry.json"
    path.write_text(path.read_text().replace('"shape": [2', '"shape": [3', 1))


def foreign(folder: Path) -> None:
    items, arrays = encode_sample({"image": volume()}, {}, {})
    write_files(folder.parent / "other", entry_files("other", items, arrays))
    for file in (folder.parent / "other").iterdir():
        os.replace(file, folder / file.name)


DAMAGES: list[tuple[Callable[[Path], Any], str]] = [
    (cut, "another length"),
    (flip, "checksum"),
    (flip_document, r"entry\.json is damaged"),
    (foreign, "belongs to another entry"),
    (lambda folder: (folder / "entry.json").unlink(), r"entry\.json is missing"),
    (lambda folder: (folder / "0.npy").unlink(), "file is missing"),
    (lambda folder: (folder / "entry.json").write_text("{"), r"entry\.json is missing or damaged"),
    (lambda folder: (folder / "entry.json").write_text("[1]"), r"entry\.json is missing or damaged"),
    (lambda folder: (folder / "entry.json").write_text(json.dumps({"sha256": "x"})), r"entry\.json is"),
    (lambda folder: (folder / "entry.json").write_bytes(b"\xff\xfe"), r"entry\.json is missing or damaged"),
    (lambda folder: os.truncate(folder / "entry.json", 2**29), r"entry\.json is missing or damaged"),
]


@pytest.mark.parametrize(("damage", "said"), DAMAGES)
def test_a_damaged_entry_is_recognised(tmp_path: Path, damage: Callable[[Path], Any], said: str) -> None:
    stored(tmp_path, {"image": volume(torch.float32) + 0.5})
    damage(tmp_path / KEY)
    with pytest.raises(BrokenEntryError, match=said):
        StoredEntry(tmp_path / KEY, KEY)


@both_forms
def test_a_file_that_is_cut_or_replaced_while_it_is_open_is_noticed(tmp_path: Path, compressed: bool) -> None:
    entry = stored(tmp_path, {"image": volume() + 0.5}, compressed=compressed)
    other = stored(tmp_path / "other", {"image": volume() - 0.5})
    entry.sample({})
    if not compressed:
        os.replace(other.paths[0], entry.paths[0])
        assert torch.equal(entry.sample({})["image"], volume() - 0.5)
    os.truncate(entry.paths[0], 200)
    with pytest.raises(BrokenEntryError, match="another length"):
        entry.sample({})


def test_a_missing_entry_is_no_broken_one(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such entry"):
        StoredEntry(tmp_path / KEY, KEY)


def test_what_comes_from_the_row_is_taken_from_the_row_that_asks(tmp_path: Path) -> None:
    path, text = tmp_path / "Doe_John" / "scan.nii", "".join(["read by ", "Dr. Mabuse"])
    row = {"image": str(path), "report": text, "subject": Hidden("subject"), "parts": [str(path), "b/c.nii"]}
    image = MetaTensor(volume(), meta={"filename_or_obj": str(path), "second": "b/c.nii", "asked": path})
    sources = {"image": [path], "parts": [path, Path("b/c.nii")]}
    items, arrays = encode_sample({**row, "image": image, "who": row["subject"]}, row, sources)
    write_files(tmp_path / KEY, entry_files(KEY, items, arrays))
    raw = b"".join(file.read_bytes() for file in (tmp_path / KEY).iterdir())
    assert not [word for word in (b"Doe", b"Mabuse", b"scan.nii", b"c.nii") if word in raw]
    asking = {"image": "/x/y.nii", "report": "other", "subject": "s7", "parts": ["/x/y.nii", "/x/z.nii"]}
    sample = StoredEntry(tmp_path / KEY, KEY).sample(asking)
    assert (sample["report"], sample["subject"], sample["who"]) == ("other", "s7", "s7")
    assert sample["parts"] == asking["parts"]
    assert sample["image"].meta["second"] == "/x/z.nii"
    assert sample["image"].meta["filename_or_obj"] == "/x/y.nii"
    assert sample["image"].meta["asked"] == Path("/x/y.nii")


class _Own:
    pass


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (_Own(), "got .*_Own in 'thing'"),
        ({"deep": [_Own()]}, r"got .*_Own in 'thing\.deep'"),
        (torch.zeros(2).to_sparse(), "got torch.Tensor"),
        (Path("/a/b"), "holds a path"),
        ("see /data/Doe.nii there", "holds a path"),
        (np.full(20_000, "x"), "must be numbers"),
        (np.array([None]), "got numpy.ndarray"),
        (pytest.ExitCode.OK, "MONAI's enumerations only, got ExitCode"),
    ],
)
def test_what_cannot_be_given_back_exactly_is_refused(value: Any, said: str) -> None:
    with pytest.raises(UnstorableError, match=said):
        encode_sample({"thing": value}, {}, {"image": [Path("/data/Doe.nii")]})


def test_entries_must_be_called_by_text() -> None:
    with pytest.raises(UnstorableError, match="called by text, got 3"):
        encode_sample({3: 1}, {}, {})  # type: ignore[dict-item]


@pytest.mark.parametrize("look", [int, str, float, bool, list, len, "{}".format, lambda one: one == 3])
def test_a_hidden_value_can_be_passed_on_but_not_looked_at(look: Callable[[Any], Any]) -> None:
    with pytest.raises(UnstorableError, match="reads 'sample_index' cannot use the slice store"):
        look(Hidden("sample_index"))


def test_a_compressed_entry_without_its_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "blosc2", None)
    with pytest.raises(ImportError, match="pip install blosc2"):
        entry_files(KEY, [], [volume()], compressed=True)

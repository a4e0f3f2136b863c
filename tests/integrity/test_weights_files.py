# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Weights are judged without being loaded."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest

from monai_cluster.integrity.weights_files import inspect_weights


def _safetensors(path: Path, header: dict[str, Any], body: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def _codes(path: Path) -> set[str]:
    return {one.code for one in inspect_weights(path).findings}


def _entry(dtype: str, count: int, start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": [count], "data_offsets": [start, end]}


@pytest.mark.parametrize(("dtype", "bits"), [("F16", 0x7C00), ("BF16", 0x7F80), ("F32", 0x7F800000)])
def test_infinities_are_found_in_every_float(tmp_path: Path, dtype: str, bits: int) -> None:
    size = 4 if dtype == "F32" else 2
    header = {"w": _entry(dtype, 2, 0, 2 * size)}
    good = (bits - 1).to_bytes(size, "little")
    assert _codes(_safetensors(tmp_path / "a.safetensors", header, good * 2)) == set()
    bad = good + bits.to_bytes(size, "little")
    assert _codes(_safetensors(tmp_path / "b.safetensors", header, bad)) == {"NONFINITE"}


@pytest.mark.parametrize(
    ("entries", "size", "code"),
    [
        ([(0, 4), (2, 6)], 6, "HEADER"),
        ([(0, 4), (6, 10)], 10, "HEADER"),
        ([(0, 4)], 3, "TRUNCATED"),
        ([(0, 4)], 5, "TRAILING"),
    ],
)
def test_offsets_must_fill_the_file(tmp_path: Path, entries: list[tuple[int, int]], size: int, code: str) -> None:
    header = {f"t{n}": _entry("U8", 4, *one) for n, one in enumerate(entries)}
    assert _codes(_safetensors(tmp_path / "a.safetensors", header, bytes(size))) == {code}


def test_a_name_in_the_metadata_is_warned_about_and_not_quoted(tmp_path: Path) -> None:
    header = {"__metadata__": {"p": "DOE^JANE"}, "w": _entry("U8", 1, 0, 1)}
    inspection = inspect_weights(_safetensors(tmp_path / "a.safetensors", header, b"\0"))
    assert inspection.verdict == "warn"
    assert "DOE" not in str([str(one) for one in inspection.findings])


class _Runs:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return print, ("ran",)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_a_pickle_with_a_foreign_global_is_refused(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps({"a": _Runs()}, protocol=protocol)
    (tmp_path / "a.pth").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "b.pt", "w") as file:
        file.writestr("archive/data.pkl", data)
    assert "PICKLE" in _codes(tmp_path / "a.pth")
    assert "PICKLE" in _codes(tmp_path / "b.pt")


def test_what_torch_saves_is_accepted_and_its_nan_is_found(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"w": torch.ones(3), "h": torch.ones(2, dtype=torch.bfloat16), "epoch": 3}, tmp_path / "a.pt")
    torch.save({"v": torch.ones(2), "w": torch.tensor([1.0, float("nan")])}, tmp_path / "b.pt")
    assert _codes(tmp_path / "a.pt") == set()
    assert _codes(tmp_path / "b.pt") == {"NONFINITE"}

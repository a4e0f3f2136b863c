# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Zip files are judged without being unpacked."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

import pytest

from monai_cluster.integrity.archives import inspect_archive


def _zip(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def _codes(path: Path) -> set[str]:
    return {one.code for one in inspect_archive(path).findings}


def test_a_plain_archive_is_accepted(tmp_path: Path) -> None:
    assert _codes(_zip(tmp_path / "a.zip", {"a/b.json": b"{}", "a/c.txt": b"text"})) == set()


@pytest.mark.parametrize("name", ["../a", "/a", "a/../../b", "C:/a", "..\\a"])
def test_members_outside_the_folder_are_refused(tmp_path: Path, name: str) -> None:
    assert "PATH" in _codes(_zip(tmp_path / "a.zip", {"b": b"x", name: b"x"}))


def test_a_link_is_refused(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("a/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as file:
        file.writestr(link, "/etc")
    assert "PATH" in _codes(tmp_path / "a.zip")


def test_a_bomb_is_refused_by_its_declared_size(tmp_path: Path) -> None:
    assert "TOO_LARGE" in _codes(_zip(tmp_path / "a.zip", {"a": bytes(32 * 2**20)}))


def test_a_flipped_byte_is_refused(tmp_path: Path) -> None:
    path = _zip(tmp_path / "a.zip", {"a": b"x" * 100}, zipfile.ZIP_STORED)
    data = bytearray(path.read_bytes())
    data[data.index(b"xxxx") + 50] ^= 1
    path.write_bytes(data)
    assert "CORRUPT" in _codes(path)


@pytest.mark.parametrize("part", [0.2, 0.5, 0.95])
def test_a_cut_archive_is_refused(tmp_path: Path, part: float) -> None:
    path = _zip(tmp_path / "a.zip", {"a": b"x" * 1000, "b": b"y"}, zipfile.ZIP_STORED)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    assert "TRUNCATED" in _codes(path)


def test_an_empty_archive_and_names_that_differ_in_case_are_refused(tmp_path: Path) -> None:
    assert "DUPLICATE" in _codes(_zip(tmp_path / "a.zip", {"a": b"", "A": b""}))
    assert {"EMPTY"} <= _codes(_zip(tmp_path / "b.zip", {"folder/": b""}))

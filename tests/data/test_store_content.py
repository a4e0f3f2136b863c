# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Digests of source files: by content, remembered while nothing about a file changed."""

from __future__ import annotations

import os
import shutil
import sqlite3
import time
from pathlib import Path

import pytest

from monai_cluster.data.store_content import ContentIndex, source_paths

SALT = b"s" * 32


def old(path: Path, content: bytes) -> Path:
    """A file that was written a while ago, so that its digest may be remembered."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path


@pytest.fixture
def index(tmp_path: Path) -> ContentIndex:
    return ContentIndex(tmp_path / "content.sqlite", SALT)


def test_the_digest_follows_content_and_suffix_but_not_name_folder_or_time(index: ContentIndex, tmp_path: Path) -> None:
    first = old(tmp_path / "a" / "Doe_John.nii.gz", b"voxels")
    copy = old(tmp_path / "b" / "other.nii.gz", b"voxels")
    os.utime(copy, (1, 1))
    assert index.digest(first) == index.digest(copy)
    assert index.digest(old(tmp_path / "b" / "third.nii.gz", b"voxelS")) != index.digest(first)
    assert index.digest(old(tmp_path / "b" / "third.nii", b"voxels")) != index.digest(first)
    assert ContentIndex(tmp_path / "other.sqlite", b"t" * 32).digest(first) != index.digest(first)


def test_a_remembered_file_is_not_read_again_until_something_about_it_changes(
    index: ContentIndex, tmp_path: Path
) -> None:
    file = old(tmp_path / "a.nii", b"one")
    assert index.known(file) is None
    digest = index.digest(file)
    assert index.known(file) == digest
    status = file.stat()
    file.write_bytes(b"two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # same size and time, but the change time tells
    assert index.known(file) is None
    assert index.digest(file) != digest


def test_a_file_that_was_written_just_now_is_not_remembered(index: ContentIndex, tmp_path: Path) -> None:
    file = tmp_path / "fresh.nii"
    file.write_bytes(b"one")
    digest = index.digest(file)
    assert index.known(file) is None
    assert index.digest(file) == digest


def test_a_folder_counts_with_every_file_in_it(index: ContentIndex, tmp_path: Path) -> None:
    for name in "abc":
        old(tmp_path / "series" / f"{name}.dcm", name.encode())
    digest = index.digest(tmp_path / "series")
    assert index.known(tmp_path / "series") == digest
    shutil.copytree(tmp_path / "series", tmp_path / "copy")
    assert index.digest(tmp_path / "copy") == digest
    (tmp_path / "copy" / "b.dcm").unlink()
    assert index.digest(tmp_path / "copy") != digest
    old(tmp_path / "series" / "d.dcm", b"d")
    assert index.known(tmp_path / "series") is None


@pytest.mark.parametrize(
    ("header", "suffix"), [("ElementDataFile = {}\n", "mhd"), ("data file: {}\n", "nhdr"), ("datafile: {}\n", "nhdr")]
)
def test_a_detached_header_counts_with_its_pixels(
    index: ContentIndex, tmp_path: Path, header: str, suffix: str
) -> None:
    file = old(tmp_path / f"a.{suffix}", header.format("a.raw").encode())
    old(tmp_path / "a.raw", b"one")
    digest = index.digest(file)
    old(tmp_path / "a.raw", b"two")
    assert index.digest(file) != digest
    old(file, header.format("LIST").encode())
    with pytest.raises(ValueError, match="must name one file with its pixels"):
        index.digest(file)


def test_the_index_holds_no_path_and_is_for_its_owner_only(index: ContentIndex, tmp_path: Path) -> None:
    index.digest(old(tmp_path / "Doe_John.nii", b"one"))
    raw = index.path.read_bytes()
    assert b"Doe" not in raw
    assert str(tmp_path).encode() not in raw
    assert index.path.stat().st_mode & 0o077 == 0


def test_a_damaged_index_starts_anew(index: ContentIndex, tmp_path: Path) -> None:
    file = old(tmp_path / "a.nii", b"one")
    digest = index.digest(file)
    index.path.write_bytes(b"no database at all" * 100)
    assert index.known(file) is None
    assert index.digest(file) == digest
    assert index.known(file) == digest


def test_a_busy_index_costs_time_but_not_the_digest(
    index: ContentIndex, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = old(tmp_path / "a.nii", b"one")
    digest = index.digest(file)
    monkeypatch.setattr("monai_cluster.data.store_content.WAIT_S", 0.05)
    blocker = sqlite3.connect(index.path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    assert index.known(file) is None
    assert index.digest(file) == digest
    blocker.close()


def test_paths_are_found_in_rows_and_words_are_not_taken_for_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "CT").mkdir()
    image, label = old(tmp_path / "i.nii", b"i"), old(tmp_path / "l.nii", b"l")
    row = {"image": "i.nii", "label": str(label), "modality": "CT", "both": [image, label], "gone": "/no/where", "n": 3}
    assert source_paths(row) == {"image": [Path("i.nii")], "label": [label], "both": [image, label]}
    assert source_paths({"image": [str(image), "missing.nii"], "empty": [], "text": ""}) == {}

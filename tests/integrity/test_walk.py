# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Every file once: links, circles, folders that cannot be read, and names of all kinds."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from monai_cluster.data import readers
from monai_cluster.integrity.candidates import PICTURE_SUFFIXES, VOLUME_SUFFIXES, sort_files
from monai_cluster.integrity.walk import Walk, entry_of, file_suffix, walk_files


def walked(root: Path, *leave_out: str) -> tuple[list[str], Walk]:
    walk = Walk()
    return [os.path.relpath(one.path, os.path.realpath(root)) for one in walk_files(str(root), walk, leave_out)], walk


def make(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def test_files_come_once_in_the_order_of_their_names(tmp_path: Path) -> None:
    make(tmp_path, "b/2.nii", "b/1.nii", "a.png", "c/d/e.nii.gz")
    assert walked(tmp_path)[0] == ["a.png", "b/1.nii", "b/2.nii", "c/d/e.nii.gz"]


def test_links_never_lead_in_circles_and_no_folder_comes_twice(tmp_path: Path) -> None:
    make(tmp_path, "data/z/1.nii")
    (tmp_path / "data" / "a").symlink_to("z")  # sorts before the folder itself
    (tmp_path / "data" / "z" / "up").symlink_to("..")
    (tmp_path / "data" / "z" / "self").symlink_to("self")
    files, walk = walked(tmp_path / "data")
    assert files == ["z/1.nii", "z/self"]
    assert [one.code for one in walk.findings] == ["LINK"]
    assert "2 links to folders that were walked already" in walk.findings[0].found


def test_links_out_of_the_folder_are_followed_once_and_told(tmp_path: Path) -> None:
    make(tmp_path, "data/1.nii", "elsewhere/2.nii", "elsewhere/3.nii")
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "data" / "file.nii").symlink_to(tmp_path / "elsewhere" / "3.nii")
    walk = Walk()
    found = {os.path.basename(one.path): one for one in walk_files(str(tmp_path / "data"), walk)}
    assert set(found) == {"1.nii", "2.nii", "3.nii", "file.nii"}
    assert found["file.nii"].outside
    assert not found["1.nii"].outside
    assert [one.code for one in walk.findings] == ["PATH"]


def test_hidden_files_are_counted_and_skipped(tmp_path: Path) -> None:
    make(tmp_path, ".git/objects/1.nii", "__MACOSX/a.png", "._a.png", "a.png")
    files, walk = walked(tmp_path)
    assert files == ["a.png"]
    assert walk.skipped == {"hidden": 3}


def test_the_checks_own_folder_is_left_out(tmp_path: Path) -> None:
    make(tmp_path, "a.png", "out/thumbnail.png")
    assert walked(tmp_path, os.path.realpath(tmp_path / "out"))[0] == ["a.png"]


def test_a_folder_that_cannot_be_listed_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a.png", "closed/b.png", "broken/c.png")
    scandir = os.scandir  # rights do not bind the user who runs tests in a container

    def refusing(path: str):
        if os.path.basename(path) in ("closed", "broken"):
            raise PermissionError if os.path.basename(path) == "closed" else OSError(5, "input/output error")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refusing)
    files, walk = walked(tmp_path)
    assert files == ["a.png"]
    assert [(one.code, one.severity) for one in walk.findings] == [("PERMISSION", "reject"), ("UNREADABLE", "reject")]


def test_pipes_broken_links_and_missing_files_have_a_state(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "gone.nii").symlink_to("nothing")
    walk = Walk()
    assert {os.path.basename(one.path): one.state for one in walk_files(str(tmp_path), walk)} == {
        "pipe.nii": "special",
        "gone.nii": "link",
    }
    assert entry_of(str(tmp_path / "missing")).state == "special"
    assert entry_of("null\0character").state == "special"


def test_names_that_are_no_utf8_survive(tmp_path: Path) -> None:
    name = b"caf\xe9\n.nii"
    (Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name)))).write_bytes(b"x")
    assert os.fsencode(walked(tmp_path)[0][0]) == name


@pytest.mark.parametrize(
    ("name", "suffix"), [("a.NII.GZ", ".nii.gz"), ("a.b.nii", ".nii"), ("a", ""), ("x.tar.gz", ".gz"), (".nii", "")]
)
def test_suffixes_are_lower_case_and_double_where_they_are(name: str, suffix: str) -> None:
    assert file_suffix(f"folder.x/{name}") == suffix


def test_the_suffixes_are_those_that_the_readers_know() -> None:
    assert PICTURE_SUFFIXES == readers.PICTURE_SUFFIXES
    assert (*VOLUME_SUFFIXES, *PICTURE_SUFFIXES, ".dcm", ".ima") == readers.READABLE_SUFFIXES


def sorted_names(root: Path, is_derivative=lambda name: False):
    walk = Walk()
    real = os.path.realpath(root)
    return sort_files(walk_files(str(root), walk), real, walk, is_derivative), walk


def test_files_are_sorted_by_name_alone(tmp_path: Path) -> None:
    make(tmp_path, "a.nii", "b.mhd", "b.raw", "lost.raw", "note.txt", "x.Smith", "IM0001", "1.2.840.3", "s.dcm")
    make(tmp_path, "labelsTr/a.nii.gz", "c_seg.nii.gz", "derivatives/d.nii.gz")
    found, walk = sorted_names(tmp_path, lambda name: name.startswith("derivatives"))
    assert sorted(one.name for one in found.images) == ["a.nii", "b.mhd"]
    assert [len(one.entries) for one in sorted(found.images, key=lambda one: one.name)] == [1, 2]
    assert sorted(os.path.basename(one.path) for one in found.labels) == ["a.nii.gz", "c_seg.nii.gz"]
    assert [os.path.basename(one.path) for one in found.dicom[os.path.realpath(tmp_path)]] == [
        "1.2.840.3", "IM0001", "s.dcm",
    ]  # fmt: skip
    assert walk.skipped == {
        "derivative of a BIDS tree": 1, "no image (.txt)": 1, "no image (other suffix)": 1, "no image (.raw)": 1,
    }  # fmt: skip


def test_an_empty_folder_called_like_an_image_is_a_candidate(tmp_path: Path) -> None:
    (tmp_path / "scan.nii.gz").mkdir()
    (tmp_path / "empty").mkdir()
    assert [one.name for one in sorted_names(tmp_path)[0].images] == ["scan.nii.gz"]

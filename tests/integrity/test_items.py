# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Items: the right inspector for what lies at a path, and odd things at a path."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from monai_cluster.integrity.items import inspect_item

from .voxel_files import codes, nifti, phantom, write


@pytest.mark.parametrize(
    "name",
    [
        "plain.nii",
        "UPPER.NII",
        "new\nline.nii",
        "@ $HOME %m #1 = 'x', [y].nii",
        "L" * 243 + ".nii",
        "/".join(["d" * 60] * 12 + ["deep.nii"]),
    ],
)
def test_a_healthy_volume_of_any_name_is_accepted(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    inspection = inspect_item(write(tmp_path / name, nifti(phantom())), "volume")
    assert codes(inspection) == set()
    assert inspection.facts.shape == (12, 14, 10)


def test_a_name_that_is_no_utf8_is_accepted(tmp_path: Path) -> None:
    path = os.fsencode(tmp_path) + b"/caf\xe9_\xff.nii"
    with open(path, "wb") as file:
        file.write(nifti(phantom()))
    assert codes(inspect_item(os.fsdecode(path))) == set()


def test_pictures_are_dispatched_by_suffix(tmp_path: Path) -> None:
    Image.fromarray(phantom((32, 40)).astype("u1")).save(tmp_path / "a.png")
    inspection = inspect_item(tmp_path / "a.png")
    assert inspection.facts.kind == "image"
    assert inspection.facts.shape == (32, 40)


def test_odd_things_at_a_path_are_named(tmp_path: Path) -> None:
    (tmp_path / "folder.nii.gz").mkdir()
    os.mkfifo(tmp_path / "pipe.nii")
    (tmp_path / "zero.nii").symlink_to("/dev/zero")
    (tmp_path / "loop.nii").symlink_to("loop.nii")
    write(tmp_path / "empty.nii", b"")
    expected = {
        "folder.nii.gz": "NOT_A_FILE",
        "pipe.nii": "NOT_A_FILE",
        "zero.nii": "NOT_A_FILE",
        "loop.nii": "LINK",
        "gone.nii": "MISSING",
        "empty.nii": "EMPTY",
        "nul\0.nii": "PATH",
    }
    found = {name: codes(inspect_item(f"{tmp_path}/{name}")) for name in expected}
    assert found == {name: {("reject", code)} for name, code in expected.items()}


def test_an_unknown_suffix_is_refused_by_its_content(tmp_path: Path) -> None:
    write(tmp_path / "image.data", nifti(phantom()))
    write(tmp_path / "notes.txt", b"some text that is no image")
    assert codes(inspect_item(tmp_path / "image.data")) == {("reject", "CONTAINER")}
    assert codes(inspect_item(tmp_path / "notes.txt")) == {("reject", "NOT_AN_IMAGE")}


def test_a_folder_without_a_series_is_refused(tmp_path: Path) -> None:
    assert inspect_item(tmp_path).verdict == "reject"

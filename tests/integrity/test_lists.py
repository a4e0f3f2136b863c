# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Datalists: malformed rows, paths that leave the root, leaks between splits, and boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_cluster.integrity.lists import inspect_datalist

from .voxel_files import codes, nifti, phantom, write


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four volumes of 12 × 14 × 10 voxels and their labels."""
    folder = tmp_path / "root"
    folder.mkdir()
    for number in range(4):
        write(folder / f"img{number}.nii", nifti(phantom(seed=number)))
        write(folder / f"lab{number}.nii", nifti((phantom(seed=number) > 0).astype("u1")))
    return folder


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"image": f"img{number}.nii", **more}


def listed(root: Path, content: Any, task: Any = None) -> set[tuple[str, str]]:
    path = root.parent / "list.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return codes(inspect_datalist(path, root, task))


@pytest.mark.parametrize(
    "content",
    [
        {"training": [row(0, label="lab0.nii"), row(1)], "validation": [row(2)], "test": ["img3.nii"]},
        {"images": [], "volumes": ["img0.nii", row(1)]},
        {"training": {"volumes": [row(0)]}, "validation": {"volumes": [row(1)]}},
        {"training": [row(0, label=1, subject="a"), row(1, label=[0, 1], subject="a")], "labels": {"0": "healthy"}},
        {"training": [row(0, frame=0), row(0, frame=1)]},
        {"training": [row(0), row(1)], "few_1_subjects": [row(0)]},
        {"training": [{"image": ["img0.nii", "img1.nii"], "class": "DCM"}]},
    ],
)
def test_the_forms_of_the_loader_are_accepted(root: Path, content: Any) -> None:
    assert listed(root, content) == set()


@pytest.mark.parametrize(
    ("content", "code", "severity"),
    [
        (b'{"training": [{"image": "im', "JSON", "reject"),
        (b'{"training": ["img0.nii"], "training": ["img1.nii"]}', "JSON", "reject"),
        (b'{"training": [{"image": "img0.nii", "age": NaN}]}', "JSON", "reject"),
        ({"train": [row(0)]}, "KEY", "reject"),
        ({"training": [{"img": "img0.nii"}]}, "KEY", "reject"),
        ([row(0)], "KEY", "warn"),
        ({"training": [row(0)], "valid": [row(1)]}, "KEY", "warn"),
        ({"training": []}, "EMPTY", "reject"),
        ({"training": 3}, "TYPE", "reject"),
        ("text", "TYPE", "reject"),
        ({"training": [{"image": 12}]}, "TYPE", "reject"),
        ({"training": [{"image": ["img0.nii", None]}]}, "TYPE", "reject"),
        ({"training": {"images": "array_of_a_file"}}, "TYPE", "reject"),
        ({"training": ["../outside.nii"]}, "PATH", "reject"),
        ({"training": ["/etc/hostname"]}, "PATH", "warn"),
        ({"training": ["img0.nii\0.png"]}, "PATH", "reject"),
        ({"training": ["img9.nii"]}, "MISSING", "reject"),
        ({"training": [row(0, label="lab9.nii")]}, "MISSING", "reject"),
        ({"training": [row(0), row(0)]}, "DUPLICATE", "reject"),
        ({"training": [row(0)], "validation": [row(0)]}, "LEAK", "reject"),
        ({"training": [row(0)], "test": [{"image": "./img0.nii"}]}, "LEAK", "reject"),
        ({"training": [row(0, patient="p")], "test": [row(1, subject="p")]}, "LEAK", "reject"),
    ],
)
def test_a_broken_rule_is_found(root: Path, content: Any, code: str, severity: str) -> None:
    write(root.parent / "outside.nii", nifti(phantom(seed=9)))
    assert (severity, code) in listed(root, content)


def test_a_link_out_of_the_root_is_warned_about(root: Path) -> None:
    write(root.parent / "outside.nii", nifti(phantom(seed=9)))
    (root / "link.nii").symlink_to("../outside.nii")
    assert listed(root, {"training": ["link.nii"]}) == {("warn", "PATH")}


def test_a_copy_under_another_name_is_a_leak_between_splits_and_a_duplicate_within_one(root: Path) -> None:
    write(root / "copy.nii", (root / "img0.nii").read_bytes())
    assert listed(root, {"training": [row(0)], "test": ["copy.nii"]}) == {("reject", "LEAK")}
    assert listed(root, {"training": [row(0), "copy.nii"]}) == {("warn", "DUPLICATE")}


@pytest.mark.parametrize(
    ("box", "label"),
    [
        ([[5, 5, 5, 2, 9, 9]], [0]),
        ([[0, 0, 0, 900, 4, 4]], [0]),
        ([[-9, 0, 0, 4, 4, 4]], [0]),
        ([[float("nan"), 0, 0, 4, 4, 4]], [0]),
        ([[0, 0, 0, 4, 4, 4]], [0, 1]),
        ([[0, 0, 0, 4, 4, 4]], 0),
        ([[0, 0, 4]], [0]),
        ([["a", 0, 0, 4, 4, 4]], [0]),
        ("text", [0]),
    ],
)
def test_a_wrong_box_is_refused(root: Path, box: Any, label: Any) -> None:
    assert ("reject", "BOX") in listed(root, {"training": [row(0, box=box, label=label)]}, "detection")


@pytest.mark.parametrize("label", [{"label": [0]}, {"box_label": [0], "label": "lab0.nii"}])
def test_a_box_that_fills_its_image_is_accepted(root: Path, label: dict[str, Any]) -> None:
    healthy = row(1, box=[], box_label=[])
    content = {"training": [row(0, box=[[0, 0, 0, 12, 14, 10]], **label), healthy]}
    assert listed(root, content, "detection") == set()


@pytest.mark.parametrize("task", ["segmentation", "classification", "detection"])
def test_a_missing_key_of_the_task_is_refused(root: Path, task: Any) -> None:
    assert ("reject", "KEY") in listed(root, {"training": [row(0, other=1)]}, task)


def test_a_table_is_read_as_the_loader_reads_it(root: Path) -> None:
    path = root / "list.csv"
    path.write_text("image,split,subject\nimg0.nii,training,a\nimg1.nii,validation,b\n")
    assert codes(inspect_datalist(path)) == set()
    path.write_text("image,split,subject\nimg0.nii,training,a\nimg1.nii,validation,a\n")
    assert codes(inspect_datalist(path)) == {("reject", "LEAK")}
    path.write_text("imag,split\nimg0.nii,training\n")
    assert codes(inspect_datalist(path)) == {("reject", "KEY")}


def test_no_finding_quotes_the_list(root: Path) -> None:
    path = root / "list.json"
    secret = "DOE_JANE_4711"
    path.write_text(json.dumps({"training": [{"image": f"{secret}.nii"}, {secret: 1}, {"image": {secret: 1}}]}))
    findings = inspect_datalist(path).findings
    assert len(findings) == 3
    assert not any(secret in str(one) for one in findings)


@pytest.mark.shared_data
def test_real_lists_are_not_refused(shared_data: Path) -> None:
    lists = sorted(shared_data.glob("*/datalist*.json"))
    refused = [path.parent.name for path in lists if inspect_datalist(path, read_items=False).verdict == "reject"]
    assert lists
    assert not refused

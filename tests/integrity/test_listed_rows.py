# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Rows of lists become candidates, and rows that cannot be used become candidates with a finding."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_cluster.integrity.findings import Inspection
from monai_cluster.integrity.item_boxes import check_item_boxes
from monai_cluster.integrity.listed_rows import Listing, read_listing


def listing(folder: Path, content: object) -> Listing:
    path = folder / "list.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_listing(str(path))


def test_splits_patients_labels_and_further_files_are_taken(tmp_path: Path) -> None:
    (tmp_path / "other.txt").write_text("x")
    row = {"image": ["a.nii", "b.nii"], "label": "l.nii.gz", "subject": 12, "box": [[1, 2, 3, 4]], "note": "other.txt"}
    found = listing(
        tmp_path, {"training": [row], "test": ["c.png", {"image": "d.png", "label": 3}], "labels": {"0": "x"}}
    )
    first, plain, labelled = found.candidates
    assert first.images == (str(tmp_path / "a.nii"), str(tmp_path / "b.nii")) == first.listed
    assert (first.label, first.subject, first.subject_source) == (str(tmp_path / "l.nii.gz"), "12", "column")
    assert first.columns == {"box": [[1, 2, 3, 4]]}
    assert first.paths == {"note": str(tmp_path / "other.txt")}
    assert len(first.entries) == 3
    assert (plain.name, plain.split, plain.subject) == ("c.png", "test", None)
    assert (labelled.label, labelled.columns) == (None, {"label": 3})
    assert found.has_splits
    assert found.entries == {"labels": {"0": "x"}}


def test_lists_without_splits_say_so(tmp_path: Path) -> None:
    assert not listing(tmp_path, ["a.png"]).has_splits
    kinds = listing(tmp_path, {"images": ["a.png"], "volumes": [{"image": "b.nii"}]})
    assert not kinds.has_splits
    assert [(one.name, one.kind) for one in kinds.candidates] == [("a.png", "image"), ("b.nii", "volume")]
    (tmp_path / "list.csv").write_text("image,patient,label\na.png,7,1\nb.png,,0\n")
    table = read_listing(str(tmp_path / "list.csv"))
    assert [(one.subject, one.columns) for one in table.candidates] == [("7", {"label": "1"}), (None, {"label": "0"})]
    assert not table.has_splits
    (tmp_path / "list.csv").write_text("image,split\na.png,test\nb.png,\n")
    assert [one.split for one in read_listing(str(tmp_path / "list.csv")).candidates] == ["test", "training"]


def test_a_list_that_repeats_rows_of_a_split_is_a_subset(tmp_path: Path) -> None:
    found = listing(tmp_path, {"training": ["a.png", "b.png"], "few": ["b.png"], "more": ["b.png", "c.png"]})
    assert found.subsets == {"few": ["b.png"]}
    assert [(one.name, one.split) for one in found.candidates] == [
        ("a.png", "training"), ("b.png", "training"), ("b.png#2", "more"), ("c.png", "more"),
    ]  # fmt: skip


def test_a_folder_of_slices_is_a_series_and_a_folder_called_like_a_file_is_not(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"x")
    (tmp_path / "series" / ".hidden").write_bytes(b"x")
    (tmp_path / "a.nii.gz").mkdir()
    series, file = listing(tmp_path, ["series", "a.nii.gz"]).candidates
    assert (series.series, len(series.entries), series.listed) == (True, 1, str(tmp_path / "series"))
    assert (file.series, file.entries[0].state) == (False, "special")


@pytest.mark.parametrize(
    ("row", "code"),
    [({"label": 1}, "KEY"), ({"image": 5}, "TYPE"), ({"image": []}, "TYPE"), (["a"], "KEY"), ("a\0.png", "PATH")],
)
def test_a_row_that_cannot_be_used_is_a_candidate_with_a_finding(tmp_path: Path, row: object, code: str) -> None:
    (bad,) = [one for one in listing(tmp_path, {"training": ["a.png", row]}).candidates if one.findings]
    assert [(one.code, one.severity) for one in bad.findings] == [(code, "reject")]


@pytest.mark.parametrize("content", ["{", "[1", '"text"', "[" * 100_000, "\udcff"])
def test_what_is_no_list_is_a_finding_of_the_list(tmp_path: Path, content: str) -> None:
    (tmp_path / "list.json").write_text(content, errors="surrogateescape")
    found = read_listing(str(tmp_path / "list.json"))
    assert [(one.code, one.severity) for one in found.findings] == [("JSON", "reject")]
    assert found.candidates == []


def judged(
    boxes: object, labels: object = None, shape: tuple[int, ...] | None = (40, 60), affine: object = None
) -> str:
    inspection = Inspection()
    inspection.facts.shape, inspection.facts.affine = shape, affine
    check_item_boxes(boxes, labels, inspection)
    return inspection.findings[0].found if inspection.findings else ""


def test_boxes_fit_their_image_and_their_labels() -> None:
    identity = ((1, 0, 0, 0), (0, 1, 0, 0), (0, 0, 1, 0), (0, 0, 0, 1))
    assert judged([[0, 0, 60, 40], [-0.5, 3, 9, 40.5]], [0, 1]) == ""  # columns first in pictures
    assert judged([[0, 0, 0, 5, 6, 7]], [0], (5, 6, 7), identity) == ""
    assert judged([[0, 0, 40, 60]], None, (40, 60), identity) == ""  # files of voxels are as stored
    assert judged([], []) == ""
    assert judged([[1, 2, 3, 4]], None, None) == ""
    assert "outside" in judged([[0, 0, 40, 60]])
    assert "outside" in judged([[-5, 0, 4, 6]])
    assert "axes" in judged([[0, 0, 0, 1, 1, 1]])
    assert "order" in judged([[5, 5, 2, 9]])
    assert "finite" in judged([[float("nan"), 0, 1, 1]])
    assert "numbers" in judged([[True, 0, 1, 1]])
    assert "4 or 6" in judged([[1, 2, 3]])
    assert "4 or 6" in judged({"x": 1})
    assert "1 boxes and 2 labels" in judged([[0, 0, 1, 1]], [0, 1])
    assert "no list" in judged([[0, 0, 1, 1]], 3)

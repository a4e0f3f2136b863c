# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Lists and folders to rows with stable global indices."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from monai_cluster.data import load_datalist

from .dicom_files import write_series, write_slice


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """v0, v1 (NIfTI volumes), flat (2D NIfTI), p0, p1 (PNG)."""
    for name, shape in (("v0", (4, 5, 6)), ("v1", (4, 5, 6)), ("flat", (4, 5, 1))):
        nib.save(nib.Nifti1Image(np.ones(shape, np.float32), np.eye(4)), tmp_path / f"{name}.nii.gz")
    for name in ("p0", "p1"):
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def write(folder: Path, content: Any, name: str = "list.json") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [Path(row["image"]).name.split(".")[0] for row in rows]


def test_volumes_are_numbered_first_then_images_each_in_the_order_of_the_list(files: Path) -> None:
    rows = ["p1.png", {"image": "v1.nii.gz", "modality": "MR"}, "flat.nii.gz", {"image": "v0.nii.gz"}, "p0.png"]
    found = load_datalist(write(files, {"training": rows}))
    assert names(found.volumes) == ["v1", "v0"]
    assert names(found.images) == ["p1", "flat", "p0"]
    assert [row["sample_index"] for row in found.rows] == [0, 1, 2, 3, 4]
    assert [row["kind"] for row in found.rows] == ["volume"] * 2 + ["image"] * 3
    assert found.volumes[0]["modality"] == "MR"
    assert found.names == ["v1.nii.gz", "v0.nii.gz", "p1.png", "flat.nii.gz", "p0.png"]
    assert all(Path(row["image"]).is_absolute() for row in found.rows)
    assert len(found) == 5


def test_images_and_volumes_may_stand_in_lists_of_their_own_at_the_top_or_in_a_split(files: Path) -> None:
    content = {"images": ["p0.png"], "volumes": [{"image": "v0.nii.gz", "site": "a"}]}
    for shape, split in ((content, "training"), ({"test": content}, "test")):
        found = load_datalist(write(files, shape), split=split)
        assert names(found.images) == ["p0"]
        assert found.volumes[0]["site"] == "a"


def test_a_plain_json_list_and_a_csv_with_splits_are_read(files: Path) -> None:
    assert len(load_datalist(write(files, ["p0.png", "v0.nii.gz"]))) == 2
    table = "image,modality,split,label\np0.png,XR,training,a\nv0.nii.gz,,validation,b\np1.png,CR,training,\n"
    found = load_datalist(write(files, table, "list.csv"))
    assert names(found.images) == ["p0", "p1"]
    assert found.images[0]["label"] == "a"
    assert "label" not in found.images[1]
    assert names(load_datalist(files / "list.csv", split="validation").volumes) == ["v0"]


def test_a_base_folder_and_several_sources_are_joined_in_order(files: Path, tmp_path: Path) -> None:
    other = tmp_path / "lists"
    other.mkdir()
    first = write(other, {"training": ["p1.png"]}, "a.json")
    second = write(other, {"training": ["p0.png", "v1.nii.gz"]}, "b.json")
    found = load_datalist([first, second], base_dir=files)
    assert found.names == ["v1.nii.gz", "p1.png", "p0.png"]


def test_a_list_of_files_is_one_sample_of_several_channels(files: Path) -> None:
    found = load_datalist(write(files, {"training": [{"image": ["v0.nii.gz", "v1.nii.gz"]}]}))
    assert [Path(path).name for path in found.volumes[0]["image"]] == ["v0.nii.gz", "v1.nii.gz"]
    assert found.names == ["v0.nii.gz|v1.nii.gz"]


def test_a_folder_is_searched_and_what_is_ignored_is_counted(files: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_series(files / "scan", [0.0, 3.0, 6.0])
    write_slice(files / "scan" / "seg.dcm", np.zeros((6, 8)), "1.2.9", None, Modality="SEG")
    (files / "xray").mkdir()
    for k in range(2):
        write_slice(files / "xray" / f"{k}.dcm", np.zeros((6, 8)), f"1.2.{k}", None, Modality="DX")
    (files / "labelsTr").mkdir()
    shutil.copy(files / "v0.nii.gz", files / "labelsTr")
    (files / "notes.txt").write_text("x")
    (files / ".hidden.png").write_text("x")
    with caplog.at_level(logging.INFO):
        found = load_datalist(files)
    assert found.names == [
        "scan",
        "v0.nii.gz",
        "v1.nii.gz",
        "flat.nii.gz",
        "p0.png",
        "p1.png",
        "xray/0.dcm",
        "xray/1.dcm",
    ]
    assert [row["kind"] for row in found.rows] == ["volume"] * 3 + ["image"] * 5
    assert sorted(found.ignored) == [".hidden.png", "labelsTr/v0.nii.gz", "notes.txt", "scan/seg.dcm"]
    assert "ignored 4 files that are no images" in caplog.text
    assert "found 3 volumes and 5 images" in caplog.text


def test_the_digest_follows_the_data_and_not_its_place_or_order(
    files: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first = load_datalist(write(files, {"training": ["p0.png", "v0.nii.gz"]})).digest()
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    for name in ("p0.png", "v0.nii.gz"):
        shutil.copy(files / name, elsewhere)
    assert load_datalist(write(elsewhere, {"training": ["v0.nii.gz", "p0.png"]})).digest() == first
    with (elsewhere / "p0.png").open("ab") as file:
        file.write(b"x")
    assert load_datalist(elsewhere / "list.json").digest() != first
    assert load_datalist(write(files, {"training": ["p1.png", "v0.nii.gz"]})).digest() != first


def test_missing_files_are_counted_and_the_first_few_named(files: Path) -> None:
    rows = ["p0.png", *(f"gone{i}.png" for i in range(8))]
    with pytest.raises(FileNotFoundError, match="8 files of the datalist do not exist, the first") as caught:
        load_datalist(write(files, {"training": rows}))
    assert "gone4.png" in str(caught.value)
    assert "gone5.png" not in str(caught.value)


def test_the_same_sample_twice_is_refused_but_frames_of_one_file_are_not(files: Path) -> None:
    with pytest.raises(ValueError, match=r"listed once, got \./p0\.png twice|listed once, got p0\.png twice"):
        load_datalist(write(files, {"training": ["p0.png", "./p0.png"]}))
    frames = [{"image": "v0.nii.gz", "frame": frame} for frame in range(2)]
    assert len(load_datalist(write(files, {"training": frames}))) == 2


def test_an_unknown_split_names_the_splits_and_the_likely_one(files: Path) -> None:
    content = {"training": ["p0.png"], "validation": ["p1.png"]}
    with pytest.raises(ValueError, match=r"it has training, validation; did you mean 'validation'?"):
        load_datalist(write(files, content), split="validatoin")
    with pytest.raises(ValueError, match="has no split 'test'; it has training"):
        load_datalist(write(files, "image,split\np0.png,training\n", "l.csv"), split="test")


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ({"training": [{"path": "p0.png"}]}, "l.json", "every row needs 'image'.*l.json row 0"),
        ({"training": [{"image": "p0.png", "kind": "scan"}]}, "l.json", "kind must be 'image' or 'volume', got 'scan'"),
        ({"training": ["l.json"]}, "l.json", "files must end in one of"),
        ({"training": []}, "l.json", "no image or volume found"),
        ("{", "l.json", "not valid JSON"),
        ("3", "l.json", "must hold an object or a list"),
        ("path\np0.png\n", "l.csv", "needs a column 'image', it has path"),
        ("x", "l.txt", "must be .json, .csv or a folder"),
        ({"training": {"n": 3}}, "l.json", "has no split 'training'; it has none"),
    ],
)
def test_malformed_lists_are_refused_with_the_fix(files: Path, content: Any, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_datalist(write(files, content, name))


def test_other_faults_are_refused_with_the_fix(files: Path) -> None:
    with pytest.raises(FileNotFoundError, match="existing JSON or CSV file or a folder"):
        load_datalist(files / "nothing.json")
    with pytest.raises(ValueError, match=r"every row needs the column 'label', 1 lack it.*did you mean 'labels'"):
        load_datalist(write(files, {"training": [{"image": "p0.png", "labels": 1}]}), require=("label",))
    (files / "broken.nii.gz").write_bytes(b"no header")
    with pytest.raises(ValueError, match=r"the header of broken\.nii\.gz cannot be read"):
        load_datalist(write(files, {"training": ["broken.nii.gz"]}))
    write_slice(files / "seg.dcm", np.zeros((6, 8)), "1.2.9", None, Modality="SEG")
    with pytest.raises(ValueError, match=r"seg\.dcm is no DICOM image"):
        load_datalist(write(files, {"training": ["seg.dcm"]}))


@pytest.mark.shared_data
def test_the_real_lists_give_the_numbers_their_readme_says(shared_data: Path) -> None:
    lists = ["unlabeled_images", "unlabeled_volumes", "dicom_ct_lidc0314", "brats2013_mini"]
    found = load_datalist([shared_data / name / "datalist.json" for name in lists])
    assert len(found.images) == 204
    assert len(found.volumes) == 13 + 1 + 2
    assert [row["sample_index"] for row in found.rows] == list(range(220))
    assert len(load_datalist(shared_data / "unlabeled_volumes").volumes) == 15
    assert names(load_datalist(shared_data / "dicom_pet_seg_qin").volumes) == ["PET", "label", "pet_bqml"]

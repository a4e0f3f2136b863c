# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From a folder to a datalist that can be trusted: every file accounted for, nobody named, no patient on two sides."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import monai_cluster.apps
from monai_cluster.apps import check
from monai_cluster.apps.check_settings import CheckResult, CheckSettings
from monai_cluster.apps.checking import run_check
from monai_cluster.cli import main
from monai_cluster.data import load_datalist
from monai_cluster.integrity import Limits
from tests.integrity.dicom_phantoms import save, slice_dataset

PLANTED = ("MEIER^JOHANNA", "MRN0815477", "Meier_Johanna_19500101")


def volume(path: Path, seed: int, shape: tuple[int, int, int] = (12, 10, 8), kind: type = np.int16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 1000, shape).astype(kind)
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


def labels(path: Path, seed: int, shape: tuple[int, int, int] = (12, 10, 8)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.0, 2.0, 1.0])), path)
    return path


def picture(path: Path, seed: int, size: int = 24) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(path)
    return path


def write_series(folder: Path, series: str, **header: Any) -> None:
    for index in range(8):
        one = slice_dataset(index, series=series, **header)
        values = np.frombuffer(one.PixelData, dtype="<i2")
        noise = np.random.default_rng(int(series) * 100 + index).integers(0, 500, len(values))
        one.PixelData = (values + noise).astype("<i2").tobytes()
        save(one, folder / f"{series}_{index}.dcm")


def checked(source: Path, out: Path, **settings: Any) -> tuple[CheckResult, dict[str, Any]]:
    result = check(str(source), str(out), num_workers=2, **settings)
    report = json.loads((out / "report.json").read_text())
    counts = result.counts
    assert sum(counts.items.values()) == len(report["items"])
    assert counts.files["found"] == sum(counts.files[one] for one in ("accepted", "warned", "rejected", "skipped"))
    return result, report


def rows_of(out: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        name: rows for name, rows in json.loads((out / "datalist.json").read_text()).items() if isinstance(rows, list)
    }


def every_row(out: Path) -> list[dict[str, Any]]:
    return [row for rows in rows_of(out).values() for row in rows]


def codes_by_path(source: Path, out: Path, report: dict[str, Any]) -> dict[str, list[str]]:
    with (out / "items.csv").open(newline="") as file:
        paths = {
            row["id"]: os.path.relpath(row["path"].split("|")[0], source.resolve()) for row in csv.DictReader(file)
        }
    return {paths[one["id"]]: one["codes"] for one in report["items"]}


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def damage(path: Path) -> None:
    data = bytearray(gzip.decompress(path.read_bytes()))
    data[40:48] = b"\xff" * 8
    path.write_bytes(gzip.compress(bytes(data)))


DAMAGES: list[Callable[[Path], Any]] = [
    cut,
    damage,
    lambda path: path.write_bytes(b""),
    lambda path: path.write_bytes(b"<!doctype html>" + bytes(2000)),
    lambda path: path.write_bytes(path.read_bytes() + b"x" * 50),
]


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("healthy")
    for number in range(200):
        volume(folder / f"{number:03d}.nii.gz", number)
    return folder


def test_k_of_200_corrupt_files_are_rejected_and_every_file_is_accounted_for(healthy: Path, tmp_path: Path) -> None:
    """One folder that gets worse: each check reads what changed and nothing else."""
    source, out, before = healthy, tmp_path / "out", 0
    for k in (0, 1, 7, 50, 200):
        for number in range(before, k):
            DAMAGES[number % len(DAMAGES)](source / f"{number:03d}.nii.gz")
        result, report = checked(source, out)
        assert result.counts.items == {"accepted": 200 - k, "warned": 0, "rejected": k}
        assert result.counts.files["found"] == 200
        assert result.exit_code == (3 if k else 0)
        assert result.tally.inspected == (200 if k == 0 else k - before)
        assert len(json.loads((out / "quarantine.json").read_text())["items"]) == k
        assert sum(map(len, rows_of(out).values())) == 200 - k
        rejected = {name for name, codes in codes_by_path(source, out, report).items() if codes}
        assert rejected == {f"{number:03d}.nii.gz" for number in range(k)}
        before = k


def test_the_datalist_loads_with_labels_splits_and_salted_patients(tmp_path: Path) -> None:
    source, out = tmp_path / "data", tmp_path / "deep" / "out"
    for patient in range(10):
        for scan in range(2):
            name = f"P{patient:02d}_{scan}.nii.gz"
            volume(source / "imagesTr" / name, 10 * patient + scan)
            labels(source / "labelsTr" / name, patient)
    result, report = checked(source, out, subject_pattern=r"(P\d+)_", fractions=(0.6, 0.2, 0.2), num_classes=3)
    assert result.exit_code == 0, result.counts
    assert [one for one in report["list"] if one["severity"] == "reject"] == []
    assert {name: counts["patients"] for name, counts in result.counts.splits.items()} == {
        "training": 6, "validation": 2, "test": 2,
    }  # fmt: skip
    subjects: dict[str, set[str]] = {}
    for split, rows in rows_of(out).items():
        loaded = load_datalist(out / "datalist.json", split=split, require=("label", "subject"), paths=("label",))
        assert len(loaded.volumes) == len(rows)
        for row in loaded.volumes:
            assert Path(row["label"]).name == Path(row["image"]).name
            assert row["shape"] == [12, 10, 8]
            assert row["spacing"] == [1.0, 1.0, 2.0]
            assert re.fullmatch(r"[0-9a-f]{32}", row["content_hash"])
            subjects.setdefault(row["subject"], set()).add(split)
    assert len(subjects) == 10
    assert all(len(splits) == 1 for splits in subjects.values())
    assert result.counts.files == {"accepted": 40, "warned": 0, "rejected": 0, "skipped": 0, "found": 40}


def test_only_two_files_hold_paths_or_what_stands_in_headers_and_only_the_owner_may_read(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "MEIER^JOHANNA", tmp_path / "out"
    image = nib.Nifti1Image(np.random.default_rng(0).integers(0, 99, (12, 10, 8)).astype(np.int16), np.eye(4))
    image.header["descrip"] = b"MEIER^JOHANNA MRN0815477"
    (source / "Meier_Johanna_19500101").mkdir(parents=True)
    nib.save(image, source / "Meier_Johanna_19500101" / "scan.nii.gz")
    volume(source / "MRN0815477.nii.gz", 1)
    cut(volume(source / "MRN0815477_cut.nii.gz", 2))
    (source / "Meier_Johanna_19500101.Meier_Johanna_19500101").write_text("a note")
    write_series(source / "series", "1", PatientID="MRN0815477", PatientName="MEIER^JOHANNA")
    result, _ = checked(source, out, link_series=True)
    assert result.exit_code == 3
    said = "".join(capfd.readouterr())
    for file in sorted(out.rglob("*")):
        if file.name not in ("datalist.json", "items.csv") and file.is_file():
            text = file.read_bytes().decode("latin-1")
            assert [one for one in PLANTED if one in text] == [], file.name
    assert [one for one in PLANTED if one in said + result.summary] == []
    assert "MRN0815477" in (out / "items.csv").read_text()
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    assert {stat.S_IMODE(one.stat().st_mode) for one in out.iterdir()} == {0o600}


def test_the_page_loads_nothing_and_runs_nothing_and_thumbnails_can_be_left_out(tmp_path: Path) -> None:
    source = tmp_path / "data"
    for number in range(12):
        volume(source / f"{number}.nii.gz", number)
    cut(source / "3.nii.gz")
    checked(source, tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert re.findall(r"https?://|<script|<link|<iframe|@import|url\(|javascript:", page) == []
    assert page.count('<img class="" alt="middle slice') == 11
    assert page.count('class="wide" alt="distributions"') == 1
    assert "TRUNCATED" in page
    checked(source, tmp_path / "out", contact_sheet=False)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "middle slice" not in page
    assert len(re.findall("<img", page)) == 1


def test_a_copy_keeps_one_and_a_look_alike_is_warned_about(tmp_path: Path) -> None:
    source = tmp_path / "data"
    (source / "x").mkdir(parents=True)
    for number in range(4):
        blocks = np.random.default_rng(number).integers(0, 256, (8, 8), dtype=np.uint8)
        Image.fromarray(np.kron(blocks, np.ones((6, 6), dtype=np.uint8))).save(source / f"{number}.png")
    Image.open(source / "0.png").save(source / "x" / "copy.bmp")
    Image.fromarray(np.asarray(Image.open(source / "1.png")) // 8 * 8).save(source / "x" / "alike.png")
    _, report = checked(source, tmp_path / "out")
    codes = codes_by_path(source, tmp_path / "out", report)
    found = {name: one for name, one in codes.items() if one}
    assert found == {"1.png": ["DUPLICATE"], "x/alike.png": ["DUPLICATE"], "x/copy.bmp": ["DUPLICATE"]}
    verdicts = {one["id"]: one["verdict"] for one in report["items"]}
    assert sorted(verdicts.values()) == ["accept", "accept", "accept", "reject", "warn", "warn"]
    result, _ = checked(source, tmp_path / "out", duplicates="warn")
    assert result.exit_code == 0
    assert result.tally.inspected == 0


def listed(folder: Path, content: dict[str, Any]) -> Path:
    (folder / "list.json").write_text(json.dumps(content))
    return folder / "list.json"


def test_a_lists_splits_are_kept_and_leaks_between_them_are_rejected(tmp_path: Path) -> None:
    for number in range(5):
        volume(tmp_path / f"{number}.nii.gz", number)
    (tmp_path / "copy.nii.gz").write_bytes((tmp_path / "4.nii.gz").read_bytes())
    rows = [{"image": f"{number}.nii.gz", "subject": f"patient {number}"} for number in range(5)]
    rows[1]["subject"] = "patient 3"
    content = {
        "training": [*rows[:3], {"image": "copy.nii.gz", "subject": "somebody"}],
        "test": rows[3:],
        "labels": {"0": "background"},
    }
    source = listed(tmp_path, content)
    result, report = checked(source, tmp_path / "out")
    assert result.exit_code == 3
    assert result.list_rejected
    codes = codes_by_path(tmp_path, tmp_path / "out", report)
    assert {name: one for name, one in codes.items() if one} == {"1.nii.gz": ["LEAK"], "copy.nii.gz": ["LEAK"]}
    kept = {name: [Path(row["image"]).name for row in rows] for name, rows in rows_of(tmp_path / "out").items()}
    assert kept == {"training": ["0.nii.gz", "2.nii.gz"], "validation": [], "test": ["3.nii.gz", "4.nii.gz"]}
    assert json.loads((tmp_path / "out" / "datalist.json").read_text())["labels"] == {"0": "background"}
    assert checked(source, tmp_path / "out", leaks="warn")[0].exit_code == 0


def test_bad_rows_cost_themselves_and_classes_boxes_and_subsets_are_kept(tmp_path: Path) -> None:
    for number in range(4):
        picture(tmp_path / f"{number}.png", number)
    rows: list[Any] = [{"image": f"{number}.png", "label": number % 2, "subject": str(number)} for number in range(4)]
    rows[1] |= {"box": [[1, 2, 3, 4]], "box_label": [0]}
    rows[2] |= {"box": [[1, 2, 300, 4]], "box_label": [0]}
    content = {"training": [*rows, {"label": 1}, {"image": "gone.png"}], "few": [rows[0], rows[2]]}
    result, report = checked(listed(tmp_path, content), tmp_path / "out")
    assert result.counts.items == {"accepted": 3, "warned": 0, "rejected": 3}
    assert sorted(code for one in report["items"] for code in one["codes"]) == ["BOX", "KEY", "MISSING"]
    found = rows_of(tmp_path / "out")
    assert [row["label"] for row in found["training"]] == [0, 1, 1]
    assert found["training"][1]["box"] == [[1, 2, 3, 4]]
    assert [Path(row["image"]).name for row in found["few"]] == ["0.png"]


def test_a_leak_into_another_checked_list_is_found_with_a_shared_salt_only(tmp_path: Path) -> None:
    for number in range(6):
        volume(tmp_path / "a" / f"{number}.nii.gz", number)
        volume(tmp_path / "b" / f"other{number}.nii.gz", number + 4)
    checked(tmp_path / "a", tmp_path / "out_a")
    result, report = checked(tmp_path / "b", tmp_path / "out_b", against=str(tmp_path / "out_a"))
    assert result.exit_code == 3
    codes = codes_by_path(tmp_path / "b", tmp_path / "out_b", report)
    assert {name for name, one in codes.items() if one == ["LEAK"]} == {"other0.nii.gz", "other1.nii.gz"}
    checked(tmp_path / "b", tmp_path / "out_c")
    with pytest.raises(ValueError, match="another salt"):
        check(str(tmp_path / "b"), str(tmp_path / "out_d"), against=str(tmp_path / "out_c" / "datalist.json"))
    with pytest.raises(ValueError, match="has a salt of its own already"):
        check(str(tmp_path / "b"), str(tmp_path / "out_c"), salt_from=str(tmp_path / "out_a"))
    checked(tmp_path / "b", tmp_path / "out_e", salt_from=str(tmp_path / "out_a"), leaks="warn")
    hashes = [{row["content_hash"] for row in every_row(tmp_path / out)} for out in ("out_a", "out_e")]
    assert len(hashes[0] & hashes[1]) == 2


def test_against_must_be_a_check(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "a.png", 0)
    (tmp_path / "plain.json").write_text('{"training": [{"image": "a.png"}]}')
    with pytest.raises(FileNotFoundError, match="against must be the folder of a check"):
        check(str(tmp_path / "data"), str(tmp_path / "out"), against=str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match="has no content hashes"):
        check(str(tmp_path / "data"), str(tmp_path / "out"), against=str(tmp_path / "plain.json"))
    with pytest.raises(FileNotFoundError, match="salt_from must be the folder of a check"):
        check(str(tmp_path / "data"), str(tmp_path / "new"), salt_from=str(tmp_path))


def test_a_bids_tree_pairs_masks_and_groups_patients(tmp_path: Path) -> None:
    source = tmp_path / "bids"
    source.mkdir()
    (source / "dataset_description.json").write_text("{}")
    for patient in range(6):
        for session in (1, 2):
            stem = f"sub-{patient:02d}_ses-{session}"
            folder = f"sub-{patient:02d}/ses-{session}/anat"
            volume(source / folder / f"{stem}_T1w.nii.gz", 10 * patient + session)
            labels(source / "derivatives" / "manual" / folder / f"{stem}_desc-lesion_mask.nii.gz", patient)
            volume(source / "derivatives" / "prep" / folder / f"{stem}_desc-preproc_T1w.nii.gz", patient)
    result, _ = checked(source, tmp_path / "out")
    assert result.counts.items["accepted"] == 12
    assert result.counts.skipped == {"derivative of a BIDS tree": 12, "no image (.json)": 1}
    rows = [(split, row) for split, rows in rows_of(tmp_path / "out").items() for row in rows]
    assert all("desc-lesion_mask" in row["label"] for _, row in rows)
    assert len({row["subject"] for _, row in rows}) == 6
    assert len({(split, row["subject"]) for split, row in rows}) == 6


def test_series_localisers_and_shared_folders_of_dicom(tmp_path: Path) -> None:
    source, out = tmp_path / "data", tmp_path / "out"
    write_series(source / "p1" / "ct", "1", PatientID="P001")
    write_series(source / "p2" / "flat", "2", PatientID="P002")
    write_series(source / "p2" / "flat", "3", PatientID="P002")
    (source / "p1" / "ct" / "README").write_text("no DICOM")
    (source / "p3.dcm").write_bytes(b"no DICOM either, but it says so" * 50)
    result, report = checked(source, out)
    assert result.counts.items == {"accepted": 1, "warned": 0, "rejected": 3}, report["items"]
    assert sorted(code for one in report["items"] for code in one["codes"] if one["verdict"] == "reject") == [
        "MIXED_SERIES", "MIXED_SERIES", "NOT_AN_IMAGE",
    ]  # fmt: skip
    assert result.counts.skipped == {"a file of unknown format": 1}
    again, _ = checked(source, out, link_series=True)
    assert again.counts.items == {"accepted": 3, "warned": 0, "rejected": 1}
    assert len({row["subject"] for row in every_row(out)}) == 2
    for split, rows in rows_of(out).items():
        if rows:
            assert len(load_datalist(out / "datalist.json", split=split).volumes) == len(rows)
    links = list((out / "series").rglob("*.dcm"))
    assert links
    assert all(one.is_symlink() for one in links)


def test_a_file_that_stops_the_grouping_of_its_folder_costs_itself_only(tmp_path: Path) -> None:
    write_series(tmp_path / "data" / "a", "1", PatientID="P001")
    write_series(tmp_path / "data" / "b", "2", PatientID="P002")
    (tmp_path / "data" / "b" / "hang.dcm").write_bytes(b"x" * 2000)
    settings = CheckSettings(num_workers=2, limits=Limits(seconds=10.0), link_series=True)
    stand_in = "tests.apps.check_answers:stop_at_grouping"
    tallies = [run_check(str(tmp_path / "data"), str(tmp_path / "out"), settings, stand_in) for _ in range(2)]
    assert tallies[0].counts.items == {"accepted": 2, "warned": 0, "rejected": 1}
    assert tallies[0].counts.codes["reject"] == {"TIMEOUT": 1}
    assert [one.tally.inspected for one in tallies] == [2, 0]
    images = {Path(row["image"]).parent.name: row for row in every_row(tmp_path / "out")}
    assert set(images) == {"data", "series"}  # the folder with the bad file is not listed, links to its slices are


def test_test_folders_stay_the_test_split_and_channels_are_one_item(tmp_path: Path) -> None:
    source = tmp_path / "task"
    for number in range(5):
        for channel in range(2):
            volume(source / "imagesTr" / f"case{number}_000{channel}.nii.gz", 2 * number + channel)
        labels(source / "labelsTr" / f"case{number}.nii.gz", number)
    volume(source / "imagesTs" / "unseen_0000.nii.gz", 99)
    result, _ = checked(source, tmp_path / "out")
    assert result.counts.items["accepted"] == 6
    found = rows_of(tmp_path / "out")
    assert [Path(row["image"]).name for row in found["test"]] == ["unseen_0000.nii.gz"]
    assert all(len(row["image"]) == 2 and row["label"] for row in found["training"] + found["validation"])
    volume(source / "imagesTr" / "case0_0001.nii.gz", 1, shape=(12, 10, 9))
    _, report = checked(source, tmp_path / "out")
    assert [one["codes"] for one in report["items"] if one["verdict"] == "reject"] == [["GEOMETRY"]]


def test_a_foreign_folder_another_source_and_two_checks_at_once_are_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        picture(tmp_path / name / "x.png", 0)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="holds files that no check wrote"):
        check(str(tmp_path / "a"), str(tmp_path / "foreign"))
    assert [one.name for one in (tmp_path / "foreign").iterdir()] == ["thesis.txt"]
    with pytest.raises(FileExistsError, match="must be a folder, and is a file"):
        check(str(tmp_path / "a"), str(tmp_path / "foreign" / "thesis.txt"))
    checked(tmp_path / "a", tmp_path / "out")
    with pytest.raises(FileExistsError, match="holds the check of another source"):
        check(str(tmp_path / "b"), str(tmp_path / "out"))
    from monai_cluster.apps.check_index import CheckIndex

    held = CheckIndex(tmp_path / "out" / "index.sqlite")
    with pytest.raises(RuntimeError, match="another check works in this folder"):
        check(str(tmp_path / "a"), str(tmp_path / "out"))
    held.close()
    (tmp_path / "out" / "check.json").write_text("{}")
    with pytest.raises(ValueError, match="is not what this version of check writes"):
        check(str(tmp_path / "a"), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"fractions": (1.0,)}, "fractions must be three numbers"),
        ({"num_workers": 0}, "num_workers must be at least 1"),
        ({"outlier_factor": 1.0}, "outlier_factor must be above 1"),
        ({"subject_pattern": "("}, "subject_pattern must be a regular expression"),
        ({"limits": {"second": 3}}, "there is no limit 'second'"),
        ({"limits": {"seconds": -1}}, "the limit seconds must be a positive number"),
    ],
)
def test_settings_that_make_no_sense_are_refused_before_anything_is_made(
    tmp_path: Path, settings: dict[str, Any], said: str
) -> None:
    picture(tmp_path / "data" / "a.png", 0)
    with pytest.raises(ValueError, match=re.escape(said)):
        check(str(tmp_path / "data"), str(tmp_path / "out"), **settings)
    assert not (tmp_path / "out").exists()


def test_sources_that_are_none_are_refused(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 0)
    with pytest.raises(FileNotFoundError, match="source must be an existing folder"):
        check(str(tmp_path / "nothing"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="a source that is a file must be a list"):
        check(str(tmp_path / "a.png"), str(tmp_path / "out"))
    with pytest.raises(ValueError, match="out must be another folder than the source"):
        check(str(tmp_path), str(tmp_path))


def test_an_empty_folder_is_rejected_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    result, report = checked(tmp_path / "data", tmp_path / "out")
    assert [one["code"] for one in report["list"]] == ["EMPTY"]
    assert result.exit_code == 3


def test_out_may_lie_inside_the_source(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", 0)
    for _ in range(2):
        result, _ = checked(tmp_path, tmp_path / "out")
        assert result.counts.files["found"] == 1


def test_the_command_takes_the_folder_by_place_or_by_name_and_returns_three(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "data"
    picture(source / "a.png", 0)
    words = ["--out", str(tmp_path / "out"), "--num-workers", "1", "--set", "seconds=60"]
    assert main(["check", str(source), *words]) == 0
    assert "1 accepted, 0 warned, 0 rejected" in capsys.readouterr().out
    (source / "b.png").write_bytes(b"no picture")
    assert main(["check", *words, "--source", str(source)]) == 3
    assert main(["check", str(source), "--out", str(source / "a.png")]) == 1
    for wrong in (["check", *words], ["check", str(source), "--source", str(source), *words]):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2


def test_check_is_a_public_function() -> None:
    assert monai_cluster.apps.check is check

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""``predict --dicom-seg``: a SEG object beside each label map whose source is a DICOM series."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest

from monai_cluster.apps import FinetunedModel, predict
from monai_cluster.cli import build_parser
from monai_cluster.data import read_dicom_seg, write_dicom_seg
from tests.apps.stand_ins import CLASSES, lesion_in_organ, levels, stand_in
from tests.data.dicom_files import write_slice

Run = Callable[..., tuple[Path, list[dict[str, Any]]]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Run:
    """``run(model, images, …)`` predicts ``tmp_path``'s files with DICOM SEG into ``tmp_path / "out"``."""

    def made(model: FinetunedModel, images: list[Any], **options: Any) -> Any:
        monkeypatch.setattr("monai_cluster.apps.prediction.load_finetuned", lambda path: model)
        (tmp_path / "list.json").write_text(json.dumps({"test": [{"image": image} for image in images]}))
        index = predict(
            "model", str(tmp_path / "list.json"), str(tmp_path / "out"), device="cpu", dicom_seg=True, **options
        )
        return index.parent, json.loads(index.read_text())["predictions"]

    return made


@pytest.fixture
def _extra() -> None:
    pytest.importorskip("highdicom", reason="DICOM SEG needs the extra monai-cluster[dicom]")


def write_series(folder: Path, ids: np.ndarray, **tags: Any) -> None:
    """Air, 100 and 200 HU, lying on a tilted plane; names of files say nothing about their order."""
    folder.mkdir(parents=True)
    rows, columns = np.array([1.0, 0, 0]), np.array([0, 0.8, 0.6])
    for k in range(ids.shape[2]):
        pixels = np.array([24, 1124, 1224])[ids[..., k].T]
        place = np.array([10.0, 20, 30]) + 3.5 * k * np.cross(rows, columns)
        common = {"ImagePositionPatient": place.round(6).tolist(), "ImageOrientationPatient": [*rows, *columns]}
        write_slice(folder / f"{(k * 7 + 3) % 101:03d}.dcm", pixels, "1.2.4", None,
                    **{"FrameOfReferenceUID": "1.2.9"} | common | tags)  # fmt: skip


MODEL: dict[str, Any] = {"window": [0, 200]}


@pytest.mark.usefixtures("_extra")
def test_a_series_gets_an_object_with_the_same_voxels_as_its_label_map(tmp_path, run: Run, caplog) -> None:
    ids, _ = lesion_in_organ()
    write_series(tmp_path / "cases" / "1.2.840.77", ids)
    write_series(tmp_path / "cases" / "1.2.840.78", ids[:, ::-1])
    with caplog.at_level(logging.WARNING, "monai_cluster"):
        out, found = run(stand_in("segmentation", **MODEL), ["cases/1.2.840.77", "cases/1.2.840.78"])
    assert "have no DICOM SEG" not in caplog.text
    assert [one["dicom_seg"] for one in found] == ["cases/1.2.840.77.dcm", "cases/1.2.840.78.dcm"]
    for entry, truth in zip(found, (ids, ids[:, ::-1]), strict=True):
        label = nib.load(out / entry["prediction"])
        seg = read_dicom_seg(out / entry["dicom_seg"], tmp_path / entry["image"])
        np.testing.assert_array_equal(seg.values, truth)
        np.testing.assert_array_equal(seg.values, np.asarray(label.dataobj))
        np.testing.assert_allclose(seg.affine, label.affine, atol=1e-5)
        assert list(seg.names.values()) == list(CLASSES["segmentation"][1:])
        (algorithm,) = (
            pydicom.dcmread(out / entry["dicom_seg"]).SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
        )
        assert algorithm.AlgorithmParameters == "model_sha256=" + "0" * 64


@pytest.mark.usefixtures("_extra")
def test_the_grid_is_the_first_channels_and_another_resolution_comes_back_to_it(tmp_path, run: Run) -> None:
    ids, _ = lesion_in_organ()
    write_series(tmp_path / "one", ids)
    write_series(tmp_path / "two", ids)
    (_, found) = run(stand_in("segmentation", spacing=[1.0, 1.0, 2.0], **MODEL), [["one", "two"]])
    seg = read_dicom_seg(tmp_path / "out" / found[0]["dicom_seg"], tmp_path / "one")
    np.testing.assert_array_equal(seg.values, np.asarray(nib.load(tmp_path / "out" / found[0]["prediction"]).dataobj))
    assert (seg.values == ids).mean() > 0.9


@pytest.mark.usefixtures("_extra")
def test_sources_without_an_object_are_counted_with_the_reason_and_keep_their_label_maps(tmp_path, run, caplog) -> None:
    ids, _ = lesion_in_organ()
    write_series(tmp_path / "series", ids)
    write_series(tmp_path / "bare", ids, FrameOfReferenceUID="")
    for name in ("a.nii.gz", "b.nii.gz"):
        nib.Nifti1Image(levels(ids), np.eye(4)).to_filename(tmp_path / name)
    with caplog.at_level(logging.WARNING, "monai_cluster"):
        out, found = run(stand_in("segmentation", **MODEL), ["series", "bare", "a.nii.gz", "b.nii.gz"])
    assert "3 of 4 predictions have no DICOM SEG: 2 since the source is no DICOM series; 1 since" in caplog.text
    assert "slices lack FrameOfReferenceUID" in caplog.text
    assert [one.get("dicom_seg") for one in found] == ["series.dcm", None, None, None]
    assert all((out / one["prediction"]).is_file() for one in found)
    assert sorted(path.name for path in out.glob("*.dcm")) == ["series.dcm"]


def test_without_the_option_no_identifier_is_written(tmp_path, monkeypatch) -> None:
    ids, _ = lesion_in_organ()
    write_series(tmp_path / "series", ids)
    monkeypatch.setattr("monai_cluster.apps.prediction.load_finetuned", lambda _: stand_in("segmentation", **MODEL))
    (tmp_path / "list.json").write_text(json.dumps({"test": ["series"]}))
    predict("model", str(tmp_path / "list.json"), str(tmp_path / "out"), device="cpu")
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert sorted(path.name for path in files) == ["predictions.json", "series.nii.gz"]
    assert not any(b"secret" in path.read_bytes() for path in files)


@pytest.mark.parametrize(("task", "dims"), [("detection", 3), ("classification", 3), ("segmentation", 2)])
def test_other_models_are_refused_before_anything_is_written(tmp_path, run: Run, task: str, dims: int) -> None:
    kind = "volumes" if dims == 3 else "images"
    with pytest.raises(ValueError, match=f"this model is for {task} of {kind}: leave dicom_seg off"):
        run(stand_in(task, dims), ["none.nii.gz"])
    assert not (tmp_path / "out").exists()


def test_without_highdicom_the_extra_is_named_before_anything_is_written(tmp_path, run: Run, monkeypatch) -> None:
    for name in [one for one in sys.modules if one.split(".")[0] == "highdicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    said = r'DICOM SEG needs highdicom: pip install "monai-cluster\[dicom\]"'
    with pytest.raises(ImportError, match=said):
        run(stand_in("segmentation"), ["none.nii.gz"])
    assert not (tmp_path / "out").exists()
    with pytest.raises(ImportError, match=said):
        write_dicom_seg(np.zeros((1, 1, 1), int), tmp_path, tmp_path / "out.dcm", ["background", "organ"])


@pytest.mark.shared_data
def test_the_real_object_is_read_without_highdicom(shared_data: Path, monkeypatch) -> None:
    folder = shared_data / "dicom_pet_seg_qin"
    if not folder.is_dir():
        pytest.skip("the PET series is not among the real data")
    for name in [one for one in sys.modules if one.split(".")[0] == "highdicom"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "highdicom", None)
    found = read_dicom_seg(folder / "SEG" / "tumor_seg.dcm", folder / "PET")
    assert np.bincount(found.values.ravel())[1:].tolist() == [54, 212]


def test_the_command_has_the_option() -> None:
    options = build_parser("predict").parse_args(
        ["predict", "--weights", "run", "--data", "list.json", "--out", "out", "--dicom-seg"]
    )
    assert options.dicom_seg is True

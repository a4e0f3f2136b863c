# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A DICOM series: facts that agree with the package's reader and SimpleITK, and every way in which slices disagree."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import RLELossless

from monai_cluster.data.dicom import DicomSeriesReader
from monai_cluster.integrity.dicom_series import group_series, inspect_series
from monai_cluster.integrity.findings import Finding, Inspection
from monai_cluster.integrity.limits import Limits

from .dicom_phantoms import ROOT, body, codes, enhanced, save, save_series, slice_dataset

TILTED = [1.0, 0.0, 0.0, 0.0, float(np.cos(0.4)), float(np.sin(0.4))]


def series(slices: int = 8, **header: Any) -> list[Any]:
    return [slice_dataset(index, slices, **header) for index in range(slices)]


def inspected(datasets: list[Any], folder: Path) -> Inspection:
    return inspect_series(save_series(datasets, folder))


def only(inspection: Inspection, code: str) -> Finding:
    assert codes(inspection) == {code}
    return inspection.findings[0]


def itk_series(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Array ``X Y Z`` and affine in RAS of SimpleITK's reader."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    affine[:3, 3] = image.GetOrigin()
    affine[:2] *= -1
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), affine


@pytest.mark.parametrize("orientation", [[1.0, 0, 0, 0, 1.0, 0], TILTED])
def test_facts_agree_with_both_readers(tmp_path: Path, orientation: list[float]) -> None:
    normal = np.cross(orientation[:3], orientation[3:])
    datasets = series()
    for index, dataset in enumerate(datasets):
        dataset.ImageOrientationPatient = orientation
        dataset.ImagePositionPatient = list(np.round([-20.0, -30.0, 5.0] + 2.5 * index * normal, 6))
    folder = save_series(datasets, tmp_path)
    inspection = inspect_series(folder)
    facts = inspection.facts
    assert inspection.findings == []
    assert (facts.kind, facts.shape, facts.modality, facts.num_files) == ("volume", (20, 24, 8), "CT", 8)
    assert facts.num_bytes == sum(path.stat().st_size for path in folder.iterdir())
    reader = DicomSeriesReader()
    array, meta = reader.get_data(reader.read(folder))
    np.testing.assert_allclose(facts.affine, meta["affine"], atol=1e-6)
    assert facts.shape == array.shape
    assert (facts.minimum, facts.maximum) == (array.min(), array.max())
    itk_array, itk_affine = itk_series(folder)
    np.testing.assert_allclose(facts.affine, itk_affine, atol=1e-4)
    assert facts.shape == itk_array.shape
    assert facts.mean == pytest.approx(itk_array.mean())


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["dicom_ct_lidc0314/series", "dicom_t1_studyforrest/series", "dicom_pet_seg_qin/PET"])
def test_real_series_are_accepted_and_agree_with_both_readers(shared_data: Path, name: str) -> None:
    folder = shared_data / name
    inspection = inspect_series(folder)
    assert inspection.findings == []
    reader = DicomSeriesReader()
    array, meta = reader.get_data(reader.read(folder))
    np.testing.assert_allclose(inspection.facts.affine, meta["affine"], atol=1e-5)
    assert inspection.facts.shape == array.shape
    assert inspection.facts.minimum == pytest.approx(array.min())
    assert inspection.facts.maximum == pytest.approx(array.max())
    assert inspection.facts.mean == pytest.approx(array.astype(np.float64).mean(), rel=1e-5)
    itk_array, itk_affine = itk_series(folder)
    np.testing.assert_allclose(inspection.facts.affine, itk_affine, atol=1e-2)
    assert inspection.facts.shape == itk_array.shape


@pytest.mark.shared_data
def test_real_folders_are_sorted_into_series(shared_data: Path) -> None:
    found = group_series([shared_data / "dicom_pet_seg_qin", shared_data / "dicom_ct_lidc0314" / "series"])
    assert [(group.modality, group.num_frames) for group in found.series] == [("PT", 139), ("CT", 33)]
    assert found.skipped["a DICOM SEG object"] == 1
    assert found.broken == []


def test_the_content_hash_follows_slices_not_names_or_compression(tmp_path: Path) -> None:
    plain = inspected(series(), tmp_path / "a").facts.content_hash
    assert inspected(series()[::-1], tmp_path / "b").facts.content_hash == plain
    packed = series()
    for dataset in packed:
        dataset.compress(RLELossless, generate_instance_uid=False)
    inspection = inspected(packed, tmp_path / "c")
    assert (inspection.findings, inspection.facts.content_hash) == ([], plain)
    other = series()
    other[3].PixelData = other[4].PixelData
    assert inspected(other, tmp_path / "d").facts.content_hash != plain


def test_a_list_of_files_is_a_series_too(tmp_path: Path) -> None:
    folder = save_series(series(), tmp_path)
    one = inspect_series(sorted(folder.iterdir()))
    assert one.facts.content_hash == inspect_series(folder).facts.content_hash


def test_a_missing_slice_is_refused_and_counted(tmp_path: Path) -> None:
    datasets = series(12)
    del datasets[5]
    assert "about 1 missing" in only(inspected(datasets, tmp_path / "a"), "MISSING_SLICE").found
    datasets = series(12)
    del datasets[5:7], datasets[2]
    assert "about 3 missing in 2 gaps" in only(inspected(datasets, tmp_path / "b"), "MISSING_SLICE").found


def test_uneven_steps_are_refused_and_rounding_is_not(tmp_path: Path) -> None:
    places = [0, 2, 4, 6, 8, 13, 18, 23]
    uneven = inspected([slice_dataset(i, z=float(z)) for i, z in enumerate(places)], tmp_path / "a")
    assert only(uneven, "SPACING").severity == "reject"
    slight = inspected([slice_dataset(i, z=2.5 * i + 0.1 * (i % 2)) for i in range(8)], tmp_path / "b")
    assert only(slight, "SPACING").severity == "warn"
    rounded = [slice_dataset(i, z=round(0.625 * i, 2)) for i in range(8)]
    assert inspected(rounded, tmp_path / "c").findings == []


def test_two_slices_at_one_position_are_refused(tmp_path: Path) -> None:
    again = slice_dataset(4, SOPInstanceUID=f"{ROOT}.77")
    assert "1 of 8 positions" in only(inspected([*series(), again], tmp_path / "a"), "DUPLICATE").found
    copy = inspected([*series(), slice_dataset(4)], tmp_path / "b")
    assert any("SOPInstanceUID" in one.found for one in copy.findings)
    assert codes(copy, "reject") == {"DUPLICATE"}


def test_several_time_points_and_echoes_are_named(tmp_path: Path) -> None:
    datasets = [
        slice_dataset(index, EchoTime=echo, SOPInstanceUID=f"{ROOT}.{count}.{index}", Modality="MR")
        for count, echo in enumerate((4.6, 9.2), start=1)
        for index in range(8)
    ]
    finding = only(inspected(datasets, tmp_path), "MIXED_SERIES")
    assert "2 to 2 images at the same position, which differ in echo time" in finding.found
    assert "8 positions, 16 images" in finding.found


def test_two_series_in_one_folder_are_refused(tmp_path: Path) -> None:
    mixed = series() + [slice_dataset(index, series="2", z=5.0 * index) for index in range(5)]
    found = only(inspected(mixed, tmp_path), "MIXED_SERIES").found
    assert found == "2 mixed series (CT of 8 files, CT of 5 files)"


@pytest.mark.parametrize(
    ("header", "what"),
    [({"PatientID": "P001"}, "patients"), ({"Modality": "MR"}, "modalities")],
)
def test_a_series_of_two_patients_or_modalities_is_refused(tmp_path: Path, header: dict[str, str], what: str) -> None:
    datasets = series()
    datasets[6] = slice_dataset(6, **header)
    finding = next(one for one in inspected(datasets, tmp_path).findings if one.code == "MIXED_SERIES")
    assert f"2 {what}" in finding.found


def test_two_frames_of_reference_are_refused_and_one_per_slice_is_not(tmp_path: Path) -> None:
    halves = [slice_dataset(i, FrameOfReferenceUID=f"{ROOT}.5.{i // 4}") for i in range(8)]
    assert codes(inspected(halves, tmp_path / "a")) == {"MIXED_SERIES"}
    each = [slice_dataset(i, FrameOfReferenceUID=f"{ROOT}.5.{i}") for i in range(8)]
    assert inspected(each, tmp_path / "b").findings == []
    assert len(group_series([tmp_path / "b"]).series) == 1


def test_slices_of_another_size_direction_or_pixel_spacing_are_refused(tmp_path: Path) -> None:
    larger = series()
    larger[3] = slice_dataset(3, Rows=30, Columns=16)
    assert "1 of 8 slices of another shape" in only(inspected(larger, tmp_path / "a"), "GEOMETRY").found
    scout = series()
    scout[0] = slice_dataset(
        0, ImageOrientationPatient=[0, 1, 0, 0, 0, -1.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    assert "1 marked as localiser" in only(inspected(scout, tmp_path / "b"), "GEOMETRY").found
    zoomed = series()
    zoomed[2].PixelSpacing = [0.8, 0.9]
    assert "PixelSpacing" in only(inspected(zoomed, tmp_path / "c"), "GEOMETRY").found


@pytest.mark.parametrize(
    ("header", "code"),
    [
        ({"ImagePositionPatient": None, "ImageOrientationPatient": None}, "ORIENTATION"),
        ({"ImageOrientationPatient": [1.0, 0, 0, 1.0, 0, 0]}, "ORIENTATION"),
        ({"PixelSpacing": None}, "SPACING"),
        ({"PixelSpacing": [0.0, 1.0]}, "SPACING"),
        ({"PixelSpacing": [-1.0, 1.0]}, "SPACING"),
        ({"PixelSpacing": [90.0, 90.0]}, "SPACING"),
        ({"RescaleSlope": 0}, "SCALE"),
    ],
)
def test_series_without_usable_geometry_or_scaling_are_refused(
    tmp_path: Path, header: dict[str, Any], code: str
) -> None:
    assert code in codes(inspected(series(**header), tmp_path), "reject")


def test_a_tilted_gantry_is_warned_about(tmp_path: Path) -> None:
    datasets = series()
    for index, dataset in enumerate(datasets):
        dataset.ImagePositionPatient = [-20.0, -30.0 + 0.5 * index, 2.5 * index]
    inspection = inspected(datasets, tmp_path)
    assert "sheared by 11.3 degrees (a tilted gantry)" in only(inspection, "AFFINE").found
    assert inspection.verdict == "warn"
    reader = DicomSeriesReader()
    with pytest.warns(UserWarning, match="tilted"):
        _, meta = reader.get_data(reader.read(tmp_path))
    np.testing.assert_allclose(inspection.facts.affine, meta["affine"], atol=1e-6)


def test_slices_beside_the_line_of_the_others_are_refused(tmp_path: Path) -> None:
    datasets = series()
    datasets[3].ImagePositionPatient = [10.0, -30.0, 7.5]
    assert codes(inspected(datasets, tmp_path), "reject") == {"GEOMETRY"}


def test_rescale_that_changes_is_fine_for_pet_only(tmp_path: Path) -> None:
    def scaled(modality: str) -> list[Any]:
        return [slice_dataset(i, Modality=modality, RescaleSlope=1 + 0.25 * i, RescaleIntercept=0) for i in range(8)]

    folder = save_series(scaled("PT"), tmp_path / "a")
    inspection = inspect_series(folder)
    assert inspection.findings == []
    reader = DicomSeriesReader()
    array, _ = reader.get_data(reader.read(folder))
    assert (inspection.facts.minimum, inspection.facts.maximum) == (array.min(), array.max())
    assert codes(inspected(scaled("CT"), tmp_path / "b"), "warn") == {"SCALE"}
    bare = series(RescaleSlope=None, RescaleIntercept=None)
    assert codes(inspected(bare, tmp_path / "c"), "warn") == {"SCALE"}


def test_files_that_are_no_slices_are_counted_by_type(tmp_path: Path) -> None:
    folder = save_series(series(), tmp_path)
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" * 200)
    (folder / "report.pdf").write_bytes(b"%PDF-1.4 not a slice")
    (folder / "empty.dcm").write_bytes(b"")
    (folder / ".DS_Store").write_bytes(b"hidden")
    (folder / "inner").mkdir()
    os.mkfifo(folder / "pipe")
    save(slice_dataset(0, Modality="SEG", SOPInstanceUID=f"{ROOT}.88"), folder / "seg.dcm")
    inspection = inspect_series(folder)
    found = only(inspection, "SKIPPED_FILES").found
    assert found.startswith("6 skipped (ignored): ")
    for name in ("1 × folder", "1 × empty file", "1 × a file of format pdf", "1 × a DICOM SEG object"):
        assert name in found
    assert not any(name in found for name in ("Thumbs", "report", "pipe"))
    assert inspection.verdict == "warn"
    assert inspection.facts.shape == (20, 24, 8)


def test_a_folder_without_slices_is_refused(tmp_path: Path) -> None:
    assert codes(inspect_series(tmp_path)) == {"EMPTY"}
    save(slice_dataset(0, Modality="RTSTRUCT"), tmp_path / "a.dcm")
    assert codes(inspect_series(tmp_path)) == {"NOT_AN_IMAGE"}
    assert codes(inspect_series(tmp_path / "none")) == {"MISSING"}
    assert codes(inspect_series("a\0b")) == {"PATH"}
    stripped = save(slice_dataset(0, PixelData=None), tmp_path / "only" / "b.dcm")
    assert codes(inspect_series(stripped.parent)) == {"NO_PIXELS"}


@pytest.mark.parametrize("cut", [20, 400, -300, -900])
def test_a_cut_slice_is_refused_and_counted(tmp_path: Path, cut: int) -> None:
    folder = save_series(series(), tmp_path)
    victim = sorted(folder.iterdir())[3]
    data = victim.read_bytes()
    victim.write_bytes(data[:cut] if cut < 0 else data[: max(200, cut)])
    inspection = inspect_series(folder)
    assert "TRUNCATED" in codes(inspection, "reject")
    assert any("in 1 of 8 slices" in one.found for one in inspection.findings)


def test_an_enhanced_file_is_a_series_with_the_same_content(tmp_path: Path) -> None:
    save(enhanced(), tmp_path / "a" / "one.dcm")
    inspection = inspect_series(tmp_path / "a")
    facts = inspected(series(), tmp_path / "b").facts
    assert codes(inspection) == {"NDIM"}
    assert inspection.facts.content_hash == facts.content_hash
    np.testing.assert_allclose(inspection.facts.affine, facts.affine)


def test_identifiers_of_all_slices_make_one_warning(tmp_path: Path) -> None:
    datasets = series(PatientName="MEIER^ANNA")
    datasets[7].BurnedInAnnotation = "YES"
    finding = only(inspected(datasets, tmp_path), "PHI")
    assert "a patient's name" in finding.found
    assert "burned-in" in finding.found
    assert "MEIER" not in str(finding)


def test_limits_hold_for_the_whole_volume(tmp_path: Path) -> None:
    folder = save_series(series(), tmp_path)
    assert codes(inspect_series(folder, Limits(max_decoded_bytes=body().nbytes - 1))) == {"TOO_LARGE"}
    assert inspect_series(folder, Limits(max_decoded_bytes=body().nbytes)).findings == []


def test_few_slices_are_warned_about(tmp_path: Path) -> None:
    assert codes(inspected(series()[:3], tmp_path / "a"), "warn") == {"NDIM"}
    assert codes(inspected(series()[:1], tmp_path / "b"), "warn") == {"NDIM"}


def test_files_are_grouped_over_folders_and_localisers_apart(tmp_path: Path) -> None:
    save_series(series()[:4], tmp_path / "a")
    save_series(series()[4:], tmp_path / "b" / "deeper")
    scout = slice_dataset(
        0, ImageOrientationPatient=[0, 1, 0, 0, 0, -1.0], ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]
    )
    save(scout, tmp_path / "b" / "scout.dcm")
    save(slice_dataset(0, series="2", Modality="MR"), tmp_path / "b" / "other.dcm")
    broken = save(slice_dataset(1), tmp_path / "b" / "broken.dcm")
    broken.write_bytes(broken.read_bytes()[:-100])
    (tmp_path / "b" / "note.txt").write_text("no DICOM")
    found = group_series([tmp_path])
    sizes = sorted((group.modality, group.num_frames, group.localiser) for group in found.series)
    assert sizes == [("CT", 1, True), ("CT", 8, False), ("MR", 1, False)]
    assert (found.num_files, sum(found.skipped.values()), len(found.broken)) == (12, 1, 1)
    whole = next(group for group in found.series if group.num_frames == 8)
    assert inspect_series(whole.paths).findings == []
    assert str(tmp_path) not in repr(found)

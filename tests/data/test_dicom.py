# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""DICOM series and images, written ones and real ones."""

from __future__ import annotations

import re
import shutil
import warnings
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.transforms import LoadImage

from monai_cluster.data import DicomSeriesReader, read_image, read_volume
from monai_cluster.data.readers import itk_affine

from .dicom_files import write_series, write_slice


def test_slices_are_ordered_by_position_and_rescaled(tmp_path: Path) -> None:
    heights = [6.0, 0.0, 9.0, 3.0]
    pixels = write_series(tmp_path / "s", heights)
    volume = read_volume(tmp_path / "s")
    order = np.argsort(heights)
    np.testing.assert_array_equal(volume[0].numpy(), pixels[order].transpose(2, 1, 0) - 1024)
    expected = np.diag([-0.7, -0.5, 3.0, 1.0])  # LPS to RAS; PixelSpacing is row distance, then column distance
    expected[:3, 3] = [-10, -20, 0]
    np.testing.assert_allclose(volume.affine, expected)
    assert volume.meta["modality"] == "CT"
    assert "secret" not in str(volume.meta)


def test_each_slice_has_its_own_rescale_slope(tmp_path: Path) -> None:
    pixels = np.full((6, 8), 100)
    for k in range(4):
        write_slice(tmp_path / f"{k}.dcm", pixels, "1.2.4", 2.0 * k, RescaleSlope=0.37 * (k + 1), RescaleIntercept=0)
    values = read_volume(tmp_path)[0, 0, 0]
    torch.testing.assert_close(values.as_tensor(), torch.tensor([37.0, 74, 111, 148]), atol=1e-3, rtol=0)


def test_a_missing_slice_is_warned_about_and_leaves_the_spacing(tmp_path: Path) -> None:
    write_series(tmp_path / "s", [0.0, 3.0, 6.0, 12.0, 15.0])
    with pytest.warns(UserWarning, match=r"s: about 1 slices are missing \(after slice 2\); spacing 3 mm is kept"):
        volume = read_volume(tmp_path / "s")
    assert float(volume.affine[2, 2]) == pytest.approx(3.0)


def test_uneven_spacing_is_warned_about(tmp_path: Path) -> None:
    write_series(tmp_path / "s", [0.0, 3.0, 6.2, 9.0, 12.0])
    with pytest.warns(UserWarning, match="spacing is not uniform"):
        volume = read_volume(tmp_path / "s")
    assert volume.shape == (1, 8, 6, 5)
    assert float(volume.affine[2, 2]) == pytest.approx(3.0)


def test_a_tilted_gantry_is_warned_about_and_shears_the_affine(tmp_path: Path) -> None:
    for k in range(4):
        write_slice(tmp_path / f"{k}.dcm", np.zeros((6, 8)), "1.2.4", 0.0, ImagePositionPatient=[0, 0.5 * k, 3.0 * k])
    with pytest.warns(UserWarning, match="sheared by 9\\.5 degrees"):
        volume = read_volume(tmp_path)
    np.testing.assert_allclose(volume.affine[:3, 2], [0, -0.5, 3.0], atol=1e-9)


def test_two_series_in_one_folder_are_listed_by_number_and_never_by_identifier(tmp_path: Path) -> None:
    write_series(tmp_path, [0.0, 3.0], series="1.2.840.4")
    write_series(tmp_path, [0.0, 3.0, 6.0], series="1.2.840.5", SeriesNumber=7, Modality="MR")
    with pytest.raises(ValueError, match="one DICOM series, got 2") as caught:
        read_volume(tmp_path)
    assert "series number 4 (CT, 2 files); series number 7 (MR, 3 files)" in str(caught.value)
    assert "put each series into its own folder" in str(caught.value)
    assert "1.2.840" not in str(caught.value)


def test_other_objects_in_the_folder_are_left_out(tmp_path: Path) -> None:
    write_series(tmp_path, [0.0, 3.0, 6.0])
    alone = read_volume(tmp_path)
    write_slice(tmp_path / "seg.dcm", np.zeros((6, 8)), "1.2.9", None, Modality="SEG")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden.dcm").write_text("hello")
    beside_others = read_volume(tmp_path)
    assert beside_others.shape[-1] == 3
    np.testing.assert_array_equal(np.asarray(beside_others), np.asarray(alone))
    np.testing.assert_array_equal(np.asarray(beside_others.affine), np.asarray(alone.affine))


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"ImagePositionPatient": [10, 20, 0]}, "different positions"),
        ({"NumberOfFrames": 3}, "one frame each, got 3"),
        ({"PixelSpacing": [0.9, 0.9]}, "one size, orientation and pixel spacing"),
        ({"ImageOrientationPatient": [0, 1, 0, 1, 0, 0]}, "take the localiser out"),
        ({"ImageOrientationPatient": None}, "need ImageOrientationPatient, missing in"),
    ],
)
def test_slices_that_make_no_volume_are_refused(tmp_path: Path, tags: dict[str, object], message: str) -> None:
    write_series(tmp_path, [0.0, 3.0, 6.0])
    write_slice(tmp_path / "odd.dcm", np.zeros((6, 8)), "1.2.4", 9.0, **tags)
    with pytest.raises(ValueError, match=message):
        read_volume(tmp_path)


def test_a_folder_without_dicom_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(ValueError, match="must hold DICOM images, got none"):
        read_volume(tmp_path)
    with pytest.raises(ValueError, match="one existing folder"):
        DicomSeriesReader().read([tmp_path, tmp_path])


def test_a_radiograph_is_an_image_and_inverted_grey_is_turned_round(tmp_path: Path) -> None:
    pixels = np.arange(48).reshape(6, 8)
    write_slice(tmp_path / "x.dcm", pixels, "1.2.4", None, Modality="DX", RescaleIntercept=0)
    write_slice(tmp_path / "y.dcm", pixels, "1.2.4", None, PhotometricInterpretation="MONOCHROME1", RescaleIntercept=0)
    image = read_image(tmp_path / "x.dcm")
    np.testing.assert_array_equal(image[0].numpy(), pixels)
    assert image.meta["modality"] == "DX"
    np.testing.assert_array_equal(read_image(tmp_path / "y.dcm")[0].numpy(), 65535 - pixels)
    with pytest.raises(ValueError, match="is a 2D file, listed as a volume"):
        read_volume(tmp_path / "x.dcm")


def test_dicom_that_is_no_image_is_refused(tmp_path: Path) -> None:
    write_slice(tmp_path / "s.dcm", np.zeros((6, 8)), "1.2.4", None, Modality="SEG")
    with pytest.raises(ValueError, match=r"pixels of a patient, got s\.dcm"):
        read_image(tmp_path / "s.dcm")


@pytest.mark.shared_data
@pytest.mark.parametrize("name", ["dicom_ct_lidc0314/series", "dicom_pet_seg_qin/PET", "dicom_t1_studyforrest/series"])
def test_real_series_equal_simpleitks_series_reader(shared_data: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        volume = read_volume(shared_data / name)
    reader = sitk.ImageSeriesReader()
    (series,) = reader.GetGDCMSeriesIDs(str(shared_data / name))
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(shared_data / name), series))
    reader.SetOutputPixelType(sitk.sitkFloat32)
    expected = reader.Execute()
    # the series reader and we may run from opposite ends; compare in millimetres
    affine, array = itk_affine(expected), sitk.GetArrayFromImage(expected).T
    if not np.allclose(affine, volume.affine, atol=1e-3):
        affine[:3, 3] += affine[:3, 2] * (array.shape[2] - 1)
        affine[:3, 2] *= -1
        array = array[..., ::-1]
    np.testing.assert_allclose(volume.affine, affine, atol=1e-3)
    np.testing.assert_allclose(volume[0].numpy(), array, atol=1e-2)


@pytest.mark.shared_data
def test_the_real_pet_equals_the_nifti_made_from_it(shared_data: Path) -> None:
    expected = nib.load(shared_data / "dicom_pet_seg_qin/derived/pet_bqml.nii.gz")
    volume = read_volume(shared_data / "dicom_pet_seg_qin/PET")
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    rounding = 0.51 * float(expected.dataobj.slope)  # the NIfTI has one int16 scale for all slices
    np.testing.assert_allclose(volume[0].numpy(), expected.get_fdata(), atol=rounding, rtol=0)


@pytest.mark.shared_data
def test_the_real_ct_is_in_hounsfield_units_and_lies_on_its_annotation(shared_data: Path) -> None:
    volume = LoadImage(reader=DicomSeriesReader(), ensure_channel_first=True)(shared_data / "dicom_ct_lidc0314/series")
    mask = nib.load(shared_data / "dicom_ct_lidc0314/derived/nodule_mask_50pct.nii.gz")
    np.testing.assert_allclose(np.abs(volume.affine), np.abs(mask.affine), atol=1e-2)
    inside = volume[0].numpy()[np.asarray(mask.dataobj) > 0]
    assert volume.min() == -1000
    assert -700 < inside.mean() < 200  # soft tissue in the middle of air
    assert inside.mean() > volume[0].numpy()[160:180, 200:220, 10:20].mean() - 1000


@pytest.mark.shared_data
def test_a_real_series_with_a_lost_slice_is_noticed(shared_data: Path, tmp_path: Path) -> None:
    files = sorted((shared_data / "dicom_ct_lidc0314/series").iterdir())
    for path in files:
        shutil.copy(path, tmp_path / path.name)
    ordered = [path for path, _ in DicomSeriesReader().read(tmp_path)]
    ordered[10].unlink()
    with pytest.warns(UserWarning, match=re.escape("about 1 slices are missing (after slice 9)")):
        volume = read_volume(tmp_path)
    assert volume.shape[-1] == len(files) - 1
    whole = read_volume(shared_data / "dicom_ct_lidc0314/series")
    assert float(volume.affine[:3, 2].norm()) == pytest.approx(float(whole.affine[:3, 2].norm()), rel=1e-4)

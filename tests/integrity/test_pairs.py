# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A label map beside its image: one grid, and values that are classes."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from monai_cluster.integrity.findings import Inspection
from monai_cluster.integrity.nifti import inspect_nifti
from monai_cluster.integrity.pairs import inspect_pair
from monai_cluster.integrity.pictures import inspect_picture

from .dicom_phantoms import save_series, slice_dataset
from .voxel_files import LPS, codes, metaimage, nifti, nrrd, phantom, write

VOXELS = phantom()
LABELS = (VOXELS > -500).astype(np.uint8)
GREY = ((phantom((40, 36)) + 1500) / 12).astype(np.uint8)


def pair(tmp_path: Path, label: bytes, classes: int | None = 2, name: str = "label.nii.gz") -> Inspection:
    image = write(tmp_path / "image.nii.gz", nifti(VOXELS))
    return inspect_pair(image, write(tmp_path / name, label), classes)


def said(inspection: Inspection) -> str:
    return " ".join(str(one) for one in inspection.findings)


def moved(**changed: Any) -> bytes:
    """A label map with one number of its affine changed: ``row column`` to a value."""
    sform = np.array(LPS, dtype=float)
    for place, value in changed.items():
        sform[int(place[1]), int(place[2])] = value
    pixdim = (1, *np.linalg.norm(sform[:, :3], axis=0))
    return nifti(LABELS, sform=sform.tolist(), pixdim=pixdim)


def test_a_sound_pair_is_taken_and_the_facts_are_those_of_the_label(tmp_path: Path) -> None:
    inspection = pair(tmp_path, nifti(LABELS))
    assert inspection.findings == []
    assert (inspection.facts.shape, inspection.facts.dtype, inspection.facts.maximum) == ((12, 14, 10), "uint8", 1)


@pytest.mark.parametrize("dtype", ["u1", "i2", "i4", "f4", "f8"])
def test_whole_numbers_of_every_type_are_classes(tmp_path: Path, dtype: str) -> None:
    assert pair(tmp_path, nifti(LABELS.astype(dtype))).findings == []


def test_scaled_values_count_as_scaled(tmp_path: Path) -> None:
    assert pair(tmp_path, nifti(LABELS * 2, scaling=(0.5, 0))).findings == []
    assert codes(pair(tmp_path, nifti(LABELS, scaling=(0.5, 0)))) == {("reject", "LABEL")}


# the grid


@pytest.mark.parametrize("shift", [0, 1e-4, 0.09, -0.09])
def test_rounding_is_no_other_grid(tmp_path: Path, shift: float) -> None:
    assert pair(tmp_path, moved(_03=10 + shift)).findings == []


@pytest.mark.parametrize(
    ("label", "words"),
    [
        (nifti(LABELS[:-2]), "10 × 14 × 10 for an image of 12 × 14 × 10"),
        (nifti(LABELS.transpose(1, 0, 2).copy()), "transposed"),
        (moved(_22=3), "a spacing of 1 × 1 × 3 mm beside 1 × 1 × 2"),
        (moved(_22=2.05), "a spacing|another origin|voxels apart"),
        (moved(_00=1, _03=-1), "a mirrored orientation .flip of axis 0; RPS"),
        (moved(_00=1, _11=1), "flip of axis 0, 1"),
        (moved(_00=-0.8, _10=0.6, _01=-0.6, _11=-0.8), "direction of the axes"),
        (moved(_23=10), "another origin, 40 mm away"),
        (moved(_03=10.2), "another origin, 0.2 mm away"),
    ],
)
def test_another_grid_is_refused_and_named(tmp_path: Path, label: bytes, words: str) -> None:
    inspection = pair(tmp_path, label)
    assert codes(inspection) == {("reject", "GEOMETRY")}
    with pytest.raises(ValueError, match=words):
        inspection.raise_if_rejected()


def test_label_maps_of_other_formats_are_compared(tmp_path: Path) -> None:
    raw = LABELS.tobytes(order="F")
    fields = {"ElementType": "MET_UCHAR", "Offset": "-10 -12 -30"}
    assert pair(tmp_path, metaimage(**fields) + raw, name="label.mha").findings == []
    assert pair(tmp_path, nrrd(type="uchar", space_origin="(-10,-12,-30)") + raw, name="label.nrrd").findings == []
    packed = nrrd(type="uchar", space_origin="(-10,-12,-30)", encoding="gzip") + gzip.compress(raw)
    assert pair(tmp_path, packed, name="label.nrrd").findings == []
    flipped = nrrd(type="uchar", space_origin="(-10,-12,-30)", space="right-anterior-superior") + raw
    assert codes(pair(tmp_path, flipped, name="label.nrrd")) == {("reject", "GEOMETRY")}


def test_a_label_map_lies_on_the_grid_of_a_dicom_series(tmp_path: Path) -> None:
    (tmp_path / "series").mkdir()
    folder = save_series([slice_dataset(index) for index in range(8)], tmp_path / "series")
    whole = inspect_pair(folder, folder)  # a folder is no label map
    assert ("reject", "CONTAINER") in codes(whole) or ("reject", "NOT_A_FILE") in codes(whole)
    from monai_cluster.integrity.dicom_series import inspect_series

    facts = inspect_series(folder).facts
    assert facts.shape is not None
    labels = np.zeros(facts.shape, np.uint8)
    labels[5:9, 5:9, 2:5] = 1
    affine = np.array(facts.affine)
    data = nifti(labels, sform=affine[:3].tolist(), pixdim=(1, *np.linalg.norm(affine[:3, :3], axis=0)))
    own = inspect_pair(folder, write(tmp_path / "label.nii.gz", data), 2)
    assert {one.code for one in own.findings} == {one.code for one in inspect_series(folder).findings}


def test_an_inspected_image_is_not_inspected_again(tmp_path: Path) -> None:
    image = write(tmp_path / "image.nii.gz", nifti(VOXELS, descrip=b"DOE^JANE"))
    label = write(tmp_path / "label.nii.gz", nifti(LABELS))
    assert codes(inspect_pair(image, label)) == {("warn", "PHI")}
    assert inspect_pair(tmp_path / "gone", label, image_inspection=inspect_nifti(image)).findings == []


def test_what_is_odd_about_both_grids_is_said_once(tmp_path: Path) -> None:
    image = write(tmp_path / "image.nii.gz", nifti(VOXELS, codes=(0, 0)))
    label = write(tmp_path / "label.nii.gz", nifti(LABELS, codes=(0, 0)))
    assert [one.code for one in inspect_pair(image, label).findings] == ["ORIENTATION"]


# values


def test_values_that_are_no_classes_are_refused(tmp_path: Path) -> None:
    unknown, lost = LABELS.copy(), LABELS.astype(np.float32)
    unknown[0, 0, 0] = 255
    lost[2, 2, 2] = np.nan
    cases = {
        "255": unknown,
        "fractions": LABELS.astype(np.float32) * 0.5,
        "NaN": lost,
        "negative": LABELS.astype(np.int16) - 1,
    }
    for word, values in cases.items():
        inspection = pair(tmp_path, nifti(values))
        assert codes(inspection) == {("reject", "LABEL")}
        assert word in said(inspection)
    assert pair(tmp_path, nifti(unknown), classes=None).findings == []


def test_one_fraction_among_thousands_is_found(tmp_path: Path) -> None:
    values = np.tile(LABELS.astype(np.float32), (4, 4, 4))
    values[30, 31, 32] = 0.999
    image = write(tmp_path / "image.nii.gz", nifti(phantom(values.shape)))
    found = inspect_pair(image, write(tmp_path / "label.nii.gz", nifti(values)))
    assert codes(found) == {("reject", "LABEL")}
    assert "1 values that are fractions" in said(found)


def test_maps_without_foreground_or_background_or_with_hundreds_of_values_are_warned_about(tmp_path: Path) -> None:
    many = (np.arange(LABELS.size).reshape(LABELS.shape) % 300).astype(np.int16)
    for values, word in ((LABELS * 0, "empty"), (LABELS * 0 + 1, "everywhere"), (many, "256 different")):
        inspection = pair(tmp_path, nifti(values), classes=None)
        assert codes(inspection) == {("warn", "LABEL")}
        assert word in said(inspection)


def test_the_image_itself_is_no_label_map(tmp_path: Path) -> None:
    assert ("reject", "LABEL") in codes(pair(tmp_path, nifti(VOXELS), classes=None))
    image = write(tmp_path / "image.nii.gz", nifti((VOXELS + 1200).clip(0) // 10))
    inspection = inspect_pair(image, image)
    assert inspection.verdict == "reject"
    assert "the image itself" in said(inspection)


def test_a_broken_label_or_image_is_refused(tmp_path: Path) -> None:
    assert codes(pair(tmp_path, nifti(LABELS)[:-1])) == {("reject", "TRUNCATED")}
    (tmp_path / "image.nii").write_bytes(nifti(VOXELS)[:-1])
    label = write(tmp_path / "label.nii.gz", nifti(LABELS))
    assert ("reject", "TRUNCATED") in codes(inspect_pair(tmp_path / "image.nii", label))
    assert codes(pair(tmp_path, b"text", name="label.txt")) == {("reject", "CONTAINER")}
    assert codes(pair(tmp_path, nifti(LABELS[..., 0]))) == {("reject", "NDIM")}


# pictures


def picture_pair(tmp_path: Path, label: Image.Image, suffix: str = ".png", classes: int | None = 2) -> Inspection:
    Image.fromarray(GREY).save(tmp_path / "image.png")
    label.save(tmp_path / f"label{suffix}")
    return inspect_pair(tmp_path / "image.png", tmp_path / f"label{suffix}", classes)


def test_pictures_of_classes_are_taken(tmp_path: Path) -> None:
    mask = (GREY > 100).astype(np.uint8)
    assert inspect_picture(_saved(tmp_path)).findings == []
    for label in (mask, mask.astype(bool), mask.astype(np.uint16), np.stack([mask] * 3, axis=-1)):
        for suffix in (".png", ".tif"):
            assert picture_pair(tmp_path, Image.fromarray(label), suffix).findings == []


def _saved(tmp_path: Path) -> Path:
    Image.fromarray(GREY).save(tmp_path / "control.png")
    return tmp_path / "control.png"


def test_pictures_of_other_values_or_sizes_are_refused(tmp_path: Path) -> None:
    mask = (GREY > 100).astype(np.uint8)
    colour = np.stack([mask * 200, mask, mask * 0], axis=-1).astype(np.uint8)
    assert codes(picture_pair(tmp_path, Image.fromarray(mask * 255))) == {("reject", "LABEL")}
    assert codes(picture_pair(tmp_path, Image.fromarray(colour))) == {("reject", "LABEL")}
    assert codes(picture_pair(tmp_path, Image.fromarray(mask), ".jpg")) == {("reject", "LABEL")}
    assert codes(picture_pair(tmp_path, Image.fromarray(mask[:, :-1].copy()))) == {("reject", "GEOMETRY")}
    assert codes(picture_pair(tmp_path, Image.fromarray(mask * 0))) == {("warn", "LABEL")}


def test_a_picture_beside_an_image_that_knows_its_place_is_warned_about(tmp_path: Path) -> None:
    mask = (GREY > 100).astype(np.uint8)
    image = write(tmp_path / "image.nii.gz", nifti(phantom((36, 40))))  # read as 40 rows of 36 columns
    Image.fromarray(mask).save(tmp_path / "label.png")
    assert codes(inspect_pair(image, tmp_path / "label.png", 2)) == {("warn", "GEOMETRY")}
    Image.fromarray(mask.T.copy()).save(tmp_path / "label.png")
    assert codes(inspect_pair(image, tmp_path / "label.png", 2)) == {("reject", "GEOMETRY")}


@pytest.mark.shared_data
def test_real_pairs_are_taken(shared_data: Path) -> None:
    labels = sorted(shared_data.glob("*/labelsTr/*.nii.gz"))[::40]
    pairs = [(path.parents[1] / "imagesTr" / path.name, path) for path in labels]
    pairs = [(image, label) for image, label in pairs if image.exists()]
    assert pairs
    for image, label in pairs:
        assert inspect_pair(image, label).findings == [], label

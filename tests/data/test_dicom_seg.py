# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""DICOM SEG written, and read by pydicom, highdicom and SimpleITK as well as by us."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from monai_cluster.data import read_dicom_seg, read_volume, write_dicom_seg

from .dicom_files import write_slice

highdicom = pytest.importorskip("highdicom", reason="DICOM SEG needs the extra monai-cluster[dicom]")

NAMES = ["background", "organ", "lesion", "vessel"]
COLUMNS, ROWS, SLICES = 7, 5, 6  # 35 pixels: frames do not begin at whole bytes
ROW = np.array([np.cos(0.3), np.sin(0.3), 0.0])
COLUMN = np.array([-np.sin(0.3) * np.cos(0.4), np.cos(0.3) * np.cos(0.4), np.sin(0.4)])
ORIGIN, STEP = np.array([-31.5, 17.25, 240.0]), 3.5 * np.cross(ROW, COLUMN)


def write_oblique(folder: Path, places: tuple[float, ...] = tuple(range(SLICES)), **tags: Any) -> Path:
    """A tilted series of 0.5 by 0.7 mm pixels; file names, instances and places are in three different orders."""
    folder.mkdir(parents=True)
    pixels = np.random.default_rng(1).integers(0, 2000, (len(places), ROWS, COLUMNS))
    common = {
        "ImageOrientationPatient": [round(float(value), 9) for value in (*ROW, *COLUMN)],
        "FrameOfReferenceUID": "1.2.9",
        "PatientName": "Doe^Jane",
        "PatientID": "secret",
        "PatientSex": "F",
    }
    for k, place in enumerate(places):
        position = [round(float(value), 6) for value in ORIGIN + place * STEP]
        write_slice(folder / f"{(k * 5 + 3) % 11:02d}.dcm", pixels[k], "1.2.4", None,
                    ImagePositionPatient=position, **common | tags)  # fmt: skip
    return folder


def height(one: Any) -> float:
    """In steps above the first slice."""
    return float((np.array(one.ImagePositionPatient) - ORIGIN) @ STEP / (STEP @ STEP))


def class_ids(shape: tuple[int, ...] = (COLUMNS, ROWS, SLICES), classes: int = 4, seed: int = 2) -> np.ndarray:
    """Without a symmetry; the first and the last slice are empty."""
    ids = np.random.default_rng(seed).integers(0, classes, shape).astype(np.uint8)
    ids[:, :, [0, -1]] = 0
    return ids


@pytest.fixture
def series(tmp_path: Path) -> Path:
    return write_oblique(tmp_path / "series")


@pytest.fixture
def written(series: Path, tmp_path: Path) -> Path:
    return write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", NAMES)


def edited(written: Path, change: Callable[[Any], object]) -> Path:
    """The object with a change."""
    seg = pydicom.dcmread(written)
    change(seg)
    seg.save_as(written)
    return written


def voxels(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """``N 4``: RAS mm and class id of every voxel that has one."""
    index = np.argwhere(values)
    return np.column_stack([nib.affines.apply_affine(affine, index), values[tuple(index.T)]])


def assert_same_places(found: np.ndarray, expected: np.ndarray, tolerance: float = 1e-3) -> None:
    """The same labelled points, in whatever order."""
    assert len(found) == len(expected) > 0
    # Points of a grid are sorted safely along a direction in which no two share a coordinate.
    along = np.array([0.6180339, 0.4142135, 0.7320508])
    ordered = [points[np.argsort(points[:, :3] @ along)] for points in (found, expected)]
    np.testing.assert_allclose(ordered[0], ordered[1], atol=tolerance)


def places_by_pydicom(path: Path) -> np.ndarray:
    """``N 4``: RAS mm and segment number of every voxel, from the tags alone."""
    seg = pydicom.dcmread(path)
    shared, points = seg.SharedFunctionalGroupsSequence[0], []
    frames = seg.pixel_array.reshape(-1, seg.Rows, seg.Columns)
    row, column = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, dtype=float).reshape(2, 3)
    down, right = (float(value) for value in shared.PixelMeasuresSequence[0].PixelSpacing)
    for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, frames, strict=True):
        holder = group if "SegmentIdentificationSequence" in group else shared
        number = holder.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        corner = np.array(group.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        for i, j in np.argwhere(frame):
            points.append([*((corner + j * right * row + i * down * column) * (-1, -1, 1)), number])
    return np.array(points)


def places_by_highdicom(path: Path) -> np.ndarray:
    volume = highdicom.seg.segread(path).get_volume(combine_segments=True)
    return voxels(volume.array, np.diag([-1.0, -1, 1, 1]) @ volume.affine)


def places_by_simpleitk(path: Path) -> np.ndarray:
    """Only for objects of one segment without gaps: ITK takes frames for slices of one volume."""
    image = sitk.ReadImage(str(path))
    index = np.argwhere(sitk.GetArrayFromImage(image))[:, ::-1]
    return np.array(
        [[*np.multiply(image.TransformIndexToPhysicalPoint(one.tolist()), (-1, -1, 1)), 1] for one in index]
    )


# writing


def test_a_round_trip_through_a_tilted_shuffled_series_keeps_every_voxel(series: Path, written: Path) -> None:
    found = read_dicom_seg(written, series)
    np.testing.assert_array_equal(found.values, class_ids())
    np.testing.assert_allclose(found.affine, read_volume(series).affine, atol=1e-9)
    assert found.names == {1: "organ", 2: "lesion", 3: "vessel"}
    assert found.values.dtype == np.uint8


def test_each_frame_lies_at_the_slice_that_it_refers_to_and_has_its_voxels(series: Path, written: Path) -> None:
    headers = [pydicom.dcmread(path) for path in series.iterdir()]
    place = {one.SOPInstanceUID: round(height(one)) for one in headers}
    position = {one.SOPInstanceUID: list(one.ImagePositionPatient) for one in headers}
    seg, ids = pydicom.dcmread(written), class_ids()
    assert seg.NumberOfFrames == 3 * (SLICES - 2)
    for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        (source,) = group.DerivationImageSequence[0].SourceImageSequence
        assert list(group.PlanePositionSequence[0].ImagePositionPatient) == position[source.ReferencedSOPInstanceUID]
        number = group.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        mask = ids[:, :, place[source.ReferencedSOPInstanceUID]] == number
        np.testing.assert_array_equal(frame, mask.T)
    (referenced,) = seg.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == "1.2.4"
    assert {one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence} == set(place)


def test_pydicom_and_highdicom_see_the_voxels_where_the_series_has_them(series: Path, written: Path) -> None:
    expected = voxels(class_ids(), np.asarray(read_volume(series).affine))
    assert_same_places(places_by_pydicom(written), expected)
    assert_same_places(places_by_highdicom(written), expected)
    mirrored = voxels(class_ids()[::-1], np.asarray(read_volume(series).affine))
    with pytest.raises(AssertionError):
        assert_same_places(places_by_pydicom(written), mirrored)


def test_the_object_says_what_made_it(written: Path) -> None:
    seg = pydicom.dcmread(written)
    assert (seg.Modality, seg.SegmentationType, seg.ManufacturerModelName) == ("SEG", "BINARY", "monai_cluster")
    assert [int(one.SegmentNumber) for one in seg.SegmentSequence] == [1, 2, 3]
    for segment in seg.SegmentSequence:
        assert (segment.SegmentAlgorithmType, segment.SegmentAlgorithmName) == ("AUTOMATIC", "monai_cluster")
    colours = {tuple(segment.RecommendedDisplayCIELabValue) for segment in seg.SegmentSequence}
    assert len(colours) == 3


def test_algorithm_and_model_are_noted(series: Path, tmp_path: Path) -> None:
    path = write_dicom_seg(
        class_ids(), series, tmp_path / "o.dcm", NAMES, None, "organs", "2.1", model_sha256="ab" * 32
    )
    (algorithm,) = pydicom.dcmread(path).SegmentSequence[0].SegmentationAlgorithmIdentificationSequence
    assert (algorithm.AlgorithmName, algorithm.AlgorithmVersion) == ("organs", "2.1")
    assert algorithm.AlgorithmParameters == f"model_sha256={'ab' * 32}"


def test_a_class_without_voxels_is_described_and_has_no_frame(series: Path, tmp_path: Path) -> None:
    ids = class_ids()
    ids[ids == 2] = 0
    path = write_dicom_seg(ids, series, tmp_path / "out.dcm", NAMES)
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    assert {one.SegmentIdentificationSequence[0].ReferencedSegmentNumber for one in groups} == {1, 3}
    found = read_dicom_seg(path, series)
    assert found.names[2] == "lesion"
    np.testing.assert_array_equal(found.values, ids)


def test_a_prediction_of_nothing_is_one_empty_frame_per_class(series: Path, tmp_path: Path) -> None:
    nothing = np.zeros((COLUMNS, ROWS, SLICES), np.int64)
    path = write_dicom_seg(nothing, series, tmp_path / "out.dcm", NAMES)
    seg = pydicom.dcmread(path)
    assert seg.NumberOfFrames == 3
    assert not seg.pixel_array.any()
    assert len(seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == SLICES
    found = read_dicom_seg(path, series)
    assert found.values.shape == nothing.shape
    assert not found.values.any()
    assert list(found.names) == [1, 2, 3]


def test_a_single_slice_and_a_single_class_round_trip(tmp_path: Path) -> None:
    series = write_oblique(tmp_path / "one", places=(0,))
    ids = np.random.default_rng(0).integers(0, 2, (COLUMNS, ROWS, 1))
    path = write_dicom_seg(ids, series, tmp_path / "out.dcm", NAMES[:2])
    np.testing.assert_array_equal(read_dicom_seg(path, series).values, ids)


def test_more_than_255_classes_round_trip(series: Path, tmp_path: Path) -> None:
    ids = np.zeros((COLUMNS, ROWS, SLICES), np.int32)
    ids[1, 2, 3], ids[4, 1, 2] = 299, 7
    path = write_dicom_seg(ids, series, tmp_path / "out.dcm", [f"class {k}" for k in range(300)])
    np.testing.assert_array_equal(read_dicom_seg(path, series).values, ids)


@pytest.mark.parametrize("places", [(0, 1, 2, 4, 5), (0, 1, 2.2, 3, 4)], ids=["missing slice", "uneven"])
def test_frames_of_an_uneven_series_lie_at_its_slices(tmp_path: Path, places: tuple[float, ...]) -> None:
    series = write_oblique(tmp_path / "s", places)
    ids = class_ids((COLUMNS, ROWS, len(places)))
    path = write_dicom_seg(ids, series, tmp_path / "out.dcm", NAMES)
    groups = pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    assert {round(height(group.PlanePositionSequence[0]), 3) for group in groups} == set(places[1:-1])
    with pytest.warns(UserWarning, match=r"missing|not uniform"):
        found = read_volume(series)
    again = read_dicom_seg(path, series)
    np.testing.assert_array_equal(again.values, ids)
    np.testing.assert_allclose(again.affine, found.affine)


def test_a_sheared_series_keeps_its_shear(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    folder.mkdir()
    for k in range(4):
        write_slice(folder / f"{k}.dcm", np.zeros((ROWS, COLUMNS)), "1.2.4", 0.0,
                    ImagePositionPatient=[0, 0.5 * k, 3.0 * k], FrameOfReferenceUID="1.2.9")  # fmt: skip
    ids = class_ids((COLUMNS, ROWS, 4))
    path = write_dicom_seg(ids, folder, tmp_path / "out.dcm", NAMES)
    np.testing.assert_array_equal(read_dicom_seg(path, folder).values, ids)
    alone = read_dicom_seg(path)
    np.testing.assert_allclose(alone.affine[:3, 2], [0, -0.5, 3.0])
    np.testing.assert_array_equal(alone.values, ids[:, :, 1:3])


# identifiers


def test_the_patient_and_the_study_are_repeated_and_nothing_else_of_the_person(tmp_path: Path) -> None:
    private = {"PatientWeight": "81.2375", "PatientAge": "042Y", "InstitutionName": "General Hospital",
               "StationName": "CT7", "PatientComments": "phone 555", "OperatorsName": "Miller", "Manufacturer": "Maker",
               "OtherPatientIDs": "other77"}  # fmt: skip
    needed = {"PatientBirthDate": "19700102", "AccessionNumber": "A1", "StudyDate": "20200304", "StudyID": "S5",
              "ReferringPhysicianName": "Smith", "StudyTime": "101112"}  # fmt: skip
    series = write_oblique(tmp_path / "s", **private, **needed)
    path = write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", NAMES)
    seg = pydicom.dcmread(path)
    for keyword, value in needed.items():
        assert seg[keyword].value == value
    assert (seg.PatientName, seg.PatientID, seg.PatientSex) == ("Doe^Jane", "secret", "F")
    assert (seg.StudyInstanceUID, seg.FrameOfReferenceUID) == ("1.2.3", "1.2.9")
    assert seg.SeriesInstanceUID not in ("1.2.4", "")
    written = path.read_bytes()
    assert [value for value in private.values() if value.encode() in written] == []


@pytest.mark.parametrize(
    ("character_set", "name"),
    [("ISO_IR 100", "Müller^Jörg"), (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎"), ("ISO_IR 192", "Жуков^Я")],
)
def test_names_in_any_script_stand_beside_classes_in_any_other(tmp_path: Path, character_set: Any, name: str) -> None:
    series = write_oblique(tmp_path / "s", SpecificCharacterSet=character_set, PatientName=name)
    path = write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", ["bg", "Läsion", "肝臓", "сосуд"])
    assert str(pydicom.dcmread(path).PatientName) == name
    assert read_dicom_seg(path).names == {1: "Läsion", 2: "肝臓", 3: "сосуд"}


def test_odd_values_in_the_source_neither_stop_the_object_nor_reach_the_log(tmp_path: Path, caplog, capfd) -> None:
    odd = {
        "PatientName": "Doe=Jane=x=y=z",
        "PatientSex": "WOMAN!",
        "PatientBirthDate": "1970/01/02x",
        "StudyTime": "99",
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        series = write_oblique(tmp_path / "s", StudyInstanceUID="1.02.777.5", **odd)
    assert "WOMAN!" in caplog.text, "pydicom says such things, as here where the series is made"
    caplog.clear()
    capfd.readouterr()
    with warnings.catch_warnings(record=True) as said, caplog.at_level(logging.DEBUG):
        warnings.simplefilter("always")
        path = write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", NAMES)
        read_dicom_seg(path, series)
    everything = "".join([*map(str, said), caplog.text, *capfd.readouterr()])
    assert [value for value in (*odd.values(), "1.02.777.5", "1.2.4", "secret") if value in everything] == []
    raw = path.read_bytes()
    assert all(value.encode() in raw for value in (*odd.values(), "1.02.777.5"))


def test_a_series_without_patient_tags_gets_empty_ones(tmp_path: Path) -> None:
    series = write_oblique(tmp_path / "s")
    for file in series.iterdir():
        one = pydicom.dcmread(file)
        for keyword in ("PatientName", "PatientID", "PatientSex"):
            delattr(one, keyword)
        one.save_as(file)
    seg = pydicom.dcmread(write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", NAMES))
    assert [str(seg[keyword].value or "") for keyword in ("PatientName", "PatientID", "PatientSex", "StudyID")] == [
        ""
    ] * 4


# refusals of writing


def test_a_mirrored_grid_is_refused(series: Path, tmp_path: Path) -> None:
    affine = np.asarray(read_volume(series).affine)
    mirror = np.diag([-1.0, 1, 1, 1])
    mirror[0, 3] = COLUMNS - 1
    write_dicom_seg(class_ids(), series, tmp_path / "right.dcm", NAMES, affine)
    with pytest.raises(ValueError, match=r"corners are up to 4\.20 mm from its corners \(mirrored, shifted"):
        write_dicom_seg(class_ids()[::-1], series, tmp_path / "wrong.dcm", NAMES, affine @ mirror)
    assert not (tmp_path / "wrong.dcm").exists()


def test_class_ids_of_another_shape_are_refused(series: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"grid of \(7, 5, 6\) \(columns, rows, slices\), got \(5, 7, 6\)"):
        write_dicom_seg(class_ids().transpose(1, 0, 2), series, tmp_path / "out.dcm", NAMES)


@pytest.mark.parametrize("value", [4, 256 + 1, -1, 0.5, np.nan])
def test_values_that_are_no_class_ids_are_refused(series: Path, tmp_path: Path, value: float) -> None:
    ids = class_ids().astype(type(value))
    ids[0, 0, 0] = value
    with pytest.raises(ValueError, match=r"whole numbers in 0\.\.3, one per class name"):
        write_dicom_seg(ids, series, tmp_path / "out.dcm", NAMES)


@pytest.mark.parametrize("name", ["", "x" * 65, "left\\right", "two\nlines"])
def test_names_that_dicom_cannot_hold_are_refused(series: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=r"1 to 64 printable characters and no backslash"):
        write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", [*NAMES[:3], name])


def test_a_background_alone_is_refused(series: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="background's and at least one more, got 1"):
        write_dicom_seg(class_ids() * 0, series, tmp_path / "out.dcm", NAMES[:1])


def test_an_existing_file_is_never_overwritten(series: Path, tmp_path: Path) -> None:
    (tmp_path / "out.dcm").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out\.dcm exists: choose another name"):
        write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", NAMES)
    assert (tmp_path / "out.dcm").read_text() == "mine"


def test_a_series_without_a_frame_of_reference_is_refused(tmp_path: Path) -> None:
    series = write_oblique(tmp_path / "s", FrameOfReferenceUID="")
    with pytest.raises(ValueError, match="but slices lack FrameOfReferenceUID: take the series"):
        write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", NAMES)


def test_slices_of_two_studies_are_refused(series: Path, tmp_path: Path) -> None:
    edited(next(series.iterdir()), lambda one: setattr(one, "StudyInstanceUID", "1.2.77"))
    with pytest.raises(ValueError, match=r"must share StudyInstanceUID: put"):
        write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", NAMES)


def test_images_of_a_private_kind_are_refused(tmp_path: Path) -> None:
    series = write_oblique(tmp_path / "s", SOPClassUID="1.3.12.2.1107.5.9.1")
    with pytest.raises(ValueError, match=r"the series is of a private one \(SOPClassUID\): export"):
        write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", NAMES)


def test_slices_with_a_frame_of_reference_each_are_warned_about_and_readable(tmp_path: Path) -> None:
    series = write_oblique(tmp_path / "s")
    for number, file in enumerate(series.iterdir()):
        edited(file, lambda one, number=number: setattr(one, "FrameOfReferenceUID", f"1.2.9.{number + 1}"))
    with pytest.warns(UserWarning, match="s: 6 slices name 6 frames of reference") as said:
        path = write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", NAMES)
    assert "1.2.9" not in str(said[0].message)
    np.testing.assert_array_equal(read_dicom_seg(path, series).values, class_ids())


# reading


def test_without_the_series_the_smallest_grid_holds_the_same_voxels_at_the_same_places(series, written) -> None:
    whole, alone = read_dicom_seg(written, series), read_dicom_seg(written)
    assert alone.values.shape == (COLUMNS, ROWS, SLICES - 2)
    assert_same_places(voxels(alone.values, alone.affine), voxels(whole.values, whole.affine), 1e-4)


def test_a_gap_between_frames_becomes_empty_slices(series: Path, tmp_path: Path) -> None:
    ids = class_ids()
    ids[:, :, 3] = 0  # left are slices 1, 2 and 4
    path = write_dicom_seg(ids, series, tmp_path / "out.dcm", NAMES)
    np.testing.assert_array_equal(read_dicom_seg(path).values, ids[:, :, 1:5])

    def forget(seg: Any) -> None:
        del seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices

    np.testing.assert_array_equal(read_dicom_seg(edited(path, forget)).values, ids[:, :, 1:5])


def test_slices_that_the_object_skips_lie_between_those_it_has(series: Path, tmp_path: Path) -> None:
    ids = class_ids()
    ids[:, :, [2, 4]] = 0  # left are slices 1 and 3
    path = write_dicom_seg(ids, series, tmp_path / "out.dcm", NAMES)
    np.testing.assert_array_equal(read_dicom_seg(path).values, ids[:, :, 1:4])


@pytest.mark.parametrize("classes", [1, 4], ids=["nothing", "something"])
def test_the_object_says_how_far_slices_are_apart(series: Path, tmp_path: Path, classes: int) -> None:
    path = write_dicom_seg(class_ids(classes=classes), series, tmp_path / "out.dcm", NAMES)
    found = measures(pydicom.dcmread(path))
    assert found.PixelSpacing == [0.5, 0.7]
    assert float(found.SpacingBetweenSlices) == pytest.approx(3.5, abs=1e-6)
    assert float(found.SliceThickness) == pytest.approx(3.5, abs=1e-6), "the source does not say"


def test_the_slice_thickness_is_the_sources(tmp_path: Path) -> None:
    series = write_oblique(tmp_path / "s", (0, 1, 2.2, 3, 4), SliceThickness=2.0)
    ids = class_ids((COLUMNS, ROWS, 5))
    found = measures(pydicom.dcmread(write_dicom_seg(ids, series, tmp_path / "out.dcm", NAMES)))
    assert float(found.SliceThickness) == 2.0
    assert "SpacingBetweenSlices" not in found, "uneven"


def test_masks_are_the_classes_one_by_one(series: Path, written: Path) -> None:
    masks = read_dicom_seg(written, series, masks=True).values
    np.testing.assert_array_equal(masks, np.stack([class_ids() == number for number in (1, 2, 3)]))


def by_highdicom(series: Path, path: Path, pixels: np.ndarray, kind: str = "BINARY", **options: Any) -> Path:
    """Another writer: ``slices rows columns`` or ``slices rows columns segments`` on the sorted series."""
    headers = [pydicom.dcmread(file) for file in series.iterdir()]
    headers.sort(key=lambda one: float(np.array(one.ImagePositionPatient) @ STEP))
    for one in headers:
        one.SliceThickness, one.PatientBirthDate, one.StudyID, one.AccessionNumber = 3.5, "", "", ""
        one.StudyDate, one.StudyTime = None, None
    tissue = pydicom.sr.codedict.codes.SCT.Tissue
    number = pixels.shape[-1] if pixels.ndim == 4 else 3
    segments = [highdicom.seg.SegmentDescription(k + 1, NAMES[k + 1], tissue, tissue, "MANUAL") for k in range(number)]
    seg = highdicom.seg.Segmentation(
        headers, pixels, kind, segments, "1.2.50", 9, "1.2.51", 1, "m", "m", "1", "0", **options
    )  # fmt: skip
    seg.save_as(path)
    return path


def test_overlapping_segments_are_refused_as_class_ids_and_read_as_masks(series: Path, tmp_path: Path) -> None:
    masks = np.zeros((3, COLUMNS, ROWS, SLICES), bool)
    masks[0, 1:4, 1:3, 1:3], masks[1, 2:6, 2:5, 2:4], masks[2, 6, 0, 1] = True, True, True
    path = by_highdicom(series, tmp_path / "o.dcm", masks.transpose(3, 2, 1, 0).astype(np.uint8))
    with pytest.raises(ValueError, match=r"1 pairs do, such as 1 and 2 in 2 voxels: read one mask per segment"):
        read_dicom_seg(path, series)
    np.testing.assert_array_equal(read_dicom_seg(path, series, masks=True).values, masks)


def test_a_fractional_object_is_read_if_it_is_all_or_nothing(series: Path, tmp_path: Path) -> None:
    planes = class_ids().transpose(2, 1, 0)
    stack = np.stack([planes == number for number in (1, 2, 3)], axis=-1).astype(np.float64)
    whole = by_highdicom(series, tmp_path / "whole.dcm", stack, "FRACTIONAL", max_fractional_value=200)
    np.testing.assert_array_equal(read_dicom_seg(whole, series).values, class_ids())
    part = by_highdicom(series, tmp_path / "part.dcm", stack * 0.5, "FRACTIONAL")
    with pytest.raises(ValueError, match="got fractional values between 0 and 255: give them a threshold"):
        read_dicom_seg(part, series)


def test_a_label_map_is_read(series: Path, tmp_path: Path) -> None:
    if not hasattr(highdicom.seg.SegmentationTypeValues, "LABELMAP"):
        pytest.skip("this highdicom writes no label maps")
    path = by_highdicom(series, tmp_path / "map.dcm", class_ids().transpose(2, 1, 0), "LABELMAP")
    found = read_dicom_seg(path, series)
    np.testing.assert_array_equal(found.values, class_ids())
    assert found.names == {1: "organ", 2: "lesion", 3: "vessel"}
    assert read_dicom_seg(path, masks=True).values.shape[0] == 3
    # highdicom describes the background too
    edited(path, lambda seg: setattr(seg, "SegmentSequence", seg.SegmentSequence[:-1]))
    with pytest.raises(ValueError, match=r"belong to segments \[3\], which nothing describes"):
        read_dicom_seg(path, series)


# refusals of reading


def test_files_that_are_no_segmentation_are_refused(series: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.dcm").write_text("no DICOM")
    with pytest.raises(ValueError, match=r"notes\.dcm is none"):
        read_dicom_seg(tmp_path / "notes.dcm")
    with pytest.raises(FileNotFoundError):
        read_dicom_seg(tmp_path / "none.dcm")
    with pytest.raises(ValueError, match="is of modality CT; choose another file"):
        read_dicom_seg(next(series.iterdir()))


def test_an_object_of_another_frame_of_reference_is_refused(series: Path, written: Path) -> None:
    edited(written, lambda seg: setattr(seg, "FrameOfReferenceUID", "1.2.10"))
    with pytest.raises(ValueError, match="share its series' frame of reference") as caught:
        read_dicom_seg(written, series)
    assert "1.2.10" not in str(caught.value)


def test_an_object_of_another_size_is_refused(written: Path, tmp_path: Path) -> None:
    write_slice(tmp_path / "one.dcm", np.zeros((6, 8)), "1.2.4", 0.0, FrameOfReferenceUID="1.2.9")
    (tmp_path / "other").mkdir()
    (tmp_path / "one.dcm").rename(tmp_path / "other" / "one.dcm")
    with pytest.raises(ValueError, match=r"got \(7, 5\) columns and rows for slices of \(8, 6\)"):
        read_dicom_seg(written, tmp_path / "other")


def measures(seg: Any) -> Any:
    return seg.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]


def orientation(seg: Any) -> Any:
    return seg.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0]


def position(seg: Any, frame: int) -> Any:
    return seg.PerFrameFunctionalGroupsSequence[frame].PlanePositionSequence[0]


@pytest.mark.parametrize(
    "change",
    [
        lambda seg: setattr(measures(seg), "PixelSpacing", [0.5, 0.72]),
        lambda seg: setattr(orientation(seg), "ImageOrientationPatient", [1, 0, 0, 0, 1, 0]),
        lambda seg: setattr(orientation(seg), "ImageOrientationPatient", [*-ROW.round(9), *COLUMN.round(9)]),
    ],
    ids=["spacing", "turned", "mirrored"],
)
def test_an_object_of_another_grid_is_refused(series: Path, written: Path, change: Callable[[Any], object]) -> None:
    with pytest.raises(ValueError, match=r"corners are up to .* mm off \(turned, mirrored or of other pixel spacing\)"):
        read_dicom_seg(edited(written, change), series)


@pytest.mark.parametrize("shift", [0.4, 70.0])
def test_frames_between_or_beyond_the_slices_are_refused(series: Path, written: Path, shift: float) -> None:
    def move(seg: Any) -> None:
        for frame in (0, 3):
            where = position(seg, frame)
            where.ImagePositionPatient = [
                round(float(old) + shift * float(d), 6)
                for old, d in zip(where.ImagePositionPatient, STEP / 3.5, strict=True)
            ]

    with pytest.raises(ValueError, match=r"but 2 of 12 are up to \d+\.\d\d mm from the nearest"):
        read_dicom_seg(edited(written, move), series)


def test_a_stack_of_frames_mirrored_against_its_references_is_caught(series: Path, written: Path) -> None:
    def mirror(seg: Any) -> None:
        groups = seg.PerFrameFunctionalGroupsSequence
        for low, high in zip(range(2), range(3, 1, -1), strict=True):
            one, other = (groups[k].PlanePositionSequence for k in (low, high))
            groups[low].PlanePositionSequence, groups[high].PlanePositionSequence = other, one

    with pytest.raises(ValueError, match="4 of 12 lie at others: the object contradicts itself"):
        read_dicom_seg(edited(written, mirror), series)


def test_uneven_frames_need_the_series(tmp_path: Path) -> None:
    series = write_oblique(tmp_path / "s", (0, 1, 2.3, 3, 4, 5))
    path = write_dicom_seg(class_ids(), series, tmp_path / "out.dcm", NAMES)
    with pytest.raises(ValueError, match=r"evenly spaced to form a grid, got distances of 2\.45 to 4\.55 mm: give the"):
        read_dicom_seg(path)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_object_is_refused(written: Path, share: float) -> None:
    whole = written.read_bytes()
    written.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"out\.dcm is truncated or damaged|missing in out\.dcm|file is truncated"):
        read_dicom_seg(written)


def drop(seg: Any, keyword: str) -> None:
    delattr(seg, keyword)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda seg: drop(seg, "SegmentSequence"), r"must have SegmentSequence, missing in out\.dcm"),
        (lambda seg: drop(seg, "PixelData"), r"must have PixelData, missing in out\.dcm"),
        (
            lambda seg: setattr(seg, "PixelData", seg.PixelData[:-4]),
            "pixels of 12 frames are wanted, got 11: the file is",
        ),
        (lambda seg: seg.PerFrameFunctionalGroupsSequence.pop(), "got 11 descriptions for 12 frames"),
        (lambda seg: drop(position(seg, 4), "ImagePositionPatient"), "must have ImagePositionPatient; write"),
        (lambda seg: seg.SegmentSequence.pop(), r"belong to segments \[3\], which nothing describes"),
        (
            lambda seg: setattr(
                seg.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence[0], "ReferencedSegmentNumber", 2
            ),
            "one frame per segment and place, got several",
        ),
    ],
    ids=["no segments", "no pixels", "cut", "frames not described", "no position", "no label", "doubled"],
)
def test_broken_objects_are_refused(series: Path, written: Path, change: Callable[[Any], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_dicom_seg(edited(written, change), series)


# real series


@pytest.fixture
def pet(shared_data: Path) -> Path:
    folder = shared_data / "dicom_pet_seg_qin"
    if not folder.is_dir():
        pytest.skip("the PET series is not among the real data")
    return folder


@pytest.mark.shared_data
def test_the_real_seg_is_the_rasterised_one_voxel_by_voxel(pet: Path) -> None:
    found = read_dicom_seg(pet / "SEG" / "tumor_seg.dcm", pet / "PET")
    label = nib.load(pet / "derived" / "label.nii.gz")
    np.testing.assert_array_equal(found.values, np.asarray(label.dataobj))
    np.testing.assert_allclose(found.affine, label.affine, atol=1e-3)
    assert np.bincount(found.values.ravel())[1:].tolist() == [54, 212]
    assert found.names == {1: "Neoplasm, Primary", 2: "Neoplasm, Secondary"}
    assert_same_places(places_by_pydicom(pet / "SEG" / "tumor_seg.dcm"), voxels(found.values, found.affine))
    alone = read_dicom_seg(pet / "SEG" / "tumor_seg.dcm")
    assert_same_places(voxels(alone.values, alone.affine), voxels(found.values, found.affine))


@pytest.mark.shared_data
def test_the_real_seg_written_again_is_the_same_to_three_libraries(pet: Path, tmp_path: Path) -> None:
    label = nib.load(pet / "derived" / "label.nii.gz")
    ids, affine = np.asarray(label.dataobj), label.affine
    names = ["background", "Neoplasm, Primary", "Neoplasm, Secondary"]
    path = write_dicom_seg(ids, pet / "PET", tmp_path / "out.dcm", names, affine)
    np.testing.assert_array_equal(read_dicom_seg(path, pet / "PET").values, ids)
    theirs = places_by_pydicom(pet / "SEG" / "tumor_seg.dcm")
    assert_same_places(places_by_pydicom(path), theirs)
    assert_same_places(places_by_highdicom(path), theirs)
    ours, original = pydicom.dcmread(path), pydicom.dcmread(pet / "SEG" / "tumor_seg.dcm")
    assert ours.NumberOfFrames == original.NumberOfFrames == 13
    assert references(ours) == references(original)
    for number in (1, 2):
        one = write_dicom_seg(ids == number, pet / "PET", tmp_path / f"{number}.dcm", ["background", "tumour"], affine)
        assert_same_places(places_by_simpleitk(one)[:, :3], theirs[theirs[:, 3] == number][:, :3])


def references(seg: Any) -> set[tuple[int, str, int]]:
    """Segment, source slice and number of voxels of each frame."""
    return {
        (
            int(group.SegmentIdentificationSequence[0].ReferencedSegmentNumber),
            str(group.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID),
            int(frame.sum()),
        )
        for group, frame in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True)
    }


@pytest.mark.shared_data
def test_the_real_nodule_lies_where_its_mask_lies(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom_ct_lidc0314"
    if not folder.is_dir():
        pytest.skip("the CT series is not among the real data")
    label = nib.load(folder / "derived" / "nodule_mask_50pct.nii.gz")
    ids = np.asarray(label.dataobj).astype(np.uint8)
    with pytest.warns(UserWarning, match="series: 33 slices name 33 frames of reference"):  # as LIDC-IDRI left them
        path = write_dicom_seg(ids, folder / "series", tmp_path / "out.dcm", ["background", "nodule"], label.affine)
    np.testing.assert_array_equal(read_dicom_seg(path, folder / "series").values, ids)
    expected = voxels(ids, label.affine)
    for places in (places_by_pydicom, places_by_highdicom, places_by_simpleitk):
        assert_same_places(places(path), expected)


@pytest.mark.shared_data
def test_a_mask_on_the_real_oblique_series_lies_where_its_affine_says(shared_data: Path, tmp_path: Path) -> None:
    folder = shared_data / "dicom_t1_studyforrest" / "series"
    if not folder.is_dir():
        pytest.skip("the T1 series is not among the real data")
    affine = np.asarray(read_volume(folder).affine)
    ids = np.zeros((274, 384, 80), np.uint8)
    ids[30:50, 50:80, 5:30], ids[100:130, 60:63, 20:71] = 1, 2
    path = write_dicom_seg(ids, folder, tmp_path / "out.dcm", NAMES[:3], affine)
    np.testing.assert_array_equal(read_dicom_seg(path, folder).values, ids)
    assert_same_places(places_by_pydicom(path), voxels(ids, affine))
    assert_same_places(places_by_highdicom(path), voxels(ids, affine))
    single = write_dicom_seg(ids == 1, folder, tmp_path / "single.dcm", NAMES[:2], affine)
    assert_same_places(places_by_simpleitk(single), voxels(ids == 1, affine))

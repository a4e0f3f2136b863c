# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Predictions lie where the image lies: in its affine, on its grid, voxel by voxel, in world millimetres."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image

from monai_cluster.apps import FinetunedModel, predict
from tests.apps.stand_ins import lesion_in_organ, levels, stand_in
from tests.data.dicom_files import write_slice

Run = Callable[..., tuple[Path, list[dict[str, Any]]]]
GEOMETRIES = {
    "LPS, 5 mm slices": ("LPS", (0.0, 0.0), (0.8, 0.8, 5.0)),
    "PIR, slices first": ("PIR", (0.0, 0.0), (0.7, 5.0, 1.1)),
    "ASL, slices in the middle": ("ASL", (0.0, 0.0), (1.2, 0.9, 3.0)),
    "oblique": ("RAS", (0.4, -0.3), (0.9, 0.7, 5.0)),
    "oblique, turned": ("SPL", (-0.2, 0.35), (0.6, 1.3, 4.0)),
}


def affine_of(code: str, angles: tuple[float, float], spacing: tuple[float, float, float]) -> np.ndarray:
    """An affine with this orientation code, these mm along the stored axes, tilted about x and then about z."""
    a, b = angles
    tilt = np.array([[1, 0, 0], [0, np.cos(a), -np.sin(a)], [0, np.sin(a), np.cos(a)]])
    tilt = np.array([[np.cos(b), -np.sin(b), 0], [np.sin(b), np.cos(b), 0], [0, 0, 1]]) @ tilt
    directions = nib.orientations.inv_ornt_aff(nib.orientations.axcodes2ornt(code), (1, 1, 1))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = tilt @ np.linalg.inv(directions) @ np.diag(spacing)
    affine[:3, 3] = (-31.5, 17.0, 240.0)
    assert "".join(nib.aff2axcodes(affine)) == code
    return affine


@pytest.fixture
def run(tmp_path: Path, monkeypatch) -> Run:
    """``run(model, rows, …)`` predicts rows of a datalist in ``tmp_path`` into ``tmp_path / "out"``."""

    def made(model: FinetunedModel, rows: list[dict[str, Any]], out: str = "out", **options: Any) -> Any:
        monkeypatch.setattr("monai_cluster.apps.prediction.load_finetuned", lambda path: model)
        (tmp_path / "list.json").write_text(json.dumps({"test": rows}))
        index = predict("model", str(tmp_path / "list.json"), str(tmp_path / out), device="cpu", **options)
        return index.parent, json.loads(index.read_text())["predictions"]

    return made


def hull_by_nibabel(box: list[int], affine: np.ndarray) -> list[float]:
    """Extent in mm of the eight outer corners of the voxels in a half-open box."""
    ends = [(low - 0.5, high - 0.5) for low, high in zip(box[:3], box[3:], strict=True)]
    corners = nib.affines.apply_affine(affine, list(itertools.product(*ends)))
    return [*corners.min(axis=0), *corners.max(axis=0)]


# segmentation


@pytest.mark.parametrize("name", GEOMETRIES)
@pytest.mark.parametrize("patch_size", [None, [16, 16, 4]], ids=["whole", "sliding window"])
def test_a_label_map_is_right_in_every_voxel_of_any_stored_grid(tmp_path, run: Run, name: str, patch_size) -> None:
    affine = affine_of(*GEOMETRIES[name])
    ids, _ = lesion_in_organ()
    source = nib.Nifti1Image(levels(ids).astype(np.float32), affine)
    (tmp_path / "scans").mkdir()
    source.to_filename(tmp_path / "scans" / "one.nii.gz")
    out, found = run(stand_in("segmentation", prediction={"patch_size": patch_size}), [{"image": "scans/one.nii.gz"}])
    assert found == [{"image": "scans/one.nii.gz", "prediction": "scans/one.nii.gz"}]
    written = nib.load(out / "scans" / "one.nii.gz")
    assert written.shape == ids.shape
    np.testing.assert_array_equal(written.affine, nib.load(tmp_path / "scans" / "one.nii.gz").affine)
    np.testing.assert_allclose(written.get_qform(), affine, atol=1e-4)
    assert written.header.get_zooms() == pytest.approx(source.header.get_zooms())
    np.testing.assert_array_equal(np.asarray(written.dataobj), ids)


@pytest.mark.parametrize("plane", ["coronal", "sagittal"])
def test_another_slicing_plane_changes_nothing_in_the_file(tmp_path, run: Run, plane: str) -> None:
    ids, _ = lesion_in_organ()
    nib.Nifti1Image(levels(ids), affine_of(*GEOMETRIES["oblique, turned"])).to_filename(tmp_path / "one.nii")
    out, _ = run(stand_in("segmentation", plane=plane), [{"image": "one.nii"}])
    np.testing.assert_array_equal(np.asarray(nib.load(out / "one.nii.gz").dataobj), ids)


def test_a_prediction_at_another_resolution_comes_back_to_the_files_own(tmp_path, run: Run) -> None:
    ids = np.kron(lesion_in_organ()[0], np.ones((2, 2, 2), np.uint8))
    affine = affine_of(*GEOMETRIES["oblique, turned"])
    nib.Nifti1Image(levels(ids), affine).to_filename(tmp_path / "one.nii.gz")
    out, _ = run(stand_in("segmentation", spacing=[1.0, 3.0, 0.8]), [{"image": "one.nii.gz"}])
    written = nib.load(out / "one.nii.gz")
    assert written.shape == ids.shape
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    organ, truth = np.asarray(written.dataobj) > 0, ids > 0
    assert 2 * (organ & truth).sum() / (organ.sum() + truth.sum()) > 0.9
    shift = np.argwhere(organ).mean(axis=0) - np.argwhere(truth).mean(axis=0)
    assert np.abs(shift).max() < 0.15, "in voxels"


@pytest.mark.parametrize("bits", [8, 16])
def test_a_picture_gets_a_picture_of_its_own_size(tmp_path, run: Run, bits: int) -> None:
    ids, _ = lesion_in_organ((20, 26))
    pixels = levels(ids).astype(np.uint8 if bits == 8 else np.uint16) * (1 if bits == 8 else 250)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    out, found = run(stand_in("segmentation", dims=2), [{"image": "one.png"}])
    assert found[0]["prediction"] == "one.png"
    np.testing.assert_array_equal(np.asarray(Image.open(out / "one.png")), ids)


@pytest.mark.parametrize(
    ("suffix", "shape"), [(".nii.gz", (20, 26, 1)), (".nii.gz", (20, 26)), (".mha", (20, 26, 1))], ids=str
)
def test_a_single_slice_keeps_the_axes_of_its_file(tmp_path, run: Run, suffix: str, shape: tuple[int, ...]) -> None:
    """Images are turned upright for the network."""
    ids = lesion_in_organ((20, 26))[0].reshape(shape)
    spacing = [5.0 if length == 1 else 0.6 + 0.2 * axis for axis, length in enumerate((*shape, 1)[:3])]
    affine = affine_of("RSA", (0.2, 0.1), tuple(spacing))
    if suffix == ".mha":
        write_mha(tmp_path / "one.mha", levels(ids), affine)
    else:
        nib.Nifti1Image(levels(ids), affine).to_filename(tmp_path / "one.nii.gz")
    out, _ = run(stand_in("segmentation", dims=2), [{"image": f"one{suffix}", "kind": "image"}])
    written = nib.load(out / "one.nii.gz")
    assert written.shape == shape
    np.testing.assert_allclose(written.affine, affine, atol=1e-5)
    np.testing.assert_array_equal(np.asarray(written.dataobj), ids)


def write_mha(path: Path, values: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """The same voxels and places as a NIfTI file with this affine."""
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T.astype(np.float32)))
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(path))
    return image


def test_an_oblique_mha_gets_labels_at_the_places_where_simpleitk_puts_its_voxels(tmp_path, run: Run) -> None:
    ids, _ = lesion_in_organ()
    image = write_mha(tmp_path / "one.mha", levels(ids), affine_of(*GEOMETRIES["oblique, turned"]))
    out, _ = run(stand_in("segmentation"), [{"image": "one.mha"}])
    written = sitk.ReadImage(str(out / "one.nii.gz"))
    assert written.GetSize() == image.GetSize()
    for index in itertools.product((0, 19), (0, 25), (0, 8)):
        there = image.TransformIndexToPhysicalPoint(index)
        assert written.TransformIndexToPhysicalPoint(index) == pytest.approx(there, abs=1e-4)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(written), ids.T)


def write_dicom(folder: Path, ids: np.ndarray) -> None:
    """Slices of 3.5 mm whose file names say nothing about their order; air, 100 and 200 HU."""
    folder.mkdir(parents=True)
    for k in range(ids.shape[2]):
        pixels = np.array([24, 1124, 1224])[ids[..., k].T]  # rows run along y
        write_slice(folder / f"{(k * 7 + 3) % 101:03d}.dcm", pixels, "1.2.4", 30 + 3.5 * k)


def test_a_dicom_series_gets_labels_at_the_places_that_its_headers_say(tmp_path, run: Run) -> None:
    ids, _ = lesion_in_organ()
    write_dicom(tmp_path / "1.2.840.77", ids)
    write_dicom(tmp_path / "1.2.840.78", ids[::-1])
    rows = [{"image": "1.2.840.77"}, {"image": "1.2.840.78"}]
    out, found = run(stand_in("segmentation", window=[0, 200]), rows)
    assert [one["prediction"] for one in found] == ["1.2.840.77.nii.gz", "1.2.840.78.nii.gz"]
    for entry, truth in zip(found, (ids, ids[::-1]), strict=True):
        written = nib.load(out / entry["prediction"])
        to_index = np.linalg.inv(written.affine)
        columns, rows_, slices = np.meshgrid(*[np.arange(length) for length in truth.shape], indexing="ij")
        # pixel spacing .5 mm between rows and .7 between columns, the first at (10, 20), in LPS
        places = np.stack([-(10 + 0.7 * columns), -(20 + 0.5 * rows_), 30 + 3.5 * slices], axis=-1)
        index = nib.affines.apply_affine(to_index, places)
        np.testing.assert_allclose(index, index.round(), atol=1e-3)
        there = np.asarray(written.dataobj)[tuple(np.moveaxis(index.round().astype(int), -1, 0))]
        np.testing.assert_array_equal(there, truth)
        assert written.shape == truth.shape


# detection


@pytest.mark.parametrize("name", GEOMETRIES)
def test_boxes_enclose_the_lesion_in_voxels_and_in_world_millimetres(tmp_path, run: Run, name: str) -> None:
    affine = affine_of(*GEOMETRIES[name])
    ids, box = lesion_in_organ()
    nib.Nifti1Image(levels(ids).astype(np.float32), affine).to_filename(tmp_path / "one.nii.gz")
    _, found = run(stand_in("detection"), [{"image": "one.nii.gz"}])
    (one,) = found[0]["detections"]
    stored = nib.load(tmp_path / "one.nii.gz").affine
    assert one["box_voxel"] == pytest.approx(box, abs=1e-4)
    assert one["box_mm"] == pytest.approx(hull_by_nibabel(box, stored), abs=1e-3)
    assert one["center_mm"] == pytest.approx(nib.affines.apply_affine(stored, np.argwhere(ids == 2).mean(0)), abs=1e-3)
    lengths = np.subtract(box[3:], box[:3]) * GEOMETRIES[name][2]
    assert one["size_mm"] == pytest.approx(lengths, abs=1e-3)
    assert (one["class"], one["label"], one["score"]) == ("lesion", 0, pytest.approx(0.9))


def test_boxes_found_at_another_resolution_are_the_files_to_within_half_a_new_voxel(tmp_path, run: Run) -> None:
    ids, box = lesion_in_organ()
    affine = affine_of("LPS", (0, 0), (0.8, 0.8, 5.0))
    nib.Nifti1Image(levels(ids), affine).to_filename(tmp_path / "one.nii.gz")
    _, found = run(stand_in("detection", spacing=[0.4, 0.4, 2.5]), [{"image": "one.nii.gz"}])
    (one,) = found[0]["detections"]
    off = np.abs(np.subtract(one["box_mm"], hull_by_nibabel(box, affine)))
    assert (off <= np.array([0.4, 0.4, 2.5] * 2) + 1e-4).all(), off


def test_boxes_in_a_picture_name_the_column_first(tmp_path, run: Run) -> None:
    ids, (top, left, bottom, right) = lesion_in_organ((20, 26))
    Image.fromarray(levels(ids).astype(np.uint8)).save(tmp_path / "one.png")
    _, found = run(stand_in("detection", dims=2), [{"image": "one.png"}])
    assert found[0]["detections"][0]["box_voxel"] == pytest.approx([left, top, right, bottom])
    _, found = run(stand_in("detection", dims=2, image_size=52), [{"image": "one.png"}], out="larger")
    # 26 columns on 52 pixels; the bright part's edge moves by at most one of these.
    assert found[0]["detections"][0]["box_voxel"] == pytest.approx([left, top, right, bottom], abs=0.51)


def test_an_image_without_a_finding_has_an_empty_list(tmp_path, run: Run) -> None:
    ids = np.minimum(lesion_in_organ()[0], 1)
    ids[0, 0, 0] = 2  # one bright voxel is what the 99.5th percentile leaves out
    nib.Nifti1Image(levels(ids) * [[[0.0]]], np.eye(4)).to_filename(tmp_path / "one.nii.gz")
    _, found = run(stand_in("detection"), [{"image": "one.nii.gz"}])
    assert found == [{"image": "one.nii.gz", "detections": []}]


# classification, names, frames


def test_probabilities_have_the_names_of_the_classes(tmp_path, run: Run) -> None:
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:2] = 200
    Image.fromarray(pixels).save(tmp_path / "one.png")
    _, found = run(stand_in("classification", dims=2), [{"image": "one.png"}])
    assert found == [{"image": "one.png", "probabilities": {"dark": 0.75, "bright": 0.25}}]


def test_frames_of_one_file_get_predictions_of_their_own(tmp_path, run: Run) -> None:
    ids, _ = lesion_in_organ()
    both = np.stack([ids, ids[::-1]], axis=-1)
    nib.Nifti1Image(levels(both), np.diag([-1.0, 1, 5, 1])).to_filename(tmp_path / "beat.nii.gz")
    rows = [{"image": "beat.nii.gz", "frame": frame, "kind": "volume"} for frame in (0, 1)]
    out, found = run(stand_in("segmentation"), rows)
    assert [one["image"] for one in found] == ["beat.nii.gz#0", "beat.nii.gz#1"]
    assert [one["prediction"] for one in found] == ["beat_0.nii.gz", "beat_1.nii.gz"]
    for frame, entry in enumerate(found):
        np.testing.assert_array_equal(np.asarray(nib.load(out / entry["prediction"]).dataobj), both[..., frame])


def test_sources_of_one_stem_never_share_a_prediction(tmp_path, run: Run) -> None:
    ids, _ = lesion_in_organ()
    names = ["scan_1.nii.gz", "scan.nii.gz", "scan.nii", "scan.mha", "a/scan.nii.gz"]
    (tmp_path / "a").mkdir()
    for place, name in enumerate(names):
        shifted = np.roll(ids, place, axis=0)
        if name.endswith(".mha"):
            write_mha(tmp_path / name, levels(shifted), np.eye(4))
        else:
            nib.Nifti1Image(levels(shifted), np.eye(4)).to_filename(tmp_path / name)
    out, found = run(stand_in("segmentation"), [{"image": name} for name in names])
    assert len({one["prediction"] for one in found}) == len(names)
    for place, entry in enumerate(found):
        there = np.asarray(nib.load(out / entry["prediction"]).dataobj)
        np.testing.assert_array_equal(there, np.roll(ids, place, axis=0))


# options and refusals


def test_flips_average_over_the_axes_mirrored_in_training_and_the_models_own_are_kept(tmp_path, run, monkeypatch):
    pixels = levels(lesion_in_organ((20, 26))[0]).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    seen: list[np.ndarray] = []
    forward = type(stand_in("segmentation").network).forward

    def noting(self, image):
        seen.append(image[0, 0].numpy().copy())
        return forward(self, image)

    monkeypatch.setattr(type(stand_in("segmentation").network), "forward", noting)
    for number, (model, options, mirrored) in enumerate(
        [
            (stand_in("segmentation", 2, recipe={"flip_axes": [1]}), {}, []),
            (stand_in("segmentation", 2, recipe={"flip_axes": [1]}), {"flips": True}, [1]),
            (stand_in("segmentation", 2, prediction={"flip_axes": [0]}), {}, [0]),  # as it was validated
        ]
    ):
        seen.clear()
        run(model, [{"image": "one.png"}], out=f"out{number}", **options)
        assert len(seen) == 1 + len(mirrored)
        for axis, image in zip(mirrored, seen[1:], strict=True):
            np.testing.assert_array_equal(image, np.flip(seen[0], axis))


def test_flips_that_would_change_nothing_are_refused(tmp_path, run: Run) -> None:
    Image.fromarray(levels(lesion_in_organ((20, 26))[0]).astype(np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"mirrored as in training, which this model never saw: leave it off"):
        run(stand_in("segmentation", dims=2), [{"image": "one.png"}], flips=True)
    with pytest.raises(ValueError, match=r"which this detector cannot: leave it off"):
        run(stand_in("detection", 2, recipe={"flip_axes": [0]}), [{"image": "one.png"}], out="two", flips=True)


def test_a_folder_with_files_is_refused_and_left_alone(tmp_path, run: Run) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"out is not empty: choose another folder"):
        run(stand_in("segmentation"), [{"image": "none.nii.gz"}])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_pictures_for_a_model_of_volumes_are_refused(tmp_path, run: Run) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "one.png")
    with pytest.raises(ValueError, match=r"volumes are wanted, but all 1 rows are of another kind"):
        run(stand_in("segmentation"), [{"image": "one.png"}])


def test_a_file_that_cannot_be_read_is_named(tmp_path, run: Run) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(RuntimeError, match=r"broken\.png\) cannot be loaded"):
        run(stand_in("segmentation", dims=2), [{"image": "broken.png"}])

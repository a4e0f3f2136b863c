# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Boxes follow the image: from the file through preprocessing to the world and back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from PIL import Image

from monai_cluster.data import (
    BoxToArrayd,
    boxes_from_world,
    boxes_to_world,
    detections_to_json,
    labelled_preprocessing,
    load_datalist,
)
from monai_cluster.data.boxes import move_boxes

VOXELS = [3, 5, 2, 11, 9, 7]
PIXELS = [6, 10, 22, 18]  # x0, y0, x1, y1


def write_volume(path: Path, codes: str, spacing: tuple[float, float, float] = (1.0, 2.0, 3.0)) -> Path:
    """A bright box on dark ground, its array's axes pointing where ``codes`` says."""
    data = np.zeros((20, 16, 12), dtype=np.float32)
    data[3:11, 5:9, 2:7] = 1
    orientation = nib.orientations.axcodes2ornt(codes)
    affine = np.zeros((4, 4))
    for axis, (world, sign) in enumerate(orientation):
        affine[int(world), axis] = sign * spacing[axis]
    affine[:, 3] = [7, -30, 11, 1]
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def write_oblique(path: Path) -> Path:
    data = np.zeros((20, 16, 12), dtype=np.float32)
    data[3:11, 5:9, 2:7] = 1
    angle = np.deg2rad(20)
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1.5, 1.5, 4])
    affine[:3, 3] = [10, 20, 30]
    nib.save(nib.Nifti1Image(data, affine), path)
    return path


def bounding_box(mask: torch.Tensor) -> list[float]:
    places = torch.nonzero(mask)
    return [*places.amin(0).tolist(), *(places.amax(0) + 1).tolist()]


def row(image: Path, box: list[float], modality: str = "MR") -> dict[str, Any]:
    return {"image": str(image), "box": [box], "box_label": [1], "modality": modality}


def back_to_file(sample: dict[str, Any]) -> list[dict[str, Any]]:
    return detections_to_json(
        sample["box"], sample["box_label"], torch.ones(1), sample["image"].affine, sample["source_affine"],
        sample["source_shape"],
    )  # fmt: skip


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SAL", "IRP"])
def test_a_volumes_box_follows_the_turned_axes(tmp_path: Path, codes: str) -> None:
    sample = labelled_preprocessing("detection", 3)(row(write_volume(tmp_path / "v.nii.gz", codes), VOXELS))
    assert sample["box"].tolist() == [bounding_box(sample["image"][0] > 0.5)]
    assert sample["box"].dtype == torch.float32
    assert sample["box_label"].tolist() == [1]
    assert back_to_file(sample)[0]["box_voxel"] == pytest.approx(VOXELS, abs=1e-5)


@pytest.mark.parametrize("writer", [lambda path: write_volume(path, "LIP"), write_oblique])
def test_a_volumes_box_follows_spacing_and_returns(tmp_path: Path, writer: Any) -> None:
    steps = labelled_preprocessing("detection", 3, spacing=(0.5, 0.75, 1.0))
    sample = steps(row(writer(tmp_path / "v.nii.gz"), VOXELS))
    seen = torch.tensor(bounding_box(sample["image"][0] > 0.5))
    assert (sample["box"][0] - seen).abs().max() <= 1  # half of the edge voxels are brighter than one half
    assert back_to_file(sample)[0]["box_voxel"] == pytest.approx(VOXELS, abs=1e-4)


def test_a_pictures_box_comes_rows_first_and_follows_resizing_and_padding(tmp_path: Path) -> None:
    pixels = np.zeros((32, 48), dtype=np.uint8)
    pixels[10:18, 6:22] = 255
    Image.fromarray(pixels).save(tmp_path / "p.png")
    whole = labelled_preprocessing("detection", 2, percentiles=(0, 100))(row(tmp_path / "p.png", PIXELS, "XR"))
    assert whole["box"].tolist() == [[10, 6, 18, 22]] == [bounding_box(whole["image"][0] > 0.5)]
    sized = labelled_preprocessing("detection", 2, percentiles=(0, 100), image_size=96)
    sample = sized(row(tmp_path / "p.png", PIXELS, "XR"))
    assert sample["image"].shape[1:] == (96, 96)
    assert sample["box"].tolist() == [[36, 12, 52, 44]] == [bounding_box(sample["image"][0] > 0.5)]
    listed = back_to_file(sample)[0]
    assert listed["box_voxel"] == pytest.approx(PIXELS)
    assert listed["size_mm"] == pytest.approx([16, 8])


def test_detections_say_where_they_are_in_millimetres() -> None:
    affine = torch.tensor([[-2.0, 0, 0, 100], [0, 0, 4, -50], [0, 3, 0, 7], [0, 0, 0, 1]])
    (listed,) = detections_to_json(
        torch.tensor([[10.0, 0, 5, 14, 2, 6]]), torch.tensor([2]), torch.tensor([0.25]), affine, affine, (20, 20, 20)
    )
    assert listed["box_voxel"] == [10, 0, 5, 14, 2, 6]
    assert listed["center_mm"] == pytest.approx([100 - 2 * 11.5, -50 + 4 * 5, 7 + 3 * 0.5])
    assert listed["size_mm"] == pytest.approx([8, 6, 4])  # along the axes of box_voxel
    assert listed["box_mm"] == pytest.approx([73, -32, 5.5, 81, -28, 11.5])
    assert (listed["score"], listed["label"]) == (0.25, 2)


def test_detections_are_cut_at_the_files_border() -> None:
    boxes = torch.tensor([[-3.0, 2, 30, 9]])
    (listed,) = detections_to_json(boxes, torch.tensor([0]), torch.ones(1), torch.eye(4), torch.eye(4), (20, 20))
    assert listed["box_voxel"] == [2, 0, 9, 20]


def test_a_voxel_in_the_world_reaches_half_a_voxel_to_each_side_of_its_centre() -> None:
    affine = torch.diag(torch.tensor([2.0, 3.0, 4.0, 1.0]))
    assert boxes_to_world(torch.tensor([[0.0, 0, 0, 1, 1, 1]]), affine).tolist() == [[-1, -1.5, -2, 1, 1.5, 2]]


def test_world_and_back_is_exact_for_turned_axes_and_never_smaller_for_oblique() -> None:
    turned = torch.tensor([[0.0, -2, 0, 5], [0, 0, 3, 6], [4, 0, 0, 7], [0, 0, 0, 1]])
    boxes = torch.tensor([[1.0, 2, 3, 4, 7, 9]], dtype=torch.float64)
    torch.testing.assert_close(boxes_from_world(boxes_to_world(boxes, turned), turned), boxes)
    oblique = turned.clone()
    oblique[0, 0] = 1.5
    back = boxes_from_world(boxes_to_world(boxes, oblique), oblique)
    assert (back[:, :3] < boxes[:, :3] + 1e-9).all()
    assert (back[:, 3:] > boxes[:, 3:] - 1e-9).all()
    assert not torch.allclose(back, boxes)


def test_the_hull_is_that_of_all_corners() -> None:
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    boxes = torch.tensor([VOXELS], dtype=torch.float64)
    corners = torch.cartesian_prod(*[boxes[0, [axis, axis + 3]] for axis in range(3)]) - 0.5
    moved = corners @ matrix[:, :3].T + matrix[:, 3] + 0.5
    expected = torch.cat([moved.amin(0), moved.amax(0)])
    torch.testing.assert_close(move_boxes(boxes, matrix)[0], expected)


def prepared(box: Any, labels: Any = (1,)) -> dict[str, Any]:
    from monai.data import MetaTensor

    image = MetaTensor(torch.zeros(1, 20, 16, 12), affine=torch.eye(4))
    return {"image": image, "source_affine": torch.eye(4), "box": box, "box_label": labels}


def test_no_finding_gives_no_boxes_of_the_right_shape() -> None:
    sample = BoxToArrayd(spatial_dims=3)(prepared([], []))
    assert sample["box"].shape == (0, 6)
    assert sample["box_label"].dtype == torch.int64


def test_a_box_that_sticks_out_is_cut() -> None:
    sample = BoxToArrayd(spatial_dims=3)(prepared([[-2, 3, 4, 5, 30, 9]]))
    assert sample["box"].tolist() == [[0, 3, 4, 5, 16, 9]]


@pytest.mark.parametrize(
    ("box", "labels", "message"),
    [
        (None, [1], "write \\[\\]"),
        ([VOXELS], [1, 2], "needs one label"),
        ([[1, 2, 3, 4]], [1], "must be N 6"),
        ([[5, 5, 5, 4, 9, 9]], [1], "lower corner first"),
        ([[17, 17, 3, 19, 19, 5]], [1], "order of the axes"),
    ],
)
def test_boxes_that_cannot_be_right_are_refused(box: Any, labels: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BoxToArrayd(spatial_dims=3)(prepared(box, labels))


def test_four_dimensions_are_refused() -> None:
    with pytest.raises(ValueError, match="2 or 3"):
        BoxToArrayd(spatial_dims=4)


@pytest.mark.shared_data
def test_boxes_of_a_real_label_map_are_those_of_its_datalist(shared_data: Path) -> None:
    rows = load_datalist(
        shared_data / "hippocampus_msd" / "datalist.json", split="few_4_subjects", paths=["label"]
    ).rows
    for row_of_file in rows[:4]:
        mapped = labelled_preprocessing("segmentation", 3)(row_of_file)
        boxed = labelled_preprocessing("detection", 3)(row_of_file)
        for box, label in zip(boxed["box"], boxed["box_label"], strict=True):
            assert box.tolist() == bounding_box(mapped["label"][0] == int(label) + 1)


@pytest.mark.shared_data
def test_real_tumours_are_brighter_in_their_boxes_than_where_rows_and_columns_are_exchanged(shared_data: Path) -> None:
    rows = load_datalist(shared_data / "brain_tumor_det2d" / "datalist.json", split="validation").rows
    prepare = labelled_preprocessing("detection", 2, image_size=128)
    inside, exchanged = [], []
    for row_of_file in rows[::4]:
        sample = prepare(row_of_file)
        for low_row, low_column, high_row, high_column in sample["box"].round().int().tolist():
            inside.append(float(sample["image"][0, low_row:high_row, low_column:high_column].mean()))
            exchanged.append(float(sample["image"][0, low_column:high_column, low_row:high_row].mean()))
    assert np.mean(inside) > 1.3 * np.mean(exchanged)

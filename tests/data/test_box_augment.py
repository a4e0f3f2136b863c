# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Random patches and mirror images keep boxes on what they bound."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.apps.detection.transforms.array import FlipBox
from monai.data import MetaTensor

from monai_cluster.data import RandCropBoxd, RandMirrorBoxd


def bright_boxes(dims: int) -> dict[str, Any]:
    """Two boxes, painted with 1 and 2, on an image of zeros."""
    shape = (40, 50, 30)[:dims]
    boxes = torch.tensor([[5.0, 8, 3, 12, 20, 9], [25, 30, 14, 33, 41, 22]])
    boxes = boxes[:, [*range(dims), *range(3, 3 + dims)]]
    image = torch.zeros(1, *shape)
    for value, box in enumerate(boxes.int().tolist(), 1):
        image[(0, *(slice(box[axis], box[axis + dims]) for axis in range(dims)))] = value
    return {"image": MetaTensor(image, affine=torch.eye(4)), "box": boxes, "box_label": torch.tensor([0, 1])}


def bounding_box(mask: torch.Tensor) -> list[float]:
    places = torch.nonzero(mask)
    return [*places.amin(0).tolist(), *(places.amax(0) + 1).tolist()]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), dims=st.integers(2, 3), share=st.sampled_from([0.0, 1.0]))
def test_kept_boxes_bound_what_they_bounded(seed: int, dims: int, share: float) -> None:
    crop = RandCropBoxd((24, 20, 16)[:dims], box_share=share).set_random_state(seed)
    sample = crop(bright_boxes(dims))
    assert sample["image"].shape[1:] == (24, 20, 16)[:dims]
    for box, label in zip(sample["box"], sample["box_label"], strict=True):
        assert box.tolist() == bounding_box(sample["image"][0] == int(label) + 1)
    if share == 1:
        assert len(sample["box"]) >= 1


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 10_000), dims=st.integers(2, 3))
def test_zoomed_boxes_bound_what_they_bounded_to_half_a_voxel(seed: int, dims: int) -> None:
    data = bright_boxes(dims)
    data["image"] = (data["image"] == 1).float()
    data["box"], data["box_label"] = data["box"][:1], data["box_label"][:1]
    sample = RandCropBoxd((32, 32, 20)[:dims], box_share=1.0, zoom=0.3).set_random_state(seed)(data)
    assert len(sample["box"]) == 1
    # Interpolation gives more than one half where a voxel's centre lies in the box.
    seen = torch.tensor(bounding_box(sample["image"][0] > 0.5))
    assert (sample["box"][0] - seen).abs().max() <= 0.5 + 1e-3


def test_a_chosen_box_lies_whole_in_the_patch_at_every_place() -> None:
    offsets = set()
    for seed in range(60):
        sample = RandCropBoxd((16, 20), box_share=1.0, min_visible=1.0).set_random_state(seed)(bright_boxes(2))
        assert len(sample["box"]) == 1
        offsets.add(tuple(sample["box"][0, :2].tolist()))
    assert len(offsets) > 30


def test_both_classes_are_chosen_equally_often_however_many_boxes_they_have() -> None:
    sample = bright_boxes(2)
    many = {**sample, "box": sample["box"][[0] * 9 + [1]], "box_label": torch.tensor([0] * 9 + [1])}
    crop = RandCropBoxd((12, 14), box_share=1.0, min_visible=1.0).set_random_state(0)
    rare = sum(1 in crop(many)["box_label"] for _ in range(200))
    assert 70 < rare < 130


def test_a_box_seen_too_little_is_dropped_and_one_seen_enough_is_cut() -> None:
    data = bright_boxes(2)
    data["box"], data["box_label"] = torch.tensor([[0.0, 0, 10, 40]]), torch.tensor([0])
    kept = RandCropBoxd((40, 20), box_share=0.0, min_visible=0.4).set_random_state(1)
    sizes = {len(found["box"]): found["box"] for found in (kept(data) for _ in range(80))}
    assert set(sizes) == {0, 1}
    assert float(sizes[1][0, 3] - sizes[1][0, 1]) >= 0.4 * 40


def test_a_patch_in_a_larger_box_keeps_the_part_it_sees() -> None:
    data = bright_boxes(2)
    data["box"], data["box_label"] = torch.tensor([[2.0, 2, 38, 48]]), torch.tensor([0])
    sample = RandCropBoxd((8, 8), box_share=1.0, min_visible=0.01).set_random_state(0)(data)
    assert sample["box"].tolist() == [[0, 0, 8, 8]]


def test_axes_shorter_than_the_patch_are_taken_whole() -> None:
    data = bright_boxes(3)
    for seed in range(8):
        image = RandCropBoxd((64, 16, 64)).set_random_state(seed)(bright_boxes(3))["image"]
        assert any(torch.equal(image, data["image"][:, :, start : start + 16]) for start in range(35))


def test_thick_slices_are_not_zoomed() -> None:
    data = bright_boxes(3)
    data["image"].affine = torch.diag(torch.tensor([1.0, 1, 4, 1]))
    sample = RandCropBoxd((24, 24, 30), box_share=1.0, zoom=0.3).set_random_state(3)(data)
    depth = sample["box"][:, 5] - sample["box"][:, 2]
    assert set(depth.tolist()) <= {6.0, 8.0}


def test_an_image_without_boxes_is_cropped_anywhere() -> None:
    data = bright_boxes(2)
    data["box"], data["box_label"] = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64)
    places = torch.arange(40 * 50, dtype=torch.float32).reshape(1, 40, 50)  # a pixel says where it is
    data["image"] = MetaTensor(places, affine=torch.eye(4))
    crop, corners = RandCropBoxd((16, 16), box_share=1.0), set()
    for seed in range(60):
        sample = crop.set_random_state(seed)(data)
        assert sample["box"].tolist() == []
        row, column = divmod(int(sample["image"][0, 0, 0]), 50)
        assert torch.equal(sample["image"], places[:, row : row + 16, column : column + 16])
        corners.add((row, column))
    assert len(corners) > 40


@pytest.mark.parametrize("axes", [(0,), (1,), (0, 1, 2)])
def test_mirrored_boxes_bound_what_they_bounded(axes: tuple[int, ...]) -> None:
    data = bright_boxes(3)
    sample = RandMirrorBoxd(axes, prob=1.0)(data)
    for box, label in zip(sample["box"], sample["box_label"], strict=True):
        assert box.tolist() == bounding_box(sample["image"][0] == int(label) + 1)
    assert sample["box"].tolist() == FlipBox(axes)(data["box"], data["image"].shape[1:]).tolist()
    assert data["box"].tolist() == bright_boxes(3)["box"].tolist()


def test_each_axis_is_mirrored_by_itself() -> None:
    mirror = RandMirrorBoxd((0, 1)).set_random_state(0)
    first = {tuple(mirror(bright_boxes(2))["box"][0].tolist()) for _ in range(40)}
    assert len(first) == 4


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: RandCropBoxd((8, 8), box_share=1.5), "box_share must"),
        (lambda: RandCropBoxd((8, 8), min_visible=0.0), "min_visible in"),
        (lambda: RandCropBoxd((8, 8), zoom=1.0), "zoom must"),
        (lambda: RandCropBoxd((0, 8)), "at least 1"),
        (lambda: RandCropBoxd((8, 8))(bright_boxes(3)), "a patch of 2 axes"),
        (lambda: RandMirrorBoxd((3,)), "axes must be"),
        (lambda: RandMirrorBoxd((0,), prob=2.0), "prob must"),
    ],
)
def test_wrong_arguments_are_refused(build: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()

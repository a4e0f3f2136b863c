# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Dice and surface distances against MONAI, all pairs of surface voxels and hand-worked cases; empty masks."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.metrics import DiceMetric, HausdorffDistanceMetric, SurfaceDistanceMetric
from scipy.ndimage import binary_erosion, gaussian_filter

from monai_cluster.metrics import foreground_mean, score_segmentation, summarise_segmentation

NAMES = ["background", "organ", "tumour"]


def blobs(seed: int, shape: tuple[int, ...] = (14, 17, 9), classes: int = 3) -> np.ndarray:
    """Smooth random regions of every class, touching the border."""
    rng = np.random.default_rng(seed)
    fields = [gaussian_filter(rng.normal(size=shape), 1.5) for _ in range(classes)]
    return np.argmax(fields, axis=0)


def surface(mask: np.ndarray, spacing: Any) -> np.ndarray:
    return np.argwhere(mask & ~binary_erosion(mask)) * np.asarray(spacing)


def all_pairs(first: np.ndarray, second: np.ndarray, spacing: Any) -> tuple[np.ndarray, np.ndarray]:
    """Distances from each surface to the other, by comparing every voxel with every voxel."""
    one, two = surface(first, spacing), surface(second, spacing)
    table = np.linalg.norm(one[:, None] - two[None], axis=-1)
    return table.min(1), table.min(0)


@pytest.mark.parametrize(("shape", "spacing"), [((14, 17, 9), (0.7, 1.1, 4.0)), ((30, 21), (0.5, 2.0))])
def test_scores_equal_all_pairs_of_surface_voxels(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    prediction, target = blobs(1, shape), blobs(2, shape)
    scores = score_segmentation(prediction, torch.from_numpy(target), spacing, NAMES)
    assert list(scores) == NAMES[1:]
    for k, name in enumerate(NAMES[1:], 1):
        first, second = prediction == k, target == k
        forth, back = all_pairs(first, second, spacing)
        found = scores[name]
        assert found["dice"] == pytest.approx(2 * (first & second).sum() / (first.sum() + second.sum()))
        assert found["surface_distance_mm"] == pytest.approx(np.concatenate([forth, back]).mean(), rel=1e-6)
        assert found["hd95_mm"] == pytest.approx(max(np.percentile(forth, 95), np.percentile(back, 95)), rel=1e-6)
        size = first.sum() * math.prod(spacing) / (1000 if len(shape) == 3 else 100)
        assert found["volume_ml" if len(shape) == 3 else "area_cm2"] == pytest.approx(size)


def test_scores_equal_monais_metrics_on_anisotropic_voxels() -> None:
    prediction, target, spacing = blobs(3), blobs(4), (0.8, 0.8, 3.0)
    scores = score_segmentation(prediction, target, spacing, 3)
    hot = [torch.stack([torch.from_numpy(ids == k) for k in range(3)])[None].float() for ids in (prediction, target)]
    options = {"include_background": False, "reduction": "none"}
    expected = {
        "dice": DiceMetric(**options)(*hot),
        "surface_distance_mm": SurfaceDistanceMetric(symmetric=True, **options)(*hot, spacing=list(spacing)),
        "hd95_mm": HausdorffDistanceMetric(percentile=95, **options)(*hot, spacing=list(spacing)),
    }
    for name, values in expected.items():
        assert [scores[k][name] for k in ("1", "2")] == pytest.approx(values[0].tolist(), rel=1e-5)


def test_two_voxels_lie_as_far_apart_as_a_ruler_says() -> None:
    prediction, target = np.zeros((2, 9, 9, 9), int)
    prediction[1, 2, 3], target[4, 6, 8] = 1, 1
    scores = score_segmentation(prediction, target, (1.0, 2.0, 0.5), 2)["1"]
    distance = math.sqrt(3**2 + (4 * 2) ** 2 + (5 * 0.5) ** 2)
    assert scores["surface_distance_mm"] == scores["hd95_mm"] == pytest.approx(distance, rel=1e-6)
    assert scores["dice"] == 0
    assert scores["missed"] == 0  # both have it, however far apart


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_shifted_block_loses_what_is_worked_out_by_hand(steps: int) -> None:
    # Two columns of equal length along the axis of shift: the ends stick out, all else coincides.
    target = np.zeros((20, 5, 5), int)
    target[4:12, 2, 2] = 1
    scores = score_segmentation(np.roll(target, steps, 0), target, (1.5, 1, 1), 2)["1"]
    assert scores["dice"] == pytest.approx((8 - steps) / 8)
    out = 1.5 * np.arange(1, steps + 1)  # of each voxel that sticks out, on either side
    assert scores["surface_distance_mm"] == pytest.approx(2 * out.sum() / 16)


def test_a_mirrored_label_is_caught_by_dice_and_distance() -> None:
    target = np.zeros((16, 16, 6), int)
    target[2:6, 3:13, 1:5] = 1
    true = score_segmentation(target, target, (1, 1, 1), 2)["1"]
    mirrored = score_segmentation(target[::-1], target, (1, 1, 1), 2)["1"]
    assert (true["dice"], true["surface_distance_mm"], true["hd95_mm"]) == (1, 0, 0)
    assert mirrored["dice"] == 0
    assert mirrored["hd95_mm"] == 8


def test_a_class_that_both_lack_has_no_score_and_one_that_one_lacks_is_missed() -> None:
    full, empty = np.ones((4, 4, 4), int), np.zeros((4, 4, 4), int)
    both = score_segmentation(empty, empty, (1, 1, 1), 2)["1"]
    assert math.isnan(both["dice"])
    assert math.isnan(both["surface_distance_mm"])
    assert (both["absent"], both["missed"]) == (1, 0)
    for pair in ((full, empty), (empty, full)):
        found = score_segmentation(*pair, (1, 1, 1), 2)["1"]
        assert found["dice"] == 0
        assert math.isnan(found["surface_distance_mm"])
        assert math.isnan(found["hd95_mm"])
        assert (found["absent"], found["missed"]) == (0, 1)
    assert score_segmentation(empty, full, (10, 10, 10), 2)["1"]["true_volume_ml"] == 64


def test_one_slice_is_scored_by_its_contour_and_not_as_all_surface() -> None:
    prediction, target = blobs(5, (20, 24)), blobs(6, (20, 24))
    flat = score_segmentation(prediction, target, (0.9, 1.3), NAMES)
    thick = score_segmentation(prediction[..., None], target[..., None], (0.9, 1.3, 5), NAMES)
    for name in NAMES[1:]:
        for score in ("dice", "surface_distance_mm", "hd95_mm"):
            assert thick[name][score] == flat[name][score]
        assert thick[name]["volume_ml"] == pytest.approx(flat[name]["area_cm2"] * 0.5)


def test_means_leave_out_absent_classes_and_count_missed_ones() -> None:
    target = np.zeros((6, 6, 6), int)
    target[1:3] = 1
    half, none, other = target.copy(), np.zeros_like(target), target.copy()
    half[1] = 0
    other[5] = 2
    cases = [score_segmentation(item, target, (1, 1, 1), NAMES) for item in (target, half, none, other)]
    assert foreground_mean(cases[1]) == pytest.approx(2 / 3)
    assert foreground_mean(cases[3]) == 0.5
    summary = summarise_segmentation(cases)
    assert summary["organ"]["dice"] == pytest.approx((1 + 2 / 3 + 0 + 1) / 4)
    assert summary["organ"]["surface_distance_mm"] == pytest.approx((0 + 36 * 1 / 108 + 0) / 3)
    assert (summary["organ"]["missed"], summary["organ"]["absent"], summary["organ"]["scored"]) == (1, 0, 4)
    assert summary["tumour"]["dice"] == 0
    assert (summary["tumour"]["missed"], summary["tumour"]["absent"], summary["tumour"]["scored"]) == (1, 3, 1)
    assert summary["mean"]["dice"] == pytest.approx(summary["organ"]["dice"] / 2)
    assert (summary["mean"]["missed"], summary["mean"]["scored"]) == (2, 5)
    assert math.isnan(foreground_mean(score_segmentation(none, none, (1, 1, 1), NAMES)))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.floats(0.1, 20))
def test_distances_scale_with_the_voxels_and_do_not_care_who_is_first(seed: int, scale: float) -> None:
    prediction, target = blobs(seed, (7, 8, 6)), blobs(seed + 1, (7, 8, 6))
    one = score_segmentation(prediction, target, (1, 2, 3), 3)
    swapped = score_segmentation(target, prediction, (1, 2, 3), 3)
    larger = score_segmentation(prediction, target, (scale, 2 * scale, 3 * scale), 3)
    for name in one:
        for score in ("dice", "surface_distance_mm", "hd95_mm"):
            assert swapped[name][score] == pytest.approx(one[name][score], rel=1e-5, nan_ok=True)
            factor = 1 if score == "dice" else scale
            assert larger[name][score] == pytest.approx(factor * one[name][score], rel=1e-5, nan_ok=True)


def test_a_leading_channel_is_accepted() -> None:
    prediction, target = blobs(1), blobs(2)
    with_channel = score_segmentation(torch.from_numpy(prediction)[None], target[None], (1, 1, 1), 3)
    assert with_channel == score_segmentation(prediction, target, (1, 1, 1), 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"prediction": np.zeros((4, 4, 3), int)}, "class ids of one shape"),
        ({"spacing_mm": (1, 1)}, "one spacing per axis"),
        ({"spacing_mm": (1, 0, 1)}, "spacing_mm must be above 0"),
        ({"prediction": np.full((4, 4, 4), 3)}, "prediction must hold class ids 0..2, got 3"),
        ({"target": np.full((4, 4, 4), 0.5)}, "target must hold class ids 0..2, got 0.5"),
        ({"classes": ["background"]}, "at least two different names"),
        ({"classes": ["a", "b", "b"]}, "at least two different names"),
    ],
)
def test_what_cannot_be_scored_is_refused(change: dict[str, Any], message: str) -> None:
    empty = np.zeros((4, 4, 4), int)
    arguments: dict[str, Any] = {"prediction": empty, "target": empty, "spacing_mm": (1, 1, 1), "classes": NAMES}
    with pytest.raises(ValueError, match=message):
        score_segmentation(**(arguments | change))


def test_a_summary_of_nothing_of_different_classes_or_of_a_class_called_mean_is_refused() -> None:
    empty = np.zeros((4, 4, 4), int)
    one, two = (score_segmentation(empty, empty, (1, 1, 1), names) for names in (["b", "x"], ["b", "mean"]))
    with pytest.raises(ValueError, match="same classes, at least one"):
        summarise_segmentation([])
    with pytest.raises(ValueError, match="same classes, at least one"):
        summarise_segmentation([one, two])
    with pytest.raises(ValueError, match="may be called 'mean'"):
        summarise_segmentation([two])


@pytest.mark.shared_data
def test_real_hippocampi_shifted_by_a_voxel_lose_what_all_pairs_say(shared_data: Path) -> None:
    root = shared_data / "hippocampus_msd"
    row = json.loads((root / "datalist.json").read_text())["test"][0]
    image = nib.load(root / row["label"])
    target = np.asarray(image.dataobj).astype(int)
    spacing = np.linalg.norm(image.affine[:3, :3], axis=0)
    prediction = np.roll(target, 1, axis=0)
    scores = score_segmentation(prediction, target, spacing, ["background", "anterior", "posterior"])
    for k, name in enumerate(scores, 1):
        forth, back = all_pairs(prediction == k, target == k, spacing)
        assert scores[name]["surface_distance_mm"] == pytest.approx(np.concatenate([forth, back]).mean(), rel=1e-5)
        assert 0.8 < scores[name]["dice"] < 0.95

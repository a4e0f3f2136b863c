# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Anchors fitted to boxes: sizes that were put in come out."""

from __future__ import annotations

import logging

import pytest
import torch

from monai_cluster.data import anchor_coverage, fit_anchor_shapes
from monai_cluster.keys import ClusterKeys as Keys

SCALES = [1.0, 2.0, 4.0, 8.0]


def samples(*sizes: list[float], empty: int = 0) -> list[dict[str, torch.Tensor]]:
    """One sample for each box, at some corner, and some without."""
    boxes = [torch.tensor([[3.0] * len(size) + [3.0 + length for length in size]]) for size in sizes]
    return [{Keys.BOX: box} for box in [*boxes, *[torch.zeros(0, 2 * len(sizes[0]))] * empty]]


def test_three_shapes_at_every_scale_are_found_again() -> None:
    shapes = [[16.0, 16.0], [10.0, 25.6], [25.6, 10.0]]
    given = samples(*([scale * length for length in shape] for shape in shapes for scale in SCALES), empty=2)
    assert sorted(fit_anchor_shapes(given, SCALES)) == sorted(shapes)


@pytest.mark.parametrize(("size", "wanted"), [(6.0, 6.0), (40.0, 20.0), (512.0, 64.0)])
def test_small_boxes_shrink_the_anchors_and_large_ones_use_the_deep_levels(size: float, wanted: float) -> None:
    # 40 = 2.5 × 16: the nearest level on a logarithmic scale is the second.
    assert fit_anchor_shapes(samples([size, size]), SCALES) == [[wanted, wanted]]


def test_depth_keeps_its_own_size() -> None:
    assert fit_anchor_shapes(samples([16, 16, 3], [16, 16, 3]), SCALES, spatial_dims=3) == [[16.0, 16.0, 3.0]]
    assert fit_anchor_shapes(samples([64, 64, 8]), SCALES) == [[16.0, 16.0, 2.0]]


def test_fitted_anchors_cover_long_boxes_better_than_the_usual_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.tensor([9.0, 60.0]) * (0.3 * torch.randn(200, 2, generator=generator)).exp()
    fitted = fit_anchor_shapes(samples(*sizes.tolist()), SCALES)
    usual = [[16, 16], [12, 24], [24, 12]]
    assert anchor_coverage(sizes, fitted, SCALES) > 0.6 > 0.5 > anchor_coverage(sizes, usual, SCALES)


def test_coverage_is_the_overlap_worked_by_hand() -> None:
    # 8 × 4 in 8 × 8: 32 / 64; 20 × 20 with 16 × 16: 256 / 400.
    sizes = torch.tensor([[8.0, 4.0], [20.0, 20.0]])
    assert anchor_coverage(sizes, [[8, 8]], [1.0, 2.0]) == pytest.approx((0.5 + 0.64) / 2)


def test_coverage_beside_the_anchor_is_the_overlap_worked_by_hand() -> None:
    # Cells of 8 × 4 voxels put an 8 × 8 box 2 and 1 voxels beside an 8 × 8 anchor: 6 × 7 / (128 - 42).
    assert anchor_coverage(torch.tensor([[8.0, 8.0]]), [[8, 8]], [1.0], [[8, 4]]) == pytest.approx(42 / 86)
    # A small box inside a large anchor stays inside: 2 × 2 / 64; beside a small one it is missed.
    assert anchor_coverage(torch.tensor([[2.0, 2.0]]), [[8, 8]], [1.0], [[8, 8]]) == pytest.approx(4 / 64)
    assert anchor_coverage(torch.tensor([[2.0, 2.0]]), [[2, 2]], [1.0], [[8, 8]]) == 0


def test_boxes_smaller_than_a_cell_get_anchors_that_do_not_miss_them() -> None:
    small = samples([4.0, 4.0], [4.0, 4.0])
    assert fit_anchor_shapes(small, [1.0, 2.0]) == [[4.0, 4.0]]
    ((side, _),) = fit_anchor_shapes(small, [1.0, 2.0], strides=[[8, 8], [16, 16]])
    sizes = torch.tensor([[4.0, 4.0]])
    covered = [anchor_coverage(sizes, [[one, one]], [1.0, 2.0], [[8, 8], [16, 16]]) for one in (side, 2.0, 16.0)]
    assert covered[0] > max(covered[1:])
    with pytest.raises(ValueError, match=r"strides must be 2 rows of 2 numbers, got \[\[8, 8\]\]"):
        fit_anchor_shapes(small, [1.0, 2.0], strides=[[8, 8]])


def test_the_log_says_what_was_chosen_and_how_well_it_fits(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit_anchor_shapes(samples([16, 32]), SCALES)
    assert "from 1 boxes: 16 × 32 voxels; the best fits a box with a mean IoU of 1.00" in caplog.text


def test_of_many_samples_evenly_spaced_ones_are_looked_at() -> None:
    seen = []

    class Listed(list):  # type: ignore[type-arg]
        def __getitem__(self, place: int) -> dict[str, torch.Tensor]:  # type: ignore[override]
            seen.append(place)
            return {Keys.BOX: torch.tensor([[0.0, 0, 9, 9]])}

    fit_anchor_shapes(Listed(range(1000)), SCALES)
    assert len(seen) == 256
    assert (seen[0], seen[-1]) == (0, 999)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match="none of the 2 training samples looked at has a box"):
        fit_anchor_shapes([{Keys.BOX: torch.zeros(0, 4)}] * 2, SCALES)
    with pytest.raises(ValueError, match="boxes must have 3 axes, got 2"):
        fit_anchor_shapes(samples([4, 4]), SCALES, spatial_dims=3)

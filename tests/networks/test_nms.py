# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Suppression in blocks against MONAI's box by box."""

from __future__ import annotations

import time

import pytest
import torch
from monai.data.box_utils import batched_nms as monai_batched_nms
from monai.data.box_utils import box_iou, non_max_suppression
from torch import Tensor

from monai_cluster.networks import batched_nms, fast_nms
from monai_cluster.networks.nms import BLOCK, BlockNmsBoxSelector, pairwise_iou


def crowded_boxes(number: int, dims: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Boxes that overlap often, and scores."""
    generator = torch.Generator().manual_seed(seed)
    low = torch.rand(number, dims, generator=generator) * 60
    size = 5 + torch.rand(number, dims, generator=generator) * 20
    return torch.cat([low, low + size], dim=1), torch.rand(number, generator=generator)


@pytest.mark.parametrize("dims", [2, 3])
def test_iou_equals_monai(dims: int) -> None:
    boxes, _ = crowded_boxes(40, dims)
    torch.testing.assert_close(pairwise_iou(boxes[:25], boxes[20:]), box_iou(boxes[:25], boxes[20:]), rtol=0, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("number", [1, 300, 3 * BLOCK + 7])
@pytest.mark.parametrize("limit", [-1, 5])
def test_same_boxes_survive_as_with_monai(dims: int, number: int, limit: int) -> None:
    boxes, scores = crowded_boxes(number, dims)
    expected = non_max_suppression(boxes, scores, 0.3, limit)
    assert fast_nms(boxes, scores, 0.3, limit).tolist() == expected.tolist()


def test_equal_scores_keep_their_order() -> None:
    boxes, _ = crowded_boxes(200, 2)
    assert fast_nms(boxes, torch.ones(200), 0.3).tolist() == non_max_suppression(boxes, torch.ones(200), 0.3).tolist()


def test_a_suppressed_box_suppresses_nothing() -> None:
    # 0 covers 1, and 1 covers 2, but 0 does not cover 2: greedy suppression keeps 0 and 2.
    boxes = torch.tensor([[0.0, 0, 10, 10], [4, 0, 14, 10], [8, 0, 18, 10]])
    assert fast_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.4).tolist() == [0, 2]


def test_a_box_of_a_later_block_is_dropped_for_one_of_an_earlier() -> None:
    far = torch.arange(BLOCK)[:, None] * 20.0
    boxes = torch.cat([far, far, far + 10, far + 10], dim=1)
    boxes = torch.cat([boxes, boxes[:1] + 0.5])
    kept = fast_nms(boxes, torch.arange(BLOCK + 1, 0, -1.0), 0.5)
    assert kept.tolist() == list(range(BLOCK))


@pytest.mark.parametrize("limit", [-1, 30])
def test_classes_do_not_suppress_each_other(limit: int) -> None:
    boxes, scores = crowded_boxes(400, 3)
    labels = torch.arange(400) % 3
    expected = monai_batched_nms(boxes, scores, labels, 0.3, max_proposals=limit)
    assert batched_nms(boxes, scores, labels, 0.3, limit).tolist() == expected.tolist()


def test_nothing_survives_of_nothing() -> None:
    empty = torch.zeros(0, 6), torch.zeros(0)
    assert fast_nms(*empty, 0.3).tolist() == []
    assert batched_nms(*empty, torch.zeros(0, dtype=torch.int64), 0.3).tolist() == []


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="one score each"):
        fast_nms(torch.zeros(3, 4), torch.zeros(2), 0.3)
    with pytest.raises(ValueError, match="N 4 or N 6"):
        fast_nms(torch.zeros(3, 5), torch.zeros(3), 0.3)


def test_thousand_volume_boxes_take_a_tenth_of_a_second_at_most() -> None:
    boxes, scores = crowded_boxes(1000, 3)
    spent = []
    for _ in range(5):
        start = time.perf_counter()
        fast_nms(boxes, scores, 0.3)
        spent.append(time.perf_counter() - start)
    assert min(spent) < 0.1


def test_selector_keeps_the_best_of_each_level_and_cuts_boxes_at_the_image() -> None:
    selector = BlockNmsBoxSelector(score_threshold=0.5, candidates_per_level=2, nms_threshold=0.3, max_detections=3)
    first = torch.tensor([[-5.0, 0, 5, 5], [10, 10, 20, 20], [30, 30, 40, 40], [0, 0, 40, 40]])
    second = torch.tensor([[10.0, 10, 20, 21], [50, 50, 60, 60]])  # the second lies outside
    boxes, scores, labels = selector.select_boxes_per_image(
        [first, second], [torch.tensor([[3.0], [2.0], [1.0], [-1.0]]), torch.tensor([[1.5], [4.0]])], (40, 40)
    )
    assert boxes.tolist() == [[0, 0, 5, 5], [10, 10, 20, 20]]
    torch.testing.assert_close(scores, torch.tensor([3.0, 2.0]).sigmoid())
    assert labels.tolist() == [0, 0]


def test_equal_scores_of_different_classes_keep_their_order() -> None:
    boxes, _ = crowded_boxes(100, 2)
    labels, scores = torch.arange(100) % 4, torch.ones(100)
    assert batched_nms(boxes, scores, labels, 0.3).tolist() == monai_batched_nms(boxes, scores, labels, 0.3).tolist()

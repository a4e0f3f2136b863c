# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Non-maximum suppression of boxes in two or three dimensions, in blocks instead of box by box."""

from __future__ import annotations

import numpy as np
import torch
from monai.apps.detection.utils.box_selector import BoxSelector
from monai.data.box_utils import clip_boxes_to_image
from torch import Tensor

__all__ = ["BlockNmsBoxSelector", "batched_nms", "fast_nms", "pairwise_iou"]

BLOCK = 512  # boxes compared at once: 512 against 10,000 kept ones are 20 MB


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union ``N M`` of boxes ``N 2d`` and ``M 2d``, lower corners first, in float32.

    The arithmetic is that of MONAI's ``box_iou``, but axis by axis, so that no ``N M d`` is ever in memory.
    """
    dims = first.shape[1] // 2
    first, second = first.float(), second.float()
    shared: Tensor | None = None
    for axis in range(dims):
        low = torch.maximum(first[:, None, axis], second[None, :, axis])
        high = torch.minimum(first[:, None, dims + axis], second[None, :, dims + axis])
        side = (high - low).clamp_(min=0)
        shared = side if shared is None else shared.mul_(side)
    assert shared is not None
    sizes = [(boxes[:, dims:] - boxes[:, :dims]).prod(dim=1) for boxes in (first, second)]
    union = sizes[0][:, None] + sizes[1][None, :] - shared
    return shared / (union + torch.finfo(torch.float32).eps)


def fast_nms(boxes: Tensor, scores: Tensor, iou_threshold: float, max_detections: int = -1) -> Tensor:
    """Greedy non-maximum suppression with the result of MONAI's ``non_max_suppression``.

    Boxes are taken in blocks by falling score. A block is compared with all boxes kept so far and with itself in two
    matrix operations; only the walk through the block's own matrix of bits is a loop. Memory grows with the number of
    boxes kept, not with its square.

    Args:
        boxes: ``N 2d``, lower corners first.
        scores: ``N``.
        iou_threshold: a box that overlaps a better one by more is dropped.
        max_detections: stop after so many; -1 keeps all.

    Returns:
        int64 indices of the kept boxes by falling score; equal scores keep their order.

    Raises:
        ValueError: if boxes and scores differ in number, or boxes are not ``N 4`` or ``N 6``.
    """
    if boxes.ndim != 2 or boxes.shape[1] not in (4, 6) or scores.shape != boxes.shape[:1]:
        raise ValueError(
            "boxes must be N 4 or N 6 with one score each, got "
            f"{tuple(boxes.shape)} and {tuple(scores.shape)}: give corners, lower ones first."
        )
    order = torch.argsort(scores, descending=True, stable=True)
    ranked = boxes[order].float()
    kept = torch.empty(0, dtype=torch.int64, device=boxes.device)
    for block in torch.split(torch.arange(len(order), device=boxes.device), BLOCK):
        if len(kept):
            block = block[~(pairwise_iou(ranked[block], ranked[kept]) > iou_threshold).any(dim=1)]
        kept = torch.cat([kept, block[_survivors(pairwise_iou(ranked[block], ranked[block]) > iou_threshold)]])
        if 0 < max_detections <= len(kept):
            kept = kept[:max_detections]
            break
    return order[kept]


def _survivors(overlap: Tensor) -> Tensor:
    """Which boxes of a block stay, ``n`` booleans, from ``n n`` whether they overlap; the first is the best."""
    bits = overlap.cpu().numpy()
    alive = np.ones(len(bits), dtype=bool)
    for row in range(len(bits)):
        if alive[row]:
            alive[row + 1 :] &= ~bits[row, row + 1 :]
    return torch.from_numpy(alive).to(overlap.device)


def batched_nms(
    boxes: Tensor, scores: Tensor, labels: Tensor, iou_threshold: float, max_detections: int = -1
) -> Tensor:
    """Non-maximum suppression within each class; the best ``max_detections`` of all classes together.

    Args:
        boxes: ``N 2d``, lower corners first.
        scores: ``N``.
        labels: ``N``; boxes of different classes never suppress each other.
        iou_threshold: as for :func:`fast_nms`.
        max_detections: of all classes together; -1 keeps all.

    Returns:
        int64 indices by falling score.

    Raises:
        ValueError: as :func:`fast_nms`.
    """
    parts = []
    for label in torch.unique(labels):
        members = torch.nonzero(labels == label)[:, 0]
        parts.append(members[fast_nms(boxes[members], scores[members], iou_threshold, max_detections)])
    kept = torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64, device=boxes.device)
    kept = kept.sort().values  # equal scores of two classes keep their order
    kept = kept[torch.argsort(scores[kept], descending=True, stable=True)]
    return kept if max_detections < 1 else kept[:max_detections]


class BlockNmsBoxSelector(BoxSelector):
    """MONAI's choice of boxes (score threshold, best per level, suppression) with :func:`batched_nms`.

    Args:
        score_threshold: boxes with lower scores are dropped.
        candidates_per_level: best boxes of a pyramid level that go on.
        nms_threshold: a box that overlaps a better one of its class by more is dropped.
        max_detections: of one image.
    """

    def __init__(
        self,
        score_threshold: float = 0.05,
        candidates_per_level: int = 1000,
        nms_threshold: float = 0.5,
        max_detections: int = 100,
    ) -> None:
        super().__init__(
            score_thresh=score_threshold,
            topk_candidates_per_level=candidates_per_level,
            nms_thresh=nms_threshold,
            detections_per_img=max_detections,
        )

    def select_boxes_per_image(
        self, boxes_list: list[Tensor], logits_list: list[Tensor], spatial_size: list[int] | tuple[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``P 2d``, scores ``P`` and labels ``P`` of one image, by falling score.

        Args:
            boxes_list: per level ``N 2d``.
            logits_list: per level ``N K``.
            spatial_size: of the image; boxes are cut to it, empty ones dropped.
        """
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        for boxes, logits in zip(boxes_list, logits_list, strict=True):
            index, scores, labels = self.select_top_score_idx_per_level(logits)
            inside, real = clip_boxes_to_image(boxes[index], spatial_size, remove_empty=True)
            found.append((inside, scores[real], labels[real]))  # type: ignore[arg-type]
        every = [torch.cat(parts) for parts in zip(*found, strict=True)]
        kept = batched_nms(every[0], every[1], every[2], self.nms_thresh, self.detections_per_img)
        return every[0][kept], every[1][kept], every[2][kept]

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From one preprocessed image of any size to a prediction: sliding window, flips, softmax."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, combinations
from typing import Any

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

__all__ = ["ClassificationPredictor", "DetectionPredictor", "SegmentationPredictor"]


def _flip_sets(axes: Sequence[int]) -> list[tuple[int, ...]]:
    """Every subset of the axes: the identity first."""
    return list(chain.from_iterable(combinations(axes, size) for size in range(len(axes) + 1)))


class SegmentationPredictor:
    """Class probabilities ``K …`` of an image ``C …``.

    Args:
        patch_size: window of the sliding window, as trained; None takes the image in one piece.
        overlap: share of the window that neighbours have in common.
        flip_axes: average over all flips of these spatial axes (test-time augmentation); give only those that were
            mirrored in training.
        batch_size: windows at once.

    Raises:
        ValueError: for an overlap outside [0, 1).
    """

    def __init__(
        self,
        patch_size: Sequence[int] | None = None,
        overlap: float = 0.5,
        flip_axes: Sequence[int] = (),
        batch_size: int = 4,
    ) -> None:
        if not 0 <= overlap < 1:
            raise ValueError(f"overlap must lie in [0, 1), got {overlap}.")
        self.patch_size = None if patch_size is None else [int(side) for side in patch_size]
        self.overlap, self.flip_axes, self.batch_size = overlap, tuple(flip_axes), batch_size

    def __call__(self, image: Tensor, network: nn.Module) -> Tensor:
        """Probabilities in float32 that sum to 1."""
        total: Tensor | None = None
        flips = _flip_sets(self.flip_axes)
        for axes in flips:
            turned = [axis + 2 for axis in axes]
            scores = self._scores(image[None].flip(turned) if turned else image[None], network)
            found = (scores.flip(turned) if turned else scores)[0].float().softmax(0)
            total = found if total is None else total + found
        assert total is not None
        return total / len(flips)

    def _scores(self, image: Tensor, network: nn.Module) -> Tensor:
        size = self.patch_size
        if size is None or all(side <= patch for side, patch in zip(image.shape[2:], size, strict=True)):
            whole: Tensor = network(image)  # the network pads by itself
            return whole
        scores: Any = sliding_window_inference(
            image,
            roi_size=size,
            sw_batch_size=self.batch_size,
            predictor=lambda patches: network(patches).float(),
            overlap=self.overlap,
            mode="gaussian",
        )
        tensor: Tensor = scores
        return tensor


class ClassificationPredictor:
    """Class probabilities ``K`` of an image ``C …``.

    Args:
        flip_axes: average over all flips of these spatial axes.
    """

    def __init__(self, flip_axes: Sequence[int] = ()) -> None:
        self.flip_axes = tuple(flip_axes)

    def __call__(self, image: Tensor, network: nn.Module) -> Tensor:
        """Probabilities in float32 that sum to 1."""
        flips = _flip_sets(self.flip_axes)
        images = torch.stack([image.flip([axis + 1 for axis in axes]) if axes else image for axes in flips])
        probabilities: Tensor = network(images).float().softmax(1)
        return probabilities.mean(0)


class DetectionPredictor:
    """Boxes, labels and scores of an image ``C …``, by a detector with its own sliding window.

    Args:
        use_window: False gives the detector the image in one piece; None slides the detector's window where it has one.
    """

    def __init__(self, use_window: bool | None = None) -> None:
        self.use_window = use_window

    def __call__(self, image: Tensor, network: nn.Module) -> dict[str, Tensor]:
        """``{"box": N 2d, "box_label": N, "score": N}`` in indices of the image."""
        found: dict[str, Tensor] = network([image], use_inferer=self.use_window)[0]
        return found

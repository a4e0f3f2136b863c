# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Masked slice prediction: regress the embeddings of hidden slices from the rest of the volume (arXiv:2212.01893)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cluster.outputs import MaskedOutput

__all__ = ["MaskedSliceLoss", "masked_slice_loss", "mean_token", "neighbour_interpolation"]

Regression = Literal["mse", "smooth_l1", "cosine"]


def masked_slice_loss(
    predictions: Tensor, targets: Tensor, masked: Tensor, *, regression: Regression = "mse"
) -> Tensor:
    """Mean regression error over hidden slices only.

    Args:
        predictions: ``N S D``.
        targets: ``N S D``, compared as they are.
        masked: bool ``N S``, True where hidden.
        regression: ``"mse"``, ``"smooth_l1"`` (both mean over D) or ``"cosine"`` (1 - cos).

    Returns:
        A scalar: 0, with a graph and zero gradient, if nothing is hidden.
    """
    predictions, targets = predictions[masked].float(), targets[masked].float()
    if regression == "cosine":
        error = 1 - F.cosine_similarity(predictions, targets, dim=-1)
    elif regression == "smooth_l1":
        error = F.smooth_l1_loss(predictions, targets, reduction="none").mean(dim=-1)
    else:
        error = F.mse_loss(predictions, targets, reduction="none").mean(dim=-1)
    return error.sum() / max(len(error), 1)


def mean_token(targets: Tensor, visible: Tensor) -> Tensor:
    """``N S D``: at every slice the mean of the volume's visible slices (0 where there is none)."""
    weights = visible.to(targets.dtype)[..., None]
    mean = (targets * weights).sum(dim=1, keepdim=True) / weights.sum(dim=1, keepdim=True).clamp_min(1)
    return mean.expand_as(targets)


def neighbour_interpolation(targets: Tensor, visible: Tensor) -> Tensor:
    """``N S D``: at every slice the linear interpolation of the nearest visible slices before and after it.

    A visible slice gives itself; beyond the first or last visible slice the nearest counts; 0 where none is visible.

    Args:
        targets: ``N S D``.
        visible: bool ``N S``.
    """
    slices = targets.shape[1]
    place = torch.arange(slices, device=targets.device).expand_as(visible)
    before = torch.where(visible, place, -1).cummax(dim=1).values
    after = torch.where(visible, place, slices).flip(1).cummin(dim=1).values.flip(1)
    left = torch.where(before >= 0, before, after).clamp_max(slices - 1)
    right = torch.where(after < slices, after, left)
    weight = (place - left).to(targets.dtype) / (right - left).clamp_min(1)
    weight = weight.clamp(0, 1)[..., None]

    def pick(index: Tensor) -> Tensor:
        return targets.gather(1, index[..., None].expand_as(targets))

    return torch.lerp(pick(left), pick(right), weight) * visible.any(dim=1)[:, None, None]


class MaskedSliceLoss(nn.Module):
    """Regression on hidden slices against layer-normalised targets, with two trivial predictors beside it.

    After a call that hid anything, ``diagnostics`` holds ``ratio_to_mean`` and ``ratio_to_neighbours``: the loss over
    that of the volume's mean visible token and of the linear interpolation between the nearest visible slices, both
    in the space of the normalised targets. A loss that does not get below 1 times the second teaches nothing.

    Args:
        regression: ``"mse"``, ``"smooth_l1"`` or ``"cosine"``.
        normalize_targets: layer-normalise each target (no affine part).

    Raises:
        ValueError: for an unknown ``regression``; in a call if the shapes differ or padding is masked.
    """

    def __init__(self, regression: Regression = "mse", normalize_targets: bool = True) -> None:
        super().__init__()
        if regression not in get_args(Regression):
            raise ValueError(f"regression must be one of {', '.join(get_args(Regression))}, got {regression!r}.")
        self.regression, self.normalize_targets = regression, normalize_targets
        self.diagnostics: dict[str, Tensor] = {}

    def forward(self, output: MaskedOutput) -> Tensor:
        """The loss of one batch."""
        predictions, targets, masked, padded = output
        if predictions.shape != targets.shape or masked.shape != targets.shape[:2] or padded.shape != masked.shape:
            raise ValueError(
                "predictions and targets must be N S D, masked and padded N S, got "
                f"{', '.join(str(tuple(part.shape)) for part in output)}."
            )
        if (masked & padded).any():
            raise ValueError(
                "masked must be False on padded slices: there is nothing to predict; mask with `& ~padded`."
            )
        targets = targets.detach().float()
        if self.normalize_targets:
            targets = F.layer_norm(targets, targets.shape[-1:])
        loss = masked_slice_loss(predictions, targets, masked, regression=self.regression)
        self.diagnostics = self._ratios(loss.detach(), targets, masked, ~(masked | padded)) if masked.any() else {}
        return loss

    @torch.no_grad()
    def _ratios(self, loss: Tensor, targets: Tensor, masked: Tensor, visible: Tensor) -> dict[str, Tensor]:
        trivial = {
            "ratio_to_mean": mean_token(targets, visible),
            "ratio_to_neighbours": neighbour_interpolation(targets, visible),
        }
        errors = {
            name: masked_slice_loss(guess, targets, masked, regression=self.regression)
            for name, guess in trivial.items()
        }
        return {name: loss / error.clamp_min(torch.finfo(loss.dtype).tiny) for name, error in errors.items()}

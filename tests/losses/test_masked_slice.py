# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Masked slice prediction: values by hand, gradients on hidden slices only, NumPy's interpolation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.losses import MaskedSliceLoss, masked_slice_loss
from monai_cluster.losses.masked_slice import mean_token, neighbour_interpolation
from monai_cluster.outputs import MaskedOutput


def volumes(dtype: torch.dtype = torch.float32) -> MaskedOutput:
    """Two volumes of 7 slices; the second ends with 2 padded ones."""
    generator = torch.Generator().manual_seed(0)
    predictions, targets = torch.randn(2, 2, 7, 5, generator=generator, dtype=dtype)
    masked, padded = torch.zeros(2, 7, dtype=torch.bool), torch.zeros(2, 7, dtype=torch.bool)
    masked[0, [0, 3, 4]] = masked[1, [2, 4]] = padded[1, 5:] = True
    return MaskedOutput(predictions.requires_grad_(), targets.requires_grad_(), masked, padded)


def test_value_by_hand() -> None:
    predictions = torch.tensor([[[1.0, 0.0], [5.0, 5.0], [0.0, 0.0]]])
    targets = torch.tensor([[[3.0, 1.0], [0.0, 0.0], [2.0, 6.0]]])
    masked = torch.tensor([[True, False, True]])
    assert float(masked_slice_loss(predictions, targets, masked)) == (4 + 1 + 4 + 36) / 4
    # of two numbers the normalised target is (1, -1) or (-1, 1)
    found = MaskedSliceLoss()(MaskedOutput(predictions, targets, masked, torch.zeros_like(masked)))
    assert float(found) == pytest.approx((0 + 1 + 1 + 1) / 4, abs=1e-4)


@pytest.mark.parametrize("regression", ["mse", "smooth_l1", "cosine"])
def test_gradient_is_zero_on_visible_slices_and_on_targets(regression: str) -> None:
    output = volumes()
    MaskedSliceLoss(regression)(output).backward()
    assert output.predictions.grad[~output.masked].eq(0).all()
    assert output.predictions.grad[output.masked].abs().sum(dim=-1).min() > 0
    assert output.targets.grad is None


def test_each_regression_equals_torchs_own_on_the_hidden_slices() -> None:
    output = volumes()
    predictions = output.predictions[output.masked].detach()
    targets = F.layer_norm(output.targets.detach(), (5,))[output.masked]
    own = {
        "mse": F.mse_loss(predictions, targets),
        "smooth_l1": F.smooth_l1_loss(predictions, targets),
        "cosine": F.cosine_embedding_loss(predictions, targets, torch.ones(len(targets))),
    }
    for regression, wanted in own.items():
        assert float(MaskedSliceLoss(regression)(output).detach()) == pytest.approx(float(wanted), rel=1e-6)
    raw = MaskedSliceLoss(normalize_targets=False)(output)
    assert float(raw.detach()) == pytest.approx(
        float(F.mse_loss(predictions, output.targets.detach()[output.masked])), rel=1e-6
    )


@settings(max_examples=80, deadline=None)
@given(st.integers(1, 12), st.integers(0, 10_000))
def test_interpolation_of_neighbours_equals_numpys(slices: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randn(3, slices, 2, generator=generator, dtype=torch.float64)
    visible = torch.rand(3, slices, generator=generator) < 0.5
    found, mean = neighbour_interpolation(targets, visible), mean_token(targets, visible)
    for volume in range(3):
        known = visible[volume].nonzero().flatten().numpy()
        if not len(known):
            assert found[volume].eq(0).all()
            assert mean[volume].eq(0).all()
            continue
        for channel in range(2):
            values = targets[volume, :, channel].numpy()
            np.testing.assert_allclose(
                found[volume, :, channel], np.interp(np.arange(slices), known, values[known]), atol=1e-12
            )
            np.testing.assert_allclose(mean[volume, :, channel], values[known].mean(), atol=1e-12)


@pytest.mark.parametrize(("name", "predictor"), [("mean", mean_token), ("neighbours", neighbour_interpolation)])
def test_a_trivial_prediction_has_ratio_one(name: str, predictor) -> None:
    output = volumes()
    targets = F.layer_norm(output.targets.detach(), (5,))
    guess: Tensor = predictor(targets, ~(output.masked | output.padded))
    criterion = MaskedSliceLoss()
    criterion(output._replace(predictions=guess))
    assert float(criterion.diagnostics[f"ratio_to_{name}"]) == pytest.approx(1)
    criterion(output._replace(predictions=targets))
    assert float(criterion.diagnostics[f"ratio_to_{name}"]) == 0


def test_padding_changes_nothing() -> None:
    output, criterion = volumes(), MaskedSliceLoss()
    first = criterion(output).detach(), dict(criterion.diagnostics)
    with torch.no_grad():
        output.targets[output.padded] = 1e4
        output.predictions[output.padded] = -1e4
    second = criterion(output).detach(), dict(criterion.diagnostics)
    assert first == second


def test_nothing_hidden_costs_nothing_and_has_a_zero_gradient() -> None:
    output, criterion = volumes(), MaskedSliceLoss()
    loss = criterion(output._replace(masked=torch.zeros(2, 7, dtype=torch.bool)))
    loss.backward()
    assert loss.item() == 0
    assert output.predictions.grad.eq(0).all()
    assert criterion.diagnostics == {}


def test_half_precision_is_regressed_in_fp32() -> None:
    output = volumes()
    halves = output._replace(predictions=output.predictions.bfloat16(), targets=output.targets.bfloat16())
    found = MaskedSliceLoss()(halves)
    wanted = MaskedSliceLoss()(halves._replace(predictions=halves.predictions.float(), targets=halves.targets.float()))
    assert found.dtype == torch.float32
    assert found.item() == wanted.item()


def test_wrong_arguments_are_refused_by_rule() -> None:
    output = volumes()
    with pytest.raises(ValueError, match="regression must be one of mse, smooth_l1, cosine, got 'l1'"):
        MaskedSliceLoss("l1")
    with pytest.raises(
        ValueError, match=r"must be N S D, masked and padded N S, got \(2, 7, 5\), \(2, 7, 5\), \(2, 6\)"
    ):
        MaskedSliceLoss()(output._replace(masked=output.masked[:, :6]))
    with pytest.raises(ValueError, match="masked must be False on padded slices"):
        MaskedSliceLoss()(output._replace(masked=output.masked | output.padded))

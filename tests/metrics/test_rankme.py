# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Collapse measures in closed form."""

from __future__ import annotations

import math

import pytest
import torch

from monai_cluster.metrics import effective_rank, feature_std, rank_me


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_equal_orthogonal_directions_count_as_many_as_they_are(rank: int) -> None:
    assert rank_me(3.0 * torch.eye(8)[:rank].repeat(5, 1)) == pytest.approx(rank, rel=1e-4)


def test_rank_of_unequal_directions_is_the_exponential_of_their_entropy() -> None:
    shares = torch.tensor([0.5, 0.25, 0.25])
    assert rank_me(torch.diag(shares)) == pytest.approx(math.exp(0.5 * math.log(2) + 0.5 * math.log(4)), rel=1e-4)
    assert effective_rank(7 * shares) == pytest.approx(2**1.5, rel=1e-4)


def test_parallel_rows_have_rank_one_and_zero_rows_rank_zero() -> None:
    assert rank_me(torch.ones(20, 6)) == pytest.approx(1, abs=1e-3)
    assert rank_me(torch.zeros(20, 6)) == 0.0


def test_spread_is_one_on_the_sphere_and_zero_at_a_point() -> None:
    generator = torch.Generator().manual_seed(0)
    assert feature_std(torch.randn(20000, 16, generator=generator)) == pytest.approx(1, abs=0.01)
    assert feature_std(torch.randn(1, 16, generator=generator).repeat(50, 1) * torch.rand(50, 1)) < 1e-6


def test_spread_of_two_opposite_axes_by_hand() -> None:
    # Rows +x and -x in two dimensions: std (1, 0), mean 1/2, times the root of 2.
    assert feature_std(torch.tensor([[3.0, 0.0], [-2.0, 0.0]])) == pytest.approx(math.sqrt(2) / 2)


@pytest.mark.parametrize("measure", [rank_me, feature_std])
@pytest.mark.parametrize("shape", [(0, 4), (4,), (2, 3, 4)])
def test_embeddings_of_another_shape_are_refused(measure, shape) -> None:
    with pytest.raises(ValueError, match="N D with at least one row"):
        measure(torch.zeros(shape))

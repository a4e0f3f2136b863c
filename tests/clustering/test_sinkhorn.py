# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Sinkhorn against POT, SciPy, the written-out rounds in float64 and its own invariants."""

from __future__ import annotations

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from monai_cluster.clustering import sinkhorn
from monai_cluster.clustering.sinkhorn import sinkhorn_knopp


def cosine_scores(samples: int, prototypes: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(samples, prototypes, generator=generator, dtype=dtype) * 2 - 1


def logarithmic_rounds(scores: Tensor, epsilon: float, iterations: int) -> Tensor:
    """The definition, in float64 and the log domain."""
    plan = scores.double() / epsilon
    for _ in range(iterations):
        plan = plan - plan.logsumexp(dim=0, keepdim=True)
        plan = plan - plan.logsumexp(dim=1, keepdim=True)
    return plan.exp()


@pytest.mark.parametrize("iterations", [1, 3, 10])
@pytest.mark.parametrize("epsilon", [0.5, 0.05, 0.01])
def test_equals_pot_after_the_same_rounds(epsilon: float, iterations: int) -> None:
    scores = cosine_scores(40, 12)
    # POT updates its second marginal first: samples come first there, so that their step is the last one
    uniform = np.full(40, 1 / 40), np.full(12, 1 / 12)
    plan = ot.bregman.sinkhorn_knopp(*uniform, -scores.numpy(), epsilon, numItermax=iterations, stopThr=0, warn=False)
    np.testing.assert_allclose(sinkhorn_knopp(scores, epsilon, iterations), 40 * plan, rtol=1e-10, atol=1e-14)


def test_converged_plan_equals_pot_to_twelve_digits() -> None:
    scores = cosine_scores(30, 9)
    plan = ot.bregman.sinkhorn_knopp(
        np.full(30, 1 / 30), np.full(9, 1 / 9), -scores.numpy(), 0.1, numItermax=5000, stopThr=0, warn=False
    )
    found = sinkhorn_knopp(scores, 0.1, 5000)
    np.testing.assert_allclose(found, 30 * plan, atol=1e-12, rtol=0)
    np.testing.assert_allclose(found.sum(dim=0), 30 / 9, atol=1e-12)


@pytest.mark.parametrize("rounds", ["exponentials", "logarithms"])
@pytest.mark.parametrize("block_bytes", [1, 4096, 1 << 20])
def test_both_ways_and_any_block_size_equal_the_definition(
    monkeypatch: pytest.MonkeyPatch, rounds: str, block_bytes: int
) -> None:
    monkeypatch.setattr(sinkhorn, "MAX_EXPONENT_RANGE", 64.0 if rounds == "exponentials" else -1.0)
    monkeypatch.setattr(sinkhorn, "BLOCK_BYTES", block_bytes)
    scores = cosine_scores(101, 37)
    torch.testing.assert_close(
        sinkhorn_knopp(scores, 0.05, 4), logarithmic_rounds(scores, 0.05, 4), rtol=1e-11, atol=1e-14
    )


@pytest.mark.parametrize("epsilon", [0.05, 0.03, 0.01, 0.005, 0.001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_any_epsilon_and_type_has_the_accuracy_of_the_log_domain(epsilon: float, dtype: torch.dtype) -> None:
    scores = cosine_scores(64, 48, dtype=torch.float32).to(dtype)
    scores[5] -= 0.9  # a sample far below all others: its row underflows in the plain form
    scores[:, 7] -= 0.8  # a prototype far from all samples: its column does
    found = sinkhorn_knopp(scores, epsilon)
    assert found.dtype == torch.float32
    wanted = logarithmic_rounds(scores, epsilon, 3)
    # one rounding of a score in fp32 is amplified by 1 / epsilon
    tolerance = 2e-6 * max(1.0, 0.05 / epsilon)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=tolerance)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(64), rtol=0, atol=1e-6)
    best, second = wanted.topk(2, dim=1).values.T
    clear = best - second > 2 * tolerance
    assert clear.sum() > 55
    assert torch.equal(found.argmax(dim=1)[clear], wanted.argmax(dim=1)[clear])


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, pytest.mark.skipif("not torch.cuda.is_available()")])],
)
def test_autocast_does_not_lower_the_precision(device: str) -> None:
    """On CUDA autocast would lower the matrix-vector products; on the CPU it leaves them alone anyway."""
    scores = cosine_scores(64, 32, dtype=torch.float32).to(device)
    with torch.autocast(device, dtype=torch.bfloat16):
        inside = sinkhorn_knopp(scores)
    assert torch.equal(inside, sinkhorn_knopp(scores))


def test_vanishing_epsilon_gives_the_optimal_assignment() -> None:
    for seed in range(5):
        scores = cosine_scores(12, 12, seed)
        _, wanted = linear_sum_assignment(scores.numpy(), maximize=True)
        found = sinkhorn_knopp(scores, 0.002, 3000)
        assert found.argmax(dim=1).tolist() == wanted.tolist()
        assert found.max(dim=1).values.min() > 0.9


def test_shifting_a_samples_scores_leaves_the_converged_assignments() -> None:
    scores = cosine_scores(20, 8)
    shifts = cosine_scores(20, 1, seed=1)
    torch.testing.assert_close(
        sinkhorn_knopp(scores + shifts, 0.1, 2000), sinkhorn_knopp(scores, 0.1, 2000), rtol=0, atol=1e-12
    )
    early = sinkhorn_knopp(scores + shifts, 0.1, 1) - sinkhorn_knopp(scores, 0.1, 1)
    assert early.abs().max() > 1e-3  # a per-sample shift instead of the global one would be seen here


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 20), st.integers(1, 15), st.sampled_from([1.0, 0.05, 0.004]), st.integers(0, 10_000))
def test_rows_sum_to_one_and_order_does_not_matter(samples: int, prototypes: int, epsilon: float, seed: int) -> None:
    scores = cosine_scores(samples, prototypes, seed)
    generator = torch.Generator().manual_seed(seed)
    rows, columns = torch.randperm(samples, generator=generator), torch.randperm(prototypes, generator=generator)
    found = sinkhorn_knopp(scores, epsilon)
    torch.testing.assert_close(found.sum(dim=1), torch.ones(samples, dtype=torch.float64))
    torch.testing.assert_close(sinkhorn_knopp(scores[rows][:, columns], epsilon), found[rows][:, columns])
    torch.testing.assert_close(sinkhorn_knopp(scores + 1e3, epsilon), found, rtol=1e-6, atol=1e-9)


def test_uniform_scores_give_uniform_assignments() -> None:
    torch.testing.assert_close(sinkhorn_knopp(torch.full((6, 5), 0.3)), torch.full((6, 5), 0.2))


def test_strided_scores_and_the_input_itself_are_respected() -> None:
    scores = cosine_scores(9, 14)
    kept = scores.clone()
    assert torch.equal(sinkhorn_knopp(scores.T), sinkhorn_knopp(scores.T.contiguous()))
    assert torch.equal(scores, kept)


def test_result_has_no_gradient_and_nothing_in_gives_nothing_out() -> None:
    assert not sinkhorn_knopp(cosine_scores(4, 3).requires_grad_()).requires_grad
    assert sinkhorn_knopp(torch.zeros(0, 3)).shape == (0, 3)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_counted_and_refused(value: float) -> None:
    scores = cosine_scores(6, 4)
    scores[[1, 4], 2] = value
    with pytest.raises(ValueError, match=r"finite, got NaN or infinity in 2 of this rank's 6 rows"):
        sinkhorn_knopp(scores)


def test_wrong_arguments_are_refused_by_rule() -> None:
    scores = cosine_scores(6, 4)
    with pytest.raises(TypeError, match=r"floating-point tensor, got torch\.int64"):
        sinkhorn_knopp(scores.long())
    with pytest.raises(ValueError, match=r"scores must be B K .* got shape \(1, 6, 4\)"):
        sinkhorn_knopp(scores[None])
    with pytest.raises(ValueError, match="epsilon must be positive, got 0"):
        sinkhorn_knopp(scores, 0)
    with pytest.raises(ValueError, match="iterations must be at least 1, got 0"):
        sinkhorn_knopp(scores, iterations=0)


def rank_share(rank: int, scores: Tensor, cut: int, epsilon: float) -> Tensor:
    return sinkhorn_knopp(scores[:cut] if rank == 0 else scores[cut:], epsilon)


@pytest.mark.parametrize(("cut", "epsilon"), [(20, 0.05), (7, 0.05), (0, 0.05), (7, 0.004), (0, 0.004)])
def test_two_ranks_equal_one_process(gloo_pair, cut: int, epsilon: float) -> None:
    scores = cosine_scores(40, 11)
    scores[:20] -= 0.7  # the ranks' own maxima differ
    parts = gloo_pair(rank_share, scores, cut, epsilon)
    torch.testing.assert_close(torch.cat(parts), sinkhorn_knopp(scores, epsilon), rtol=1e-12, atol=1e-14)


def one_rank_has_nan(rank: int) -> str:
    scores = torch.zeros(3, 2)
    if rank == 1:
        scores[0, 0] = torch.nan
    try:
        sinkhorn_knopp(scores)
    except ValueError as error:
        return str(error)
    return "no error"


def test_nan_on_one_rank_stops_both(gloo_pair) -> None:
    first, second = gloo_pair(one_rank_has_nan)
    assert "in 0 of this rank's 3 rows" in first
    assert "in 1 of this rank's 3 rows" in second

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Bootstrap intervals against SciPy's, closed forms and counting; what is drawn together stays together."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy.stats import bootstrap as scipy_bootstrap

from monai_cluster.metrics import (
    BootstrapInterval,
    area_under_roc,
    bootstrap_interval,
    bootstrap_mean,
    paired_difference,
)


def test_the_interval_of_a_mean_equals_scipys() -> None:
    values = np.random.default_rng(0).gamma(2, size=60)
    found = bootstrap_mean(values, range(60), num_draws=20_000, confidence=0.9)
    oracle = scipy_bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", confidence_level=0.9, rng=np.random.default_rng(1)
    ).confidence_interval
    assert found.value == pytest.approx(values.mean())
    assert (found.low, found.high) == pytest.approx((oracle.low, oracle.high), abs=0.02 * (oracle.high - oracle.low))


def test_two_patients_are_drawn_as_coins_fall() -> None:
    # Means 0, 1/2 and 1 with probabilities 1/4, 1/2 and 1/4: these quantiles of them are known.
    assert bootstrap_mean([0.0, 1.0], ["a", "b"], confidence=0.6)[1:3] == (0, 1)
    assert bootstrap_mean([0.0, 1.0], ["a", "b"], confidence=0.4)[1:3] == (0.5, 0.5)


def test_any_statistic_and_the_quick_mean_draw_the_same_patients() -> None:
    rng = np.random.default_rng(0)
    values, patients = rng.normal(size=40), rng.integers(9, size=40)
    quick = bootstrap_mean(values, patients, num_draws=300, seed=4)
    slow = bootstrap_interval(lambda rows: values[rows].mean(), patients, num_draws=300, seed=4)
    assert quick == pytest.approx(slow)
    assert quick != pytest.approx(bootstrap_mean(values, patients, num_draws=300, seed=5))


def test_all_rows_of_a_patient_come_together() -> None:
    patients = ["p", "q", "p", "r", "q", "p"]
    drawn: list[tuple[int, int, int]] = []

    def count(rows: np.ndarray) -> float:
        times = np.bincount(rows, minlength=6)
        assert times[0] == times[2] == times[5]
        assert times[1] == times[4]
        drawn.append((times[0], times[1], times[3]))
        return 0.0

    bootstrap_interval(count, patients, num_draws=200)
    assert drawn[0] == (1, 1, 1)  # the score itself
    assert {sum(times) for times in drawn} == {3}
    assert len(set(drawn)) == 10  # every way to draw three of three with replacement


def test_intervals_over_patients_cover_the_truth_where_intervals_over_rows_do_not() -> None:
    # 30 patients with 8 rows each, which differ only by the patient: the rows carry no more than the patients.
    rng = np.random.default_rng(0)
    covered = np.zeros(2)
    for _ in range(200):
        values = np.repeat(rng.normal(size=30), 8)
        for place, groups in enumerate((np.repeat(np.arange(30), 8), np.arange(240))):
            found = bootstrap_mean(values, groups, num_draws=200)
            covered[place] += found.low <= 0 <= found.high
    assert covered[0] / 200 > 0.88
    assert covered[1] / 200 < 0.65


def test_undefined_draws_are_left_out_and_reported() -> None:
    # With one positive among four, (3/4)^4 of the draws lack it and (1/4)^4 hold nothing else: no AUC then.
    truth, scores = np.array([True, False, False, False]), np.array([4, 1, 2, 3])
    found = bootstrap_interval(lambda rows: area_under_roc(scores[rows], truth[rows]), range(4), num_draws=4000)
    assert found.undefined == pytest.approx((3 / 4) ** 4 + (1 / 4) ** 4, abs=0.03)
    assert (found.value, found.low, found.high) == (1, 1, 1)
    rare = bootstrap_interval(lambda rows: 1.0 if len(set(rows.tolist())) == 4 else math.nan, range(4))
    assert rare.undefined > 0.8
    assert math.isnan(rare.low)
    assert math.isnan(rare.high)


def test_missing_values_do_not_count_in_means() -> None:
    values = [1.0, math.nan, 3.0, math.nan]
    found = bootstrap_mean(values, ["a", "a", "b", "c"], num_draws=3000)
    assert found.value == 2
    assert (found.low, found.high) == (1, 3)
    assert found.undefined == pytest.approx(1 / 27, abs=0.02)  # draws of c alone
    assert math.isnan(bootstrap_mean([math.nan] * 3, "abc").value)


def test_one_patient_has_a_score_and_no_interval() -> None:
    for found in (
        bootstrap_mean([1.0, 3.0], ["a", "a"]),
        bootstrap_interval(lambda rows: float(len(rows)), ["a", "a"]),
    ):
        assert found == pytest.approx(BootstrapInterval(2.0, math.nan, math.nan, 1, 0.0), nan_ok=True)


def test_with_one_seed_the_difference_is_the_bootstrap_of_differences() -> None:
    rng = np.random.default_rng(0)
    first, second, patients = rng.normal(size=50), rng.normal(size=50), rng.integers(20, size=50)
    found = paired_difference(first, second, patients, seed=3)
    assert found[:4] == pytest.approx(bootstrap_mean(first - second, patients, seed=3)[:4])
    assert found.num_seeds == 1
    assert paired_difference(second, first, patients, seed=3).mean == -found.mean


def test_pairing_removes_what_patients_have_in_common() -> None:
    rng = np.random.default_rng(0)
    hard = rng.normal(size=30)
    found = paired_difference(hard + 0.1, hard, range(30))
    assert (found.mean, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))


def test_patients_and_seeds_add_their_variances() -> None:
    # For differences p_i + s_j drawn along both axes the variance is var(p) / n + var(s) / m.
    rng = np.random.default_rng(0)
    patient, run = rng.normal(size=40), 0.3 * rng.normal(size=12)
    table = patient[:, None] + run
    owners, seeds = np.repeat(np.arange(40), 12), np.tile(np.arange(12), 40)
    found = paired_difference(table.ravel(), np.zeros(480), owners, seeds, num_draws=4000)
    spread = math.sqrt(patient.var() / 40 + run.var() / 12)
    assert found.mean == pytest.approx(table.mean())
    assert found.high - found.low == pytest.approx(2 * 1.96 * spread, rel=0.06)
    assert (found.num_patients, found.num_seeds) == (40, 12)


def test_training_that_differs_between_seeds_widens_the_interval() -> None:
    owners, seeds = np.repeat(np.arange(20), 3), np.tile([7, 8, 9], 20)
    found = paired_difference(np.tile([0.0, 1.0, 2.0], 20), np.zeros(60), owners, seeds, num_draws=1000)
    assert found.mean == 1
    assert (found.low, found.high) == (0, 2)  # each with probability 1/27: beyond 2.5 %


def test_scores_that_are_no_means_are_taken_per_seed() -> None:
    rng = np.random.default_rng(0)
    truth = np.tile(rng.integers(2, size=25), 2)
    owners, seeds = np.tile(np.arange(25), 2), np.repeat([0, 1], 25)
    # Under seed 1 all outputs are higher: pooled over seeds they would rank falsely.
    one = rng.normal(size=50) + truth + 10 * seeds
    two = rng.normal(size=50) + 10 * seeds
    scores = [lambda rows, x=x: area_under_roc(x[rows], truth[rows]) for x in (one, two)]
    found = paired_difference(scores[0], scores[1], owners, seeds, num_draws=300)
    by_hand = [[area_under_roc(x[seeds == s], truth[seeds == s]) for s in (0, 1)] for x in (one, two)]
    assert found.mean == pytest.approx(np.mean(by_hand[0]) - np.mean(by_hand[1]))
    assert found.low < found.mean < found.high


def test_pairs_with_a_missing_value_are_dropped_together() -> None:
    found = paired_difference([1.0, math.nan, 5.0], [0.0, 100.0, math.nan], ["a", "b", "c"])
    assert (found.mean, found.num_patients, found.num_dropped) == (1, 1, 2)
    assert math.isnan(found.low)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bootstrap_mean([], []), "at least one row"),
        (lambda: bootstrap_mean([1.0], ["a", "b"]), "a value and a patient"),
        (lambda: bootstrap_mean([1.0], ["a"], num_draws=0), "num_draws must be at least 1"),
        (lambda: bootstrap_interval(lambda rows: 0.0, ["a"], confidence=95), "confidence in"),
        (lambda: paired_difference([1.0], [1.0, 2.0], ["a", "b"]), "one per row"),
        (lambda: paired_difference([1.0], [2.0], ["a"], [0, 1]), "one per row"),
        (lambda: paired_difference([math.nan], [2.0], ["a"]), "at least one row"),
    ],
)
def test_what_cannot_be_drawn_is_refused(call: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()

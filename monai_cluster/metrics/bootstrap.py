# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Percentile bootstrap over patients: how far a score would move with other patients of the same kind.

Rows of one patient (images, volumes, lesions) are alike, so whole patients are drawn. An interval from a test set says
nothing about another training run; :func:`paired_difference` therefore also draws the training seeds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["BootstrapInterval", "PairedDifference", "bootstrap_interval", "bootstrap_mean", "paired_difference"]

Rows = npt.NDArray[np.int64]
Statistic = Callable[[Rows], float]
Values = Sequence[float] | npt.NDArray[Any]
LEAST_DEFINED = 0.5  # of the draws: with fewer, their percentiles would describe the lucky draws only


class BootstrapInterval(NamedTuple):
    """A score and its interval.

    Attributes:
        value: of the rows as they are.
        low: lower end; NaN with fewer than two patients or where the score was mostly undefined.
        high: upper end.
        num_patients: how many were drawn from.
        undefined: share of the draws in which the score was NaN (for an AUC: draws with one class only); left out.
    """

    value: float
    low: float
    high: float
    num_patients: int
    undefined: float


class PairedDifference(NamedTuple):
    """First minus second, on the same patients and seeds.

    Attributes:
        mean: of the rows as they are.
        low: lower end of the interval; NaN with fewer than two patients.
        high: upper end.
        num_patients: how many were drawn from.
        num_seeds: how many were drawn from; with one, the interval leaves the randomness of training out.
        num_dropped: rows left out because either value was NaN.
    """

    mean: float
    low: float
    high: float
    num_patients: int
    num_seeds: int
    num_dropped: int


def bootstrap_interval(
    statistic: Statistic,
    patients: Sequence[Any],
    *,
    num_draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """Percentile interval of any score (Efron 1979), drawing patients with replacement, each with all of their rows.

    Args:
        statistic: ``row numbers -> score``; rows of a patient who is drawn twice come twice. It may return NaN.
        patients: of every row, numbers or text.
        num_draws: more make the ends steadier; 2000 leave them uncertain by about 3 % of the interval's width.
        confidence: share of the draws inside the interval.
        seed: equal seeds draw equal patients, so that scores of the same rows can be compared.

    Raises:
        ValueError: for no row, less than one draw, or a confidence outside (0, 1).
    """
    _check_options(len(patients), num_draws, confidence)
    rows, count = _rows_by(patients)
    value = float(statistic(np.arange(len(patients))))
    generator = np.random.default_rng(seed)
    draws = np.array(
        [
            float(statistic(np.concatenate([rows[place] for place in generator.integers(count, size=count)])))
            for _ in range(num_draws if count > 1 else 0)
        ]
    )
    low, high = _percentiles(draws, confidence)
    undefined = float(np.isnan(draws).mean()) if len(draws) else 0.0
    return BootstrapInterval(value, low, high, count, undefined)


def bootstrap_mean(
    values: Values,
    patients: Sequence[Any],
    *,
    num_draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> BootstrapInterval:
    """:func:`bootstrap_interval` of the mean of the values that are not NaN, in one matrix product.

    Args:
        values: one per row.
        patients: of every row.
        num_draws: as there.
        confidence: as there.
        seed: as there.

    Raises:
        ValueError: if values and patients differ in number, and as :func:`bootstrap_interval`.
    """
    table = np.asarray(values, np.float64)
    if table.shape != (len(patients),):
        raise ValueError(f"every row needs a value and a patient, got shape {table.shape} and {len(patients)}.")
    _check_options(len(patients), num_draws, confidence)
    rows, count = _rows_by(patients)
    known = ~np.isnan(table)
    sums = np.array([table[place][known[place]].sum() for place in rows])
    sizes = np.array([known[place].sum() for place in rows])
    weights = _draw_counts(np.random.default_rng(seed), count, num_draws if count > 1 else 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        draws = (weights @ sums) / (weights @ sizes)
        value = float(sums.sum() / sizes.sum())
    low, high = _percentiles(draws, confidence)
    return BootstrapInterval(value, low, high, count, float(np.isnan(draws).mean()) if len(draws) else 0.0)


def paired_difference(
    first: Values | Statistic,
    second: Values | Statistic,
    patients: Sequence[Any],
    seeds: Sequence[Any] | None = None,
    *,
    num_draws: int = 2000,
    confidence: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """How much the first of two methods is better, with both run on the same patients with the same training seeds.

    Row r is one test sample under one training seed. Patients and seeds are drawn independently, with replacement, and
    a row counts as often as its patient times its seed were drawn (the pigeonhole bootstrap, Owen 2007,
    doi:10.1214/07-AOAS122, conservative for such crossed designs). The score is taken per seed and averaged over seeds.

    Args:
        first: values of the rows, whose mean is the score; or, for scores that are no means (AUC, average precision), a
            function ``row numbers of one seed -> score``.
        second: likewise.
        patients: of every row.
        seeds: training seed of every row; None says that there was one.
        num_draws: number of draws.
        confidence: share of the draws inside the interval.
        seed: of the draws.

    Raises:
        ValueError: for lengths that differ, no row left, less than one draw, or a confidence outside (0, 1).
    """
    number = len(patients)
    runs = np.zeros(number, dtype=int) if seeds is None else np.asarray(seeds)
    lengths = [len(runs), *(len(item) for item in (first, second) if not callable(item))]
    if any(length != number for length in lengths):
        raise ValueError(f"values, patients and seeds must be one per row, got {lengths} for {number} patients.")
    kept = np.ones(number, dtype=bool)
    for item in (first, second):
        if not callable(item):
            kept &= ~np.isnan(np.asarray(item, np.float64))
    places = np.flatnonzero(kept)
    _check_options(len(places), num_draws, confidence)
    by_patient, num_patients = _rows_by([patients[int(place)] for place in places])
    by_seed, num_seeds = _rows_by(runs[places])
    owner = np.empty(len(places), dtype=np.int64)
    for place, rows in enumerate(by_patient):
        owner[rows] = place
    scores = [_score(item) for item in (first, second)]

    def difference(patient_counts: Rows, seed_counts: Rows) -> float:
        total, weight = 0.0, 0
        for rows, times in zip(by_seed, seed_counts, strict=True):
            drawn = places[np.repeat(rows, patient_counts[owner[rows]])]
            if times and len(drawn):  # a seed without any of the drawn patients has no score
                total += times * (scores[0](drawn) - scores[1](drawn))
                weight += times
        return float(total / weight) if weight else math.nan

    mean = difference(np.ones(num_patients, dtype=np.int64), np.ones(num_seeds, dtype=np.int64))
    generator = np.random.default_rng(seed)
    times = num_draws if num_patients > 1 else 0
    patient_draws, seed_draws = (_draw_counts(generator, count, times) for count in (num_patients, num_seeds))
    draws = np.array([difference(*pair) for pair in zip(patient_draws, seed_draws, strict=True)])
    low, high = _percentiles(draws, confidence)
    return PairedDifference(mean, low, high, num_patients, num_seeds, number - len(places))


def _score(item: Values | Statistic) -> Statistic:
    if callable(item):
        return item
    values = np.asarray(item, np.float64)
    return lambda rows: float(values[rows].mean())


def _rows_by(names: Sequence[Any] | npt.NDArray[Any]) -> tuple[list[Rows], int]:
    """Row numbers of each name, names in order of appearance, so that the draws do not depend on how they sort."""
    places: dict[Any, list[int]] = {}
    for row, name in enumerate(names):
        places.setdefault(name, []).append(row)
    return [np.array(rows, dtype=np.int64) for rows in places.values()], len(places)


def _draw_counts(generator: np.random.Generator, count: int, num_draws: int) -> Rows:
    """How often each of ``count`` was drawn, ``num_draws count``."""
    table = np.zeros((num_draws, count), dtype=np.int64)
    for row in table:
        row += np.bincount(generator.integers(count, size=count), minlength=count)
    return table


def _percentiles(draws: npt.NDArray[np.float64], confidence: float) -> tuple[float, float]:
    known = draws[~np.isnan(draws)]
    if not len(known) or len(known) < LEAST_DEFINED * len(draws):
        return math.nan, math.nan
    low, high = np.percentile(known, [50 * (1 - confidence), 50 * (1 + confidence)])
    return float(low), float(high)


def _check_options(number: int, num_draws: int, confidence: float) -> None:
    if not number:
        raise ValueError("a bootstrap needs at least one row with a value, got none.")
    if num_draws < 1 or not 0 < confidence < 1:
        raise ValueError(
            f"num_draws must be at least 1 and confidence in (0, 1), got {num_draws} and {confidence}: 95 % is .95."
        )

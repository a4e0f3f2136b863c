# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Copies and look-alikes are found as comparing all with all would find them, and outliers as one would see them."""

from __future__ import annotations

import numpy as np
import pytest

from monai_cluster.integrity.duplicates import close_pairs, correlations, exact_copies
from monai_cluster.integrity.modalities import known_modality
from monai_cluster.integrity.outliers import find_outliers


def test_exact_copies_are_grouped_in_order() -> None:
    assert exact_copies(["a", None, "b", "a", None, "c", "b", "a"]) == [[0, 3, 7], [2, 6]]


def flipped(value: int, bits: list[int]) -> int:
    for bit in bits:
        value ^= 1 << bit
    return value


@pytest.mark.parametrize("distance", [0, 1, 3])
def test_close_pairs_are_those_of_comparing_all(distance: int) -> None:
    generator = np.random.default_rng(distance)
    values = [int(one) for one in generator.integers(0, 2**63, 150, dtype=np.int64)]
    for value in values[:60]:
        bits = generator.choice(64, generator.integers(0, 6), replace=False).tolist()
        values.append(flipped(value, bits))
    hashes = np.array(values, dtype=np.uint64)
    wanted = [
        [one, other]
        for one in range(len(values))
        for other in range(one + 1, len(values))
        if bin(values[one] ^ values[other]).count("1") <= distance
    ]
    assert close_pairs(hashes, distance).tolist() == wanted
    assert len(wanted) > 5


def test_a_crowd_of_equal_hashes_costs_a_bounded_number_of_pairs() -> None:
    assert len(close_pairs(np.zeros(5000, dtype=np.uint64))) <= 64 * 5000
    assert len(close_pairs(np.zeros(0, dtype=np.uint64))) == 0


def test_a_distance_beyond_the_bands_is_refused() -> None:
    with pytest.raises(ValueError, match=r"distance must lie in 0\.\.3, got 4"):
        close_pairs(np.zeros(2, dtype=np.uint64), 4)


def test_correlations_are_numpys_and_constant_pictures_have_none() -> None:
    grids = np.random.default_rng(0).integers(0, 256, (6, 100), dtype=np.uint8)
    grids[5] = 7
    pairs = np.array([[0, 1], [2, 3], [4, 5], [1, 1]])
    wanted = [np.corrcoef(grids[one], grids[other])[0, 1] for one, other in ((0, 1), (2, 3))]
    np.testing.assert_allclose(correlations(grids, pairs, part=3), [*wanted, -1, 1], atol=1e-5)


def volumes(count: int, **changes) -> list[dict]:
    generator = np.random.default_rng(1)
    rows = [
        {
            "spacing": [0.7, 0.7, float(3 + generator.random())],
            "shape": [256, 256, int(generator.integers(30, 50))],
            "mean": float(generator.normal(-400, 20)),
            "std": float(generator.normal(480, 15)),
        }
        for _ in range(count)
    ]
    rows[0].update(changes)
    return rows


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"spacing": [7.0, 7.0, 3.0]}, "SPACING"),
        ({"shape": [2048, 2048, 40]}, "GEOMETRY"),
        ({"mean": 30_000.0}, "RANGE"),
        ({"std": 2.0}, "RANGE"),
    ],
)
def test_one_that_stands_out_is_warned_about(changes: dict, code: str) -> None:
    found = find_outliers(volumes(20, **changes), 4.0)
    assert {index: {one.code for one in findings} for index, findings in found.items.items()} == {0: {code}}
    assert found.whole == []
    assert all(one.severity == "warn" for one in found.items[0])


def test_ordinary_scatter_few_items_and_unknown_values_make_no_outliers() -> None:
    assert find_outliers(volumes(20), 4.0).items == {}
    assert find_outliers(volumes(9, std=1e9), 4.0).items == {}
    unknown = [{"spacing": None, "shape": None, "mean": None, "std": None}] * 30
    assert find_outliers(unknown, 4.0).items == {}


def test_a_mixture_is_said_once_and_not_of_every_item() -> None:
    rows = volumes(40)
    for row in rows[:8]:
        row["mean"], row["std"] = 90_000.0, 30_000.0
    found = find_outliers(rows, 4.0)
    assert found.items == {}
    assert {one.code for one in found.whole} == {"RANGE"}
    assert "8 of 40 items" in found.whole[0].found


def test_a_factor_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="factor of outliers must be above 1"):
        find_outliers([], 1.0)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("MR FLAIR", "MR FLAIR"), ("t1-w", None), ("ct", "CT"), ("Meier CT", None), (3, None), ("", None)],
)
def test_only_usual_words_of_modalities_are_shown(text: object, shown: str | None) -> None:
    assert known_modality(text) == shown

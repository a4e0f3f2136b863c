# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Splits by patient: whole patients, the wanted fractions, and nobody moves later."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monai_cluster.apps.check_output import CheckOutput
from monai_cluster.apps.check_splits import SPLITS, assign_splits, split_name, split_rank, subject_id, take_subjects
from monai_cluster.integrity.candidates import Candidate

OUTPUT = CheckOutput(Path("nowhere"), bytes(32), False)


def names(count: int) -> list[str]:
    return [f"p{number}" for number in range(count)]


@given(st.integers(0, 60), st.tuples(*[st.integers(0, 5)] * 3).filter(any), st.integers(0, 3))
def test_every_patient_has_one_split_and_counts_are_within_one_of_the_fractions(count, fractions, seed) -> None:
    found = assign_splits(names(count), fractions, seed)
    assert sorted(found) == sorted(names(count))
    numbers = Counter(found.values())
    for split, fraction in zip(SPLITS, fractions, strict=True):
        share = count * fraction / sum(fractions)
        assert abs(numbers[split] - share) < 2
        assert numbers[split] == 0 or fraction > 0
        if fraction and count >= 3:
            assert numbers[split] >= 1


def test_the_seed_decides_and_the_same_seed_repeats() -> None:
    first, again, other = (assign_splits(names(40), (0.8, 0.1, 0.1), seed) for seed in (0, 0, 1))
    assert first == again != other


def test_patients_who_join_later_move_nobody() -> None:
    before = assign_splits(names(20), (0.6, 0.2, 0.2), 0)
    after = assign_splits(names(40), (0.6, 0.2, 0.2), 0, before)
    assert before.items() <= after.items()
    assert Counter(after.values()) == {"training": 24, "validation": 8, "test": 8}


@pytest.mark.parametrize("fractions", [(0.8, 0.2), (1, 1, -1), (0, 0, 0), (1, 1, float("inf")), (1, 1, float("nan"))])
def test_fractions_that_are_none_are_refused(fractions: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="fractions must be three numbers from 0"):
        assign_splits(names(3), fractions, 0)


def candidate(name: str, subject: str | None = None, source: str | None = None) -> Candidate:
    return Candidate(name, (name,), (), subject=subject, subject_source=source)


def test_patients_are_taken_from_the_most_trusted_source() -> None:
    every = [
        candidate("P07/sub-01/a.nii", "listed", "column"),
        candidate("P07/sub-01/a", "digest", "dicom"),
        candidate("sub-01/a", "digest", "dicom"),
        candidate("sub-01/ses-1/sub-01_T1w.nii.gz"),
        candidate("sub-01_T1w.nii.gz"),
        candidate("subject-01/a.nii"),
    ]
    assert take_subjects(every, r"(P\d+)/") == 1
    assert [(one.subject, one.subject_source) for one in every] == [
        ("listed", "column"),
        ("P07", "pattern"),
        ("digest", "dicom"),
        ("01", "bids"),
        ("01", "bids"),
        ("subject-01/a.nii", "own"),
    ]


@pytest.mark.parametrize(("pattern", "wanted"), [(r"P\d+", "P07"), (r"P(\d+)", "07"), (r"(P)(?P<subject>\d)", "0")])
def test_a_pattern_may_have_no_group_one_group_or_a_named_one(pattern: str, wanted: str) -> None:
    one = candidate("x/P07.png")
    take_subjects([one], pattern)
    assert one.subject == wanted


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="subject_pattern must be a regular expression"):
        take_subjects([], "(")


def test_a_patient_is_the_same_in_a_list_and_in_dicom_and_another_in_bids() -> None:
    listed = candidate("a", "4711", "column")
    dicom = candidate("b", OUTPUT.digest("dicom patient", "4711"), "dicom")
    bids = candidate("c", "4711", "bids")
    assert subject_id(listed, OUTPUT) == subject_id(dicom, OUTPUT) != subject_id(bids, OUTPUT)
    assert "4711" not in subject_id(bids, OUTPUT)


def test_splits_are_ranked_by_harm_and_odd_names_are_not_shown() -> None:
    assert sorted(["test", None, "validation"], key=split_rank) == [None, "validation", "test"]
    assert [split_name(one) for one in ("test", "Smith^John")] == ["test", "another split"]

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Who is whose patient, and which patients are for training, validation and test."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence

from monai_cluster.apps.check_output import CheckOutput
from monai_cluster.integrity.candidates import Candidate
from monai_cluster.integrity.label_pairing import bids_subject

__all__ = ["SPLITS", "assign_splits", "split_name", "split_rank", "subject_id", "take_subjects"]

SPLITS = ("training", "validation", "test")
OWN = "own"  # source of a patient who is only known by the item


def take_subjects(candidates: Sequence[Candidate], pattern: str | None) -> int:
    """Fill in the patient of every candidate.

    In order of trust: the list's column, the given pattern, DICOM's PatientID, BIDS' ``sub-XX``; an item that has none
    of these is taken for a patient of its own.

    Args:
        candidates: are filled.
        pattern: regular expression, searched in relative paths with ``/``; its group ``subject``, else its first
            group, else the whole match is the patient.

    Returns:
        number of items whose patient is unknown.

    Raises:
        ValueError: for a pattern that is no regular expression.
    """
    try:
        expression = None if pattern is None else re.compile(pattern)
    except re.error as error:
        raise ValueError(
            f"subject_pattern must be a regular expression, got {pattern!r} ({error}); correct it"
        ) from None
    unknown = 0
    for one in candidates:
        name = one.name.replace("\\", "/")
        if one.subject_source == "column":
            continue
        matched = None if expression is None else _matched(expression, name)
        bids = bids_subject(name)
        if matched is not None:
            one.subject, one.subject_source = matched, "pattern"
        elif one.subject_source is None and bids is not None:
            one.subject, one.subject_source = bids, "bids"
        elif one.subject_source is None:
            one.subject, one.subject_source = one.name, OWN
            unknown += 1
    return unknown


def _matched(expression: re.Pattern[str], name: str) -> str | None:
    match = expression.search(name)
    if match is None:
        return None
    if "subject" in expression.groupindex:
        return match.group("subject") or None
    return (match.group(1) if expression.groups else match.group()) or None


def subject_id(candidate: Candidate, output: CheckOutput) -> str:
    """``subject-…`` with 12 salted hex digits; numbers from lists and from DICOM are of one kind."""
    source, text = candidate.subject_source or OWN, candidate.subject or ""
    if source == "column":  # DICOM's are salted in this way before they are remembered
        source, text = "dicom", output.digest("dicom patient", text)
    return f"subject-{output.digest('subject', source, text)[:12]}"


def split_rank(split: str | None) -> int:
    """How much harm a leak does there: most in test, then validation, then anything else."""
    return {"test": 2, "validation": 1}.get(split or "", 0)


def split_name(split: str | None) -> str:
    """A usual name of a split as it is; what a list calls its others could be anything, and is not shown."""
    return split if split in (*SPLITS, "train", "val") else "another split"


def assign_splits(
    patients: Sequence[str], fractions: Sequence[float], seed: int, kept: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Give every patient one split.

    Each new patient, in an order drawn with the seed, goes where most are missing. Those who have a split keep it.

    Args:
        patients: unique, in a lasting order.
        fractions: of patients in training, validation and test; they are divided by their sum.
        seed: of the order.
        kept: splits that were given before.

    Raises:
        ValueError: for fractions that are not three, negative, or all zero.
    """
    if len(fractions) != len(SPLITS) or min(fractions) < 0 or not 0 < sum(fractions) < float("inf"):
        raise ValueError(
            f"fractions must be three numbers from 0 for {', '.join(SPLITS)}, got {list(fractions)}; "
            "0.8 0.1 0.1 is usual"
        )
    found = {patient: kept[patient] for patient in patients if kept and patient in kept}
    missing = {split: float(count) for split, count in _counts(len(patients), fractions).items()}
    for split in found.values():
        missing[split] = missing.get(split, 0.0) - 1
    drawn = [patient for patient in patients if patient not in found]
    random.Random(seed).shuffle(drawn)
    for patient in drawn:
        split = max(SPLITS, key=lambda name: (fractions[SPLITS.index(name)] > 0, missing[name]))
        found[patient] = split
        missing[split] -= 1
    return found


def _counts(total: int, fractions: Sequence[float]) -> dict[str, int]:
    """Whole numbers of patients by largest remainder; a split that is wanted gets one if there are enough."""
    shares = [total * one / sum(fractions) for one in fractions]
    counts = [int(one) for one in shares]
    for place in sorted(range(len(shares)), key=lambda place: counts[place] - shares[place])[: total - sum(counts)]:
        counts[place] += 1
    for place, share in enumerate(shares):
        if share > 0 and counts[place] == 0 and max(counts) > 1:
            counts[counts.index(max(counts))] -= 1
            counts[place] = 1
    return dict(zip(SPLITS, counts, strict=True))

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Free text in headers that may identify a patient. What is found is named by kind and never quoted."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .findings import Inspection

__all__ = ["identifying_kinds", "warn_of_identifiers"]

DAY, DAY2 = r"(?:0?[1-9]|[12]\d|3[01])", r"(?:0[1-9]|[12]\d|3[01])"  # or a month
PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("a name", re.compile(r"[^\W\d_]{2,}\^[^\W\d_]*")),
    ("a name", re.compile(r"\b(?:patient|subject|pat)[ _]?(?:s[ _])?name\b\W{0,3}\S", re.I)),
    (
        "a record number",
        re.compile(r"\b(?:mrn|pid|patient[ _]?id|accession|case[ _]?no)\W{0,3}[A-Za-z]{0,4}\d{3,}", re.I),
    ),
    ("a date of birth", re.compile(r"\b(?:dob|birth ?date|born)\W{0,3}\d", re.I)),
    ("a date", re.compile(r"(?<!\d)(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])(?!\d)")),
    ("a date", re.compile(rf"(?<!\d)(?:{DAY}[./-]{DAY}[./-](?:19|20)\d{{2}}|(?:19|20)\d{{2}}-\d{{2}}-\d{{2}})(?!\d)")),
    # years of two digits: with points, only days and months of two digits, since programs sign with versions (5.0.10)
    ("a date", re.compile(rf"(?<![\d.])(?:{DAY}[/-]{DAY}[/-]\d{{2}}|{DAY2}\.{DAY2}\.\d{{2}})(?!\d)")),
    ("a path", re.compile(r"(?:^|[\s\"'=:])(?:[A-Za-z]:\\|\\\\|/)(?:[^\s/\\]+[/\\])+[^\s/\\]+")),
    ("an address", re.compile(r"[\w.+-]+@[\w-]+\.\w{2,}")),
)


def identifying_kinds(texts: Iterable[str]) -> list[str]:
    """Which kinds of identifier the texts seem to hold, without the text itself."""
    found = {kind for text in texts for kind, pattern in PATTERNS if pattern.search(text)}
    return sorted(found)


def warn_of_identifiers(texts: Iterable[str], where: str, inspection: Inspection) -> None:
    """Warn where the texts of ``where`` look like patient identifiers."""
    kinds = identifying_kinds(texts)
    if kinds:
        inspection.warn(
            "PHI",
            "headers should not identify a patient",
            f"what looks like {', '.join(kinds)} in {where}",
            "de-identify the files before they leave the hospital; nothing of this text is kept",
        )

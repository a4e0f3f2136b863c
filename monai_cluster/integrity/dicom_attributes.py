# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Values of a DICOM header that may be missing, malformed or lies: a number, a text, an item, or nothing."""

from __future__ import annotations

import math
from typing import Any

from pydicom.dataset import Dataset
from pydicom.uid import UID

__all__ = ["first_item", "number", "numbers", "object_name", "text"]

NOT_IMAGES = ("SEG", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "SR", "PR", "KO", "REG", "DOC", "FID", "AU", "ECG")


def text(header: Dataset, keyword: str) -> str:
    """An element as text, several values joined by a backslash; empty where it is missing or unreadable."""
    try:
        value = header.get(keyword)
        if value is None:
            return ""
        many = not isinstance(value, (str, bytes)) and hasattr(value, "__iter__") and keyword != "PatientName"
        return "\\".join(str(one) for one in value) if many else str(value).strip()
    except Exception:  # what a malformed value raises depends on its type
        return ""


def numbers(header: Dataset, keyword: str, count: int) -> tuple[float, ...] | None:
    """``count`` finite numbers; None where the element is missing, unreadable, of another count or not finite."""
    try:
        value: Any = header.get(keyword)
        many = list(value) if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) else [value]
        found = tuple(float(one) for one in many)
    except Exception:  # what a malformed value raises depends on its type
        return None
    return found if len(found) == count and all(math.isfinite(one) for one in found) else None


def number(header: Dataset, keyword: str) -> float | None:
    """One finite number, or None."""
    found = numbers(header, keyword, 1)
    return found[0] if found else None


def first_item(header: Dataset, keyword: str) -> Dataset | None:
    """The first item of a sequence, or None."""
    try:
        items = header.get(keyword)
        return items[0] if items is not None and len(items) and isinstance(items[0], Dataset) else None
    except Exception:  # a sequence is parsed when it is looked at
        return None


def object_name(header: Dataset) -> str | None:
    """What kind of DICOM object this is, where it is none with a patient's pixels; else None."""
    modality = text(header, "Modality").upper()
    if "DirectoryRecordSequence" in header:
        return "a DICOM directory"
    if modality in NOT_IMAGES:
        return f"a DICOM {modality} object"
    uid = UID(text(header, "SOPClassUID"))
    known = uid.is_valid and uid.name != uid
    return f"a DICOM object of class {uid.name}" if known and "Image Storage" not in uid.name else None

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Which elements of a DICOM header identify a patient, and which only hold what de-identification left there."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pydicom.dataset import Dataset

from .findings import Inspection
from .identifiers import identifying_kinds

__all__ = ["IDENTIFYING_KEYWORDS", "header_identifiers", "warn_of_header_identifiers"]

PERSON_NAMES = {
    "PatientName": "a patient's name",
    "PatientBirthName": "a patient's name",
    "OtherPatientNames": "a patient's name",
    "PatientMotherBirthName": "a patient's name",
    "ResponsiblePerson": "a patient's name",
    "ReferringPhysicianName": "a physician's name",
    "PerformingPhysicianName": "a physician's name",
    "NameOfPhysiciansReadingStudy": "a physician's name",
    "OperatorsName": "an operator's name",
}
CODES = {
    "PatientID": "a patient number",
    "OtherPatientIDs": "another patient number",
    "AccessionNumber": "an accession number",
    "AdmissionID": "an admission number",
    "MedicalRecordLocator": "a record number",
}
CONTACTS = {
    "PatientAddress": "an address",
    "PatientTelephoneNumbers": "a telephone number",
    "PatientInsurancePlanCodeSequence": "an insurance",
    "OtherPatientIDsSequence": "another patient number",
}
COMMENTS = ("PatientComments", "ImageComments", "AdditionalPatientHistory", "RequestedProcedureComments")
STATEMENTS = ("PatientIdentityRemoved", "DeidentificationMethod", "DeidentificationMethodCodeSequence")
IDENTIFYING_KEYWORDS = (
    *PERSON_NAMES,
    *CODES,
    *CONTACTS,
    *COMMENTS,
    *STATEMENTS,
    "PatientBirthDate",
    "BurnedInAnnotation",
)

# words that stand where a name was taken out, or never was one
PLACEHOLDERS = {
    "anon",
    "anonymous",
    "anonymus",
    "anonymized",
    "anonymised",
    "anonymize",
    "anonymise",
    "anonym",
    "deid",
    "deidentified",
    "identified",
    "removed",
    "redacted",
    "unknown",
    "unnamed",
    "none",
    "na",
    "noname",
    "withheld",
    "hidden",
    "blank",
    "empty",
    "dummy",
    "phantom",
    "test",
    "demo",
    "sample",
    "example",
    "doe",
    "pseudonym",
    "confidential",
    "patient",
    "subject",
    "participant",
    "volunteer",
    "control",
    "case",
}
WORD = re.compile(r"[^\W\d_]+")
CODE = re.compile(r"[A-Za-z0-9_. /:^-]*")
LONG_RUN = re.compile(r"\d{5}")
HASH = re.compile(r"[0-9a-f]{16,}|[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}", re.I)
UID = re.compile(r"(?:\d+\.){4,}\d+")
DUMMY_DATE = re.compile(r"\d{4}(?:0101)?|0{8}|1[0-8]\d{6}|99991231")
LONGEST = 2000  # characters of a value that are looked at


def header_identifiers(header: Dataset) -> set[str]:
    """Kinds of identifier that a header holds, in words and without their values.

    Placeholders (``ANON``, ``P000``), study codes and hashes identify nobody. Where the header states that it was
    de-identified (PatientIdentityRemoved or DeidentificationMethod), numbers of any length count as codes too; a
    written-out name or a full date of birth is reported nevertheless.
    """
    stated = _value(header, "PatientIdentityRemoved").upper() == "YES" or any(
        _value(header, keyword) for keyword in STATEMENTS[1:]
    )
    found = {kind for keyword, kind in PERSON_NAMES.items() if _is_name(_value(header, keyword), stated)}
    found |= {kind for keyword, kind in CODES.items() if _is_number(_value(header, keyword), stated)}
    found |= {kind for keyword, kind in CONTACTS.items() if _value(header, keyword) and not stated}
    born = _value(header, "PatientBirthDate")
    if born and not DUMMY_DATE.fullmatch(born) and not _is_placeholder(born):
        found.add("a date of birth")
    if _value(header, "BurnedInAnnotation").upper() == "YES":
        found.add("burned-in annotation (text in the pixels)")
    found |= set(identifying_kinds(_value(header, keyword) for keyword in COMMENTS))
    return found


def warn_of_header_identifiers(kinds: Iterable[str], inspection: Inspection) -> None:
    """Add one warning for the kinds of identifier in an item's headers."""
    listed = ", ".join(sorted(set(kinds)))
    if listed:
        inspection.warn(
            "PHI",
            "DICOM headers should not identify a patient",
            listed,
            "de-identify the files before they leave the hospital; nothing of these values is kept",
        )


def _value(header: Dataset, keyword: str) -> str:
    try:
        value = header.get(keyword)
        if value is None or (hasattr(value, "__len__") and len(value) == 0):
            return ""
        return str(value).strip()[:LONGEST]
    except Exception:  # an unreadable value cannot be judged; a malformed header has findings of its own
        return ""


def _is_placeholder(value: str) -> bool:
    words = [word.lower() for word in WORD.findall(value)]
    return any(word in PLACEHOLDERS or set(word) == {"x"} for word in words) or not (words or re.search(r"\d", value))


def _is_code(value: str) -> bool:
    """Whether it is a number within a study, a hash or a UID: at most four digits in a row and eight in all."""
    if UID.fullmatch(value) or (HASH.fullmatch(value) and WORD.search(value)):
        return True
    digits = sum(character.isdigit() for character in value)
    most = 8 if WORD.search(value) else 6
    dated = "a date" in identifying_kinds([value])
    return bool(CODE.fullmatch(value)) and not LONG_RUN.search(value) and digits <= most and not dated


def _is_name(value: str, stated: bool) -> bool:
    if not value or _is_placeholder(value):
        return False
    has_digit = any(character.isdigit() for character in value)
    if stated:
        return "^" in value.strip("^") and not has_digit
    return not (has_digit and _is_code(value))


def _is_number(value: str, stated: bool) -> bool:
    return bool(value) and not stated and not _is_placeholder(value) and not _is_code(value)

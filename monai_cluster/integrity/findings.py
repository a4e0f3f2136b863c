# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What the checks say about one item: findings with a stable code, and the facts that were read on the way.

A finding never quotes text from the file or its name: hospital data carries names and numbers there. An item is known
by its place in the list; who may see the paths finds them in the map beside the report.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Literal

__all__ = ["CODES", "Facts", "Finding", "Inspection", "InputRefusedError"]

Severity = Literal["warn", "reject"]
Verdict = Literal["accept", "warn", "reject"]

CODES: dict[str, str] = {
    "AFFINE": "the matrix from voxels to millimetres is not finite, not invertible, sheared or contradicts itself",
    "ALPHA": "a transparent channel",
    "BOX": "a box is not finite, empty, turned round, outside the image or without a label",
    "CODEC": "compressed pixels that cannot be decoded",
    "COLOUR": "colour where grey values are meant",
    "CONFIG": "a malformed configuration",
    "CONSTANT": "all values, or nearly all, are the same",
    "CONTAINER": "the suffix and the content of a file disagree",
    "CORRUPT": "a checksum does not match or a stream cannot be decoded",
    "DTYPE": "values of a type that is no grey value (complex, RGB, unknown)",
    "DUPLICATE": "the same item, or the same slice, more than once",
    "EMPTY": "nothing inside",
    "EVAL": "a configuration that runs code",
    "GEOMETRY": "grids that must agree do not",
    "HEADER": "a header that contradicts itself or the file",
    "JSON": "a list that is no valid JSON",
    "KEY": "a missing or unknown entry of a list",
    "LABEL": "label values that are no classes",
    "LEAK": "the same data or patient in two splits or lists",
    "LINK": "a symbolic link that leads in a circle",
    "LOGGING": "a logging configuration that runs code",
    "MEMORY": "an item that needs more memory than it may",
    "MISSING": "a file that is not there",
    "MISSING_SLICE": "a slice that is not there",
    "MIXED_SERIES": "more than one series in one folder",
    "NDIM": "another number of axes than meant",
    "NONFINITE": "values that are NaN or infinite",
    "NOT_AN_IMAGE": "a file of another type",
    "NOT_A_FILE": "a folder, pipe or device where a file is meant",
    "NO_PIXELS": "DICOM without pixels",
    "ORIENTATION": "unknown or implied orientation",
    "OVERRIDE": "an override that no configuration knows",
    "PALETTE": "indices into a table of colours",
    "PATH": "a path that leaves its folder",
    "PERMISSION": "a file that may not be read",
    "PHI": "text that may identify a patient",
    "PHOTOMETRIC": "black and white swapped",
    "PICKLE": "a file that runs code when it is loaded",
    "RANGE": "values that grey values cannot have",
    "SCALE": "a missing or meaningless scaling of values",
    "SKIPPED_FILES": "files beside the data that are no data",
    "SPACING": "a voxel size that is not positive, not plausible or not even",
    "TARGET": "a configuration that builds a class which is not on the list",
    "TIMEOUT": "an item that takes longer than it may",
    "TOO_LARGE": "more voxels or bytes than the limit",
    "TOO_SMALL": "fewer voxels than any use needs",
    "TRAILING": "bytes after the end of the data",
    "TRUNCATED": "the end of the data is missing",
    "TYPE": "an entry of another type than meant",
    "UNREADABLE": "a failure of the reading library that no other code names",
}


@dataclass(frozen=True)
class Finding:
    """One broken rule.

    Attributes:
        code: one of :data:`CODES`; stable between versions.
        severity: ``reject`` (the item must not be used) or ``warn`` (it may, and somebody should look).
        rule: what must hold.
        found: what was found instead, in numbers and types.
        fix: what to do about it.
    """

    code: str
    severity: Severity
    rule: str
    found: str
    fix: str

    def __post_init__(self) -> None:
        if self.code not in CODES:
            raise ValueError(f"a finding's code must be one of {', '.join(CODES)}, got {self.code!r}; add it to CODES")

    def __str__(self) -> str:
        return f"{self.code}: {self.rule}, got {self.found}; {self.fix}"


class InputRefusedError(ValueError):
    """An input that was refused, with its findings.

    Args:
        findings: the findings, the rejecting ones first in the message.
    """

    def __init__(self, findings: Iterable[Finding]) -> None:
        self.findings = sorted(findings, key=lambda one: one.severity)
        super().__init__(self.findings)

    def __str__(self) -> str:
        return " | ".join(str(one) for one in self.findings)


@dataclass
class Facts:
    """What was read of an item; None where it does not apply or was not reached.

    Attributes:
        kind: ``volume`` or ``image``.
        shape: spatial shape in the order of the file's axes.
        spacing: mm per axis; None where the file does not know it.
        orientation: axis codes such as ``RAS``.
        affine: voxel to mm (RAS), four rows.
        dtype: stored type.
        modality: DICOM modality.
        num_files: files of the item.
        num_bytes: bytes of all files.
        minimum, maximum, mean, std: of the finite values, after scaling.
        nonfinite: share of values that are NaN or infinite.
        most_common: share of the most common value.
        content_hash: SHA-256 of shape and values; equal for equal content in whatever container.
        picture_hash: 64-bit perceptual hash of the middle, as 16 hex digits; close hashes mean alike pictures.
        thumbnail: grey values ``H W`` uint8 for a contact sheet.
    """

    kind: str | None = None
    shape: tuple[int, ...] | None = None
    spacing: tuple[float, ...] | None = None
    orientation: str | None = None
    affine: tuple[tuple[float, ...], ...] | None = None
    dtype: str | None = None
    modality: str | None = None
    num_files: int = 1
    num_bytes: int = 0
    minimum: float | None = None
    maximum: float | None = None
    mean: float | None = None
    std: float | None = None
    nonfinite: float | None = None
    most_common: float | None = None
    content_hash: str | None = None
    picture_hash: str | None = None
    thumbnail: Any = None


@dataclass
class Inspection:
    """The result of inspecting one item: facts and findings."""

    facts: Facts = field(default_factory=Facts)
    findings: list[Finding] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """``reject`` where any finding rejects, else ``warn`` where any warns, else ``accept``."""
        severities = {one.severity for one in self.findings}
        return "reject" if "reject" in severities else "warn" if "warn" in severities else "accept"

    def reject(self, code: str, rule: str, found: str, fix: str) -> None:
        """Add a rejecting finding."""
        self.findings.append(Finding(code, "reject", rule, found, fix))

    def warn(self, code: str, rule: str, found: str, fix: str) -> None:
        """Add a warning finding."""
        self.findings.append(Finding(code, "warn", rule, found, fix))

    def raise_if_rejected(self) -> None:
        """Raise :class:`InputRefusedError` where the verdict is ``reject``."""
        if self.verdict == "reject":
            raise InputRefusedError(self.findings)

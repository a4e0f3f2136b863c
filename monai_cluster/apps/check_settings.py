# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""How a data set is checked, and what that came to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from monai_cluster.apps.check_report import Counts
from monai_cluster.apps.check_tasks import Tally
from monai_cluster.integrity import Limits

__all__ = ["CheckResult", "CheckSettings", "changed_limits"]

REJECTED = 3


@dataclass(frozen=True)
class CheckResult:
    """What a check came to.

    Attributes:
        out: the check's folder.
        counts: items and files by verdict, splits, codes.
        tally: how many items were inspected now, and how many results were known.
        list_rejected: whether the source as a whole has a rejecting finding, such as a leak.
    """

    out: Path
    counts: Counts
    tally: Tally
    list_rejected: bool

    @property
    def exit_code(self) -> int:
        """0 where everything was accepted or warned about, 3 where an item, or the source as a whole, was rejected."""
        return REJECTED if self.counts.items["rejected"] or self.list_rejected else 0

    @property
    def summary(self) -> str:
        """Counts in two lines, without any path of the data."""
        items, files = (
            ", ".join(f"{n:,} {name}" for name, n in one.items()) for one in (self.counts.items, self.counts.files)
        )
        tally = (
            f"{self.tally.inspected:,} inspected now, {self.tally.reused:,} known before, {self.tally.removed:,} gone"
        )
        whole = "the source as a whole is rejected, see the report; " if self.list_rejected else ""
        return f"items: {items} ({tally})\nfiles: {files}\n{whole}report in {self.out / 'report.html'}"


@dataclass(frozen=True)
class CheckSettings:
    """The arguments of :func:`check` that say how; see there."""

    against: str | None = None
    salt_from: str | None = None
    fractions: tuple[float, ...] = (0.8, 0.1, 0.1)
    seed: int = 0
    subject_pattern: str | None = None
    num_classes: int | None = None
    contact_sheet: bool = True
    leaks: Literal["reject", "warn"] = "reject"
    duplicates: Literal["reject", "warn"] = "reject"
    outlier_factor: float = 4.0
    link_series: bool = False
    num_workers: int = 1
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if self.num_workers < 1:
            raise ValueError(f"num_workers must be at least 1, got {self.num_workers}")
        if not self.outlier_factor > 1:
            raise ValueError(f"outlier_factor must be above 1, got {self.outlier_factor}; 4 is a good start")

    def shown(self) -> dict[str, Any]:
        """Settings without paths, and without the pattern, which may name patients."""
        found = asdict(self)
        for name in ("against", "salt_from", "subject_pattern"):
            found[name] = found[name] is not None
        return found


def changed_limits(changes: Mapping[str, Any]) -> Limits:
    """The usual limits with some changed.

    Raises:
        ValueError: for an unknown name, or a value that is no positive number.
    """
    known = {one.name: type(getattr(Limits(), one.name)) for one in fields(Limits)}
    for name, value in changes.items():
        if name not in known:
            raise ValueError(f"there is no limit {name!r}; limits are {', '.join(known)}")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not value > 0:
            raise ValueError(f"the limit {name} must be a positive number, got {value!r}")
    return replace(Limits(), **{name: known[name](value) for name, value in changes.items()})

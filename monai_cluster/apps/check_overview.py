# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""All items of a check at a glance: what comparing them needs, and the findings that comparing adds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from monai_cluster.apps.check_index import CheckIndex, Stored
from monai_cluster.integrity import Finding
from monai_cluster.integrity.candidates import Candidate
from monai_cluster.integrity.modalities import known_modality

__all__ = ["Item", "Judged", "Overview", "verdict_of"]

VERDICTS = ("accept", "warn", "reject")
KEPT_FACTS = ("kind", "shape", "spacing", "mean", "std", "modality", "minimum", "maximum")


@dataclass(slots=True)
class Item:
    """One item, in short.

    Attributes:
        id: salted.
        subject: salted patient.
        split: training, validation, test or another of a list; None as long as there is none.
        severity: place of the verdict in ``accept``, ``warn``, ``reject``.
        content: salted hash of the content.
        picture: perceptual hash.
        sides: of the thumbnail.
        facts: what outliers and figures need.
        extra: findings from beside the item's own files.
    """

    id: str
    subject: str
    split: str | None
    severity: int
    content: str | None
    picture: int | None
    sides: tuple[int, ...] | None
    facts: dict[str, Any]
    extra: list[Finding] = field(default_factory=list)

    @property
    def is_usable(self) -> bool:
        """Whether nothing rejects the item so far."""
        return self.severity < VERDICTS.index("reject")

    @property
    def group(self) -> tuple[str, str]:
        """Kind and modality: who is compared with whom."""
        return str(self.facts["kind"]), str(self.facts["modality"] or "unknown")

    def add(self, finding: Finding) -> None:
        """Add a finding that another item, a list or a link is the cause of."""
        self.extra.append(finding)
        self.severity = max(self.severity, VERDICTS.index(finding.severity))


@dataclass(frozen=True)
class Judged:
    """Everything about one item, for reports.

    Attributes:
        candidate: with paths.
        item: in short.
        facts: what was read.
        findings: all of them, the rejecting ones first.
    """

    candidate: Candidate = field(repr=False)
    item: Item
    facts: dict[str, Any]
    findings: list[Finding]

    @property
    def verdict(self) -> str:
        """``accept``, ``warn`` or ``reject``."""
        return VERDICTS[self.item.severity]


def verdict_of(findings: Sequence[Finding]) -> int:
    """The worst severity as a place in ``accept``, ``warn``, ``reject``."""
    return max((VERDICTS.index(one.severity) for one in findings), default=0)


class Overview:
    """Items in the order of their candidates.

    Args:
        index: holds their results.
        candidates: in the same order.
        subjects: salted patient of each.
        salted: makes a salted hash from a content hash.
    """

    def __init__(
        self, index: CheckIndex, candidates: Sequence[Candidate], subjects: Sequence[str], salted: Any
    ) -> None:
        self.index, self.candidates = index, candidates
        self.findings: list[Finding] = []
        self.items: list[Item] = []
        shared: dict[str, str | None] = {}  # few different texts for many items
        for stored in index.results():
            one = candidates[stored.place]
            content, picture = stored.facts.get("content_hash"), stored.facts.get("picture_hash")
            facts = {name: stored.facts.get(name) for name in KEPT_FACTS}
            modality = known_modality(one.columns.get("modality")) or facts["modality"]
            facts["modality"] = shared.setdefault(modality or "", modality)
            item = Item(
                stored.id,
                subjects[stored.place],
                one.split,
                verdict_of(stored.findings),
                None if content is None else salted(content),
                None if picture is None else int(picture, 16),
                stored.sides,
                facts,
            )
            for finding in one.findings:
                item.add(finding)
            self.items.append(item)

    def usable(self) -> list[int]:
        """Places of the items that nothing rejects so far."""
        return [place for place, item in enumerate(self.items) if item.is_usable]

    def judged(self) -> Iterator[Judged]:
        """Every item with all its facts and findings, one at a time."""
        for stored in self.index.results():
            yield self._judged(stored)

    def _judged(self, stored: Stored) -> Judged:
        item = self.items[stored.place]
        findings = sorted(dict.fromkeys([*stored.findings, *item.extra]), key=lambda one: one.severity)
        facts = {**stored.facts, "content_hash": item.content, "modality": item.facts["modality"]}
        facts.pop("picture_hash", None)  # unsalted: who has the picture could find it by this
        return Judged(self.candidates[stored.place], item, facts, findings)

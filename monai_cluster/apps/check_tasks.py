# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Have candidates inspected, unless the index knows them: what makes a result current, and what a failure means."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

import monai_cluster.integrity
from monai_cluster.apps.check_index import CheckIndex
from monai_cluster.apps.check_output import CheckOutput
from monai_cluster.apps.check_workers import Failure, Task, WorkerPool
from monai_cluster.integrity import Finding, Limits
from monai_cluster.integrity.candidates import Candidate
from monai_cluster.integrity.walk import FileEntry, entry_of
from monai_cluster.version import __version__

__all__ = ["NOT_KEPT", "Inspector", "Tally", "checker_version"]

LIBRARIES = ("numpy", "nibabel", "pydicom", "simpleitk", "pillow")
FAILURES = {
    "TIMEOUT": ("an item must be read in the time that one item may take", "raise the limit 'seconds', or look at it"),
    "MEMORY": ("an item must be read in the memory that one item may take", "raise the limit 'memory_bytes'"),
    "UNREADABLE": ("an item must be readable", "export the item again, and report what crashed"),
}
ON_LIMITS = frozenset({"TIMEOUT", "MEMORY"})
NOT_KEPT = frozenset({"PERMISSION", "MISSING"})  # rights and links change without a trace in size or time


@dataclass
class Tally:
    """How many results came from where."""

    inspected: int = 0
    reused: int = 0
    changed: int = 0
    removed: int = 0


def checker_version() -> str:
    """Changes with the package, the code of its checks and the reading libraries."""
    code = hashlib.sha256()
    for file in sorted(Path(next(iter(monai_cluster.integrity.__path__))).glob("*.py")):
        code.update(file.read_bytes())
    libraries = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    return ", ".join([f"monai_cluster {__version__} {code.hexdigest()[:16]}", *libraries])


class Inspector:
    """Runs tasks in workers and remembers the results.

    Args:
        output: the check's folder.
        index: what it remembers.
        pool: the workers.
        limits: of the items.
        num_classes: of label maps; None does not look.
    """

    def __init__(
        self, output: CheckOutput, index: CheckIndex, pool: WorkerPool, limits: Limits, num_classes: int | None
    ) -> None:
        self.output, self.index, self.pool, self.limits, self.num_classes = output, index, pool, limits, num_classes
        self.condition = f"{limits.seconds:g} s, {limits.memory_bytes} bytes"
        lasting = {name: value for name, value in asdict(limits).items() if name not in ("seconds", "memory_bytes")}
        self._settings = f"{checker_version()} {sorted(lasting.items())} {num_classes}"

    def signature_of_files(self, files: Iterable[FileEntry], *more: str) -> str:
        """Changes with any file's name, size, time of change or inode, and with the check."""
        parts = [f"{one.path}|{one.size}|{one.mtime_ns}|{one.inode}|{one.state}" for one in files]
        return self.output.digest("signature", self._settings, *more, *parts)

    def run(
        self, tasks: Iterable[Task], count: int, doing: str, unit: str
    ) -> Iterator[tuple[Any, dict[str, Any] | Failure]]:
        """Answers as they come, with counts, rate and ETA on stderr."""
        if count:
            found = self.pool.run(tasks)
            yield from tqdm(found, desc=doing, unit=unit, total=count, dynamic_ncols=True, disable=None)

    def finding_of(self, failure: Failure) -> dict[str, Any]:
        """A worker's failure as a finding."""
        rule, fix = FAILURES[failure.code]
        return asdict(Finding(failure.code, "reject", rule, failure.found, fix))

    def inspect(self, candidates: Sequence[Candidate]) -> Tally:
        """Inspect whatever is new or changed; afterwards the index holds exactly these candidates, in this order."""
        tally = Tally()
        names = [self.output.digest("item", one.name) for one in candidates]
        waiting: dict[int, str] = {}
        for place, (one, name) in enumerate(zip(candidates, names, strict=True)):
            signature = self._signature(one)
            if self.index.is_current(name, signature, self.condition):
                tally.reused += 1
                continue
            tally.changed += self.index.knows(name)
            if one.images and (one.series or not _is_refused(one)):
                waiting[place] = signature
            else:
                self.index.save(name, signature, "", {"facts": _known_facts(one), "findings": []})
        tasks = (self._task(place, candidates[place]) for place in list(waiting))
        for place, answer in self.run(tasks, len(waiting), "checking", "item"):
            tally.inspected += 1
            self._save(names[place], waiting[place], candidates[place], answer)
        tally.removed = self.index.arrange(names)
        return tally

    def _task(self, place: int, one: Candidate) -> Task:
        request = {
            "do": "inspect",
            "images": list(one.images),
            "series": one.series,
            "kind": one.kind,
            "label": one.label,
            "num_classes": self.num_classes,
            "boxes": _boxes(one),
        }
        return Task(place, request, self.limits.seconds)

    def _signature(self, one: Candidate) -> str:
        known = [str(finding) for finding in one.findings if finding.severity == "reject"]
        meant = (*one.images, str(one.label), str(one.kind), repr(_boxes(one)))
        return self.signature_of_files(one.entries, *meant, *known)

    def _save(self, name: str, signature: str, one: Candidate, answer: dict[str, Any] | Failure) -> None:
        if isinstance(answer, Failure):
            answer = {"facts": _known_facts(one), "findings": [self.finding_of(answer)]}
        codes = {finding["code"] for finding in answer["findings"]}
        condition = self.condition if codes & ON_LIMITS else ""
        if codes & NOT_KEPT or any(_has_changed(entry) for entry in one.entries):
            signature = ""  # no file has this one: the next check reads the item again
        self.index.save(name, signature, condition, answer)


def _boxes(one: Candidate) -> dict[str, Any] | None:
    """Boxes and their labels, where a list has any and they are no text of a table."""
    if "box" not in one.columns or isinstance(one.columns["box"], str):
        return None
    return {name: one.columns[name] for name in ("box", "box_label") if name in one.columns}


def _is_refused(one: Candidate) -> bool:
    return any(finding.severity == "reject" for finding in one.findings)


def _has_changed(entry: FileEntry) -> bool:
    now = entry_of(entry.path)
    return (now.size, now.mtime_ns, now.inode) != (entry.size, entry.mtime_ns, entry.inode) and entry.state == "file"


def _known_facts(one: Candidate) -> dict[str, Any]:
    """Facts of an item that was not, or could not be, read."""
    size = sum(entry.size for entry in one.entries)
    return {"kind": one.kind, "num_files": len(one.entries), "num_bytes": size}

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What a load did, so that nobody trains from noise without knowing."""

from __future__ import annotations

import logging
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

__all__ = ["LoadReceipt"]


def _examples(names: Iterable[str], number: int = 4) -> str:
    names = list(names)
    more = f", … ({len(names) - number} more)" if len(names) > number else ""
    return ", ".join(names[:number]) + more


@dataclass(frozen=True)
class LoadReceipt:
    """The account of one load.

    Attributes:
        source: the file's name, without its folder.
        source_format: whose file it looks like, and the prefix that was stripped.
        target: what was loaded into.
        loaded: the module's tensors that were taken over, reshaped ones included.
        reshaped: tensor name to what was done to it (a stem folded to other channels, a kernel inflated).
        missing: the module's tensors that the file lacks or has in another shape; they keep their values.
        skipped: the file's tensors that were not used, with the reason.
        coverage: share of the module's numbers (parameters and running statistics) that were loaded, 0 to 1.
        looks_like: the architecture that the file's tensor names and shapes suggest; "" if none is recognised.
    """

    source: str
    source_format: str
    target: str
    loaded: tuple[str, ...]
    reshaped: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    skipped: Mapping[str, str] = field(default_factory=dict)
    coverage: float = 0.0
    looks_like: str = ""

    def __str__(self) -> str:
        lines = [
            f"weights from {self.source} ({self.source_format}) into {self.target}",
            f"  loaded    {len(self.loaded)} tensors, {self.coverage:.1%} of the parameters",
        ]
        if self.looks_like:
            lines.append(f"  file is   {self.looks_like}")
        for how in dict.fromkeys(self.reshaped.values()):
            alike = _examples(name for name, done in self.reshaped.items() if done == how)
            lines.append(f"  reshaped  {alike}: {how}")
        if self.missing:
            lines.append(f"  missing   {len(self.missing)}, left as they were: {_examples(self.missing)}")
        reasons = {name: why.partition(",")[0] for name, why in self.skipped.items()}
        for reason, number in Counter(reasons.values()).items():
            names = _examples(name for name, why in reasons.items() if why == reason)
            lines.append(f"  skipped   {number}, {reason}: {names}")
        return "\n".join(lines)

    def announce(self, logger: logging.Logger) -> None:
        """Log the receipt; where nobody has switched logging on, write it to standard error, since it must be seen."""
        if logger.isEnabledFor(logging.INFO):
            logger.info("%s", self)
        else:
            sys.stderr.write(f"{self}\n")

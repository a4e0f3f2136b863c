# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The values of a label map: whether they are classes."""

from __future__ import annotations

import numpy as np

from .findings import Inspection
from .values import ValueScan

__all__ = ["LabelScan", "judge_labels"]

MANY = 256  # more different values are a picture rather than classes
KEPT = 4096  # different values that are remembered
RULE = "a label map must hold class ids 0, 1, 2 …"


class LabelScan(ValueScan):
    """Statistics over the values of a label map that arrive in parts.

    Attributes:
        classes: the different finite values, up to 4096 of them.
        num_fractions: values that are no whole numbers.
        num_background: values 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.classes: set[float] = set()
        self.num_fractions = self.num_background = 0

    def update(self, values: np.ndarray) -> None:
        """Take in stored real values of any shape."""
        super().update(values)
        stored, counts = np.unique(np.asarray(values), return_counts=True)
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = stored.astype(np.float64) * self.slope + self.intercept
        finite = np.isfinite(scaled)
        found, counts = scaled[finite], counts[finite]
        self.num_fractions += int(counts[found != np.round(found)].sum())
        self.num_background += int(counts[found == 0].sum())
        if len(self.classes) < KEPT:
            self.classes.update(found[:KEPT].tolist())


def judge_labels(scan: LabelScan, num_classes: int | None, inspection: Inspection) -> None:
    """Add findings on values that are no classes, and on maps without a foreground.

    Args:
        scan: after all values went through it.
        num_classes: ids must be below it, background included; None does not look.
        inspection: takes the findings.
    """
    if not scan.count:
        return
    if scan.num_nonfinite:
        found = f"{scan.num_nonfinite} values that are NaN or infinite (not finite)"
        inspection.reject("LABEL", RULE, found, "export the label map again")
    if scan.num_fractions:
        found = f"{scan.num_fractions} values that are fractions, no integers"
        fix = "resample label maps with nearest neighbours, and give probabilities a threshold"
        inspection.reject("LABEL", RULE, found, fix)
    elif scan.minimum < 0:
        found = f"a negative value ({scan.minimum:.6g})"
        inspection.reject("LABEL", RULE, found, "check which file is the label; set what is to be ignored to a class")
    elif num_classes is not None and np.isfinite(scan.maximum) and scan.maximum >= num_classes:
        unknown = sorted(one for one in scan.classes if one >= num_classes)
        listed = ", ".join(f"{one:.6g}" for one in unknown[:5]) + (" …" if len(unknown) > 5 else "")
        rule = f"class ids must lie below {num_classes}, the number of classes with background"
        inspection.reject("LABEL", rule, f"unknown class values {listed}", "name all classes, or correct the label map")
    elif len(scan.classes) > MANY:
        found = f"more than {MANY} different values: a picture rather than a label map?"
        inspection.warn("LABEL", RULE, found, "check which file is the label")
    _judge_foreground(scan, inspection)


def _judge_foreground(scan: LabelScan, inspection: Inspection) -> None:
    if scan.num_background == scan.count:
        found = "an empty label map: all background, no foreground"
        inspection.warn("LABEL", "a label map should mark something", found, "check it, or take the pair off the list")
    elif not scan.num_background and len(scan.classes) == 1:
        found = f"one class ({scan.minimum:.6g}) everywhere, and no background"
        inspection.warn("LABEL", "a label map should mark a part of the image", found, "check it")

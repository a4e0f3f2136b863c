# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Items that stand out among those of their kind and modality."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .findings import Finding

__all__ = ["FEWEST", "Outliers", "find_outliers"]

FEWEST = 10  # items of a kind before a median says anything
SPREADS = 6  # median absolute deviations, scaled as a standard deviation, that an outlier lies away too
FIX = "look at it beside the others; it may be of another protocol, or in other units"
MOST_SHARE = 0.1  # of the items; more are no outliers but a mixture
MEAN = "mean value"


@dataclass(frozen=True)
class _Quantity:
    """Something that is compared, and the code of its findings."""

    name: str
    code: str
    unit: str
    of: Callable[[Mapping[str, Any]], float | None]


def _extreme(which: Callable[[Any], Any], name: str) -> Callable[[Mapping[str, Any]], float | None]:
    def of(facts: Mapping[str, Any]) -> float | None:
        values = [value for value in facts.get(name) or () if value is not None]
        return float(which(values)) if values else None

    return of


QUANTITIES = (
    _Quantity("finest spacing", "SPACING", " mm", _extreme(min, "spacing")),
    _Quantity("coarsest spacing", "SPACING", " mm", _extreme(max, "spacing")),
    _Quantity("shortest side", "GEOMETRY", " voxels", _extreme(min, "shape")),
    _Quantity("longest side", "GEOMETRY", " voxels", _extreme(max, "shape")),
    _Quantity("standard deviation of the values", "RANGE", "", lambda facts: facts.get("std")),
    _Quantity(MEAN, "RANGE", "", lambda facts: facts.get("mean")),
)


@dataclass
class Outliers:
    """Findings about items of one kind and modality.

    Attributes:
        items: warnings by index.
        whole: warnings about quantities in which so many stand out that no item is the odd one.
    """

    items: dict[int, list[Finding]] = field(default_factory=dict)
    whole: list[Finding] = field(default_factory=list)

    def _add(self, indices: Sequence[int], count: int, one: _Quantity, values: Sequence[float], middle: float) -> None:
        if len(indices) > max(1, MOST_SHARE * count):
            found = f"{len(indices)} of {count} items whose {one.name} is far from the median of {middle:.4g}{one.unit}"
            fix = "expect several protocols or scales: normalise each item, or check them apart"
            self.whole.append(Finding(one.code, "warn", "items of one modality should be alike", found, fix))
            return
        for index in indices:
            rule = f"the {one.name} should be like that of most items of its modality"
            found = f"{values[index]:.4g}{one.unit} beside a median of {middle:.4g}{one.unit}"
            self.items.setdefault(index, []).append(Finding(one.code, "warn", rule, found, FIX))


def find_outliers(facts: Sequence[Mapping[str, Any]], factor: float) -> Outliers:
    """Compare spacing, sides and values of each item with the median of all.

    Spacing, sides and the values' standard deviation stand out beyond ``factor`` times the median or below its
    ``factor``-th part; the mean value, which may be negative, by more than ``factor`` median standard deviations.
    All of them must also lie six robust deviations from the median, so that two protocols in equal parts make no
    outliers. Where more than a tenth stand out, that is said once.

    Args:
        facts: entries ``spacing``, ``shape``, ``mean`` and ``std`` of items of one kind and modality.
        factor: above 1.

    Returns:
        warnings; none where there are fewer than ten items.

    Raises:
        ValueError: for a factor that is not above 1.
    """
    if not factor > 1:
        raise ValueError(f"the factor of outliers must be above 1, got {factor}; 4 is a good start")
    found = Outliers()
    for one in QUANTITIES:
        values = np.array([np.nan if (value := one.of(row)) is None else value for row in facts], dtype=np.float64)
        known = np.isfinite(values) & ((values > 0) | (one.name == MEAN))
        if known.sum() < FEWEST:
            continue
        middle = float(np.median(values[known]))
        if one.name == MEAN:
            deviation = float(np.median([row["std"] for row in facts if row.get("std") is not None] or [np.inf]))
            beyond = np.abs(values - middle) > factor * deviation
            scale = values
        else:
            beyond = (values > factor * middle) | (values * factor < middle)
            scale = np.log(np.where(known, values, middle))
        indices = np.flatnonzero(known & beyond & _is_far(scale, known)).tolist()
        found._add(indices, int(known.sum()), one, values.tolist(), middle)
    return found


def _is_far(values: npt.NDArray[np.float64], known: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Which known values lie further from their median than nearly all others do."""
    away = np.abs(values - np.median(values[known]))
    far: npt.NDArray[np.bool_] = away > SPREADS * 1.4826 * np.median(away[known])
    return far

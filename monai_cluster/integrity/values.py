# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One pass over an item's values in parts: range, moments, non-finite share, hashes, a thumbnail, and what is wrong."""

from __future__ import annotations

import hashlib

import numpy as np
from PIL import Image

from .findings import Facts, Inspection
from .limits import Limits

__all__ = ["ValueScan", "judge_values", "picture_hash", "thumbnail"]

THUMBNAIL = 64  # px, longest side


class ValueScan:
    """Statistics over values that arrive in parts.

    Args:
        slope: multiplies stored values.
        intercept: is added after that.
    """

    def __init__(self, slope: float = 1.0, intercept: float = 0.0) -> None:
        self.slope, self.intercept = slope, intercept
        self.count = 0
        self.num_nonfinite = 0
        self.minimum, self.maximum = np.inf, -np.inf
        self._sum = self._square = self._origin = 0.0
        self._common: dict[float, int] = {}
        self._hash = hashlib.sha256()

    def describe(self, *parts: object) -> None:
        """Let shape, type and scaling take part in the content hash."""
        self._hash.update(repr(parts).encode())

    def update(self, values: np.ndarray) -> None:
        """Take in stored real values of any shape."""
        flat = np.ascontiguousarray(values).reshape(-1)
        little = flat if flat.dtype.byteorder in "=|<" else flat.astype(flat.dtype.newbyteorder("<"))
        self._hash.update(little.data if little.size else b"")
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = little.astype(np.float64) * self.slope + self.intercept
        finite = scaled if little.dtype.kind in "biu" and np.isfinite(self.slope) else scaled[np.isfinite(scaled)]
        self.num_nonfinite += scaled.size - finite.size
        self.count += scaled.size
        if not finite.size:
            return
        self.minimum = min(self.minimum, float(finite.min()))
        self.maximum = max(self.maximum, float(finite.max()))
        if self._sum == self._square == 0.0:
            self._origin = float(finite[0])  # sums around one value of the data do not cancel
        with np.errstate(over="ignore"):
            around = finite - self._origin
            self._sum += float(around.sum())
            self._square += float(np.dot(around, around))
        sample = np.sort(finite[:: max(1, finite.size // 4096)])
        typical = float(sample[sample.size // 2])  # a value that fills more than half of the part is its median
        self._common[typical] = self._common.get(typical, 0) + int((finite == typical).sum())

    def write(self, facts: Facts) -> None:
        """Fill in the value entries of ``facts``."""
        finite = self.count - self.num_nonfinite
        facts.nonfinite = self.num_nonfinite / max(1, self.count)
        facts.content_hash = self._hash.hexdigest()
        if not finite:
            return
        facts.minimum, facts.maximum = self.minimum, self.maximum
        centre = self._sum / finite
        facts.mean = self._origin + centre
        variance = self._square / finite - centre**2 if np.isfinite(self._square) else np.inf
        facts.std = float(np.sqrt(max(0.0, variance)))
        facts.most_common = max(self._common.values()) / finite


def judge_values(inspection: Inspection, limits: Limits) -> None:
    """Add findings on non-finite, constant, nearly constant and absurd values, from the facts."""
    facts = inspection.facts
    if facts.nonfinite is None:
        return
    if facts.minimum is None or facts.nonfinite > limits.max_nonfinite:
        inspection.reject(
            "NONFINITE",
            f"at most {limits.max_nonfinite:.0%} of the values may be NaN or infinite",
            f"{facts.nonfinite:.1%} non-finite (NaN or Inf)",
            "export the item again",
        )
        return
    assert facts.maximum is not None
    assert facts.most_common is not None
    if facts.nonfinite:
        inspection.warn(
            "NONFINITE",
            "values should be finite",
            f"{facts.nonfinite:.2%} non-finite (NaN or Inf)",
            "they are read as 0; check what made them",
        )
    if max(abs(facts.minimum), abs(facts.maximum)) > limits.max_magnitude:
        inspection.reject(
            "RANGE",
            f"absolute values must stay below {limits.max_magnitude:g} (float32 overflows to inf)",
            f"a range of {facts.minimum:.3g} to {facts.maximum:.3g}",
            "scale the values or export them again",
        )
    elif facts.minimum == facts.maximum:
        inspection.reject(
            "CONSTANT",
            "values must vary",
            f"a constant item (the single value {facts.minimum:.6g})",
            "take it off the list",
        )
    elif facts.most_common > limits.nearly_constant:
        inspection.warn(
            "CONSTANT",
            f"no value should fill more than {limits.nearly_constant:.1%} of an item",
            f"a nearly constant item (one value fills {facts.most_common:.3%})",
            "look at it",
        )


def thumbnail(picture: np.ndarray) -> np.ndarray:
    """Grey values uint8, longest side 64 px, between the 1st and 99th percentile of the finite values of ``H W``."""
    values = np.asarray(picture, dtype=np.float64)
    finite = values[np.isfinite(values)]
    low, high = np.percentile(finite, (1, 99)) if finite.size else (0.0, 0.0)
    if high <= low:
        low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    scaled = (np.nan_to_num(values, nan=low, posinf=high, neginf=low) - low) / max(high - low, 1e-30)
    grey = Image.fromarray((scaled.clip(0, 1) * 255).round().astype(np.uint8))
    share = THUMBNAIL / max(grey.size)
    size = (max(1, round(grey.size[0] * share)), max(1, round(grey.size[1] * share)))
    return np.asarray(grey.resize(size, Image.Resampling.BOX if share < 1 else Image.Resampling.NEAREST))


def picture_hash(grey: np.ndarray) -> str:
    """64-bit difference hash of grey values ``H W`` (Krawetz, "Kind of like that", 2013): brighter than the right?"""
    small = np.asarray(Image.fromarray(grey).resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    bits = (small[:, 1:] > small[:, :-1]).reshape(-1)
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"

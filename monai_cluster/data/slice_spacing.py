# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""How far apart the slices of the training samples lie."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, TypeVar

import torch

from monai_cluster.keys import ClusterKeys as Keys

__all__ = ["evenly_spaced", "typical_slice_spacing"]

MOST_SAMPLES = 256  # are looked at: what is typical is known well enough then, and uncached volumes take time to load
T = TypeVar("T")


def evenly_spaced(samples: Sequence[T], number: int = MOST_SAMPLES) -> list[T]:
    """At most so many samples, the first and the last among them."""
    places = torch.linspace(0, len(samples) - 1, min(len(samples), number))
    return [samples[place] for place in sorted({int(place) for place in places.tolist()})]


def typical_slice_spacing(samples: Sequence[Any]) -> float:
    """Median distance of neighbouring slices in mm, to a hundredth, over at most 256 preprocessed volumes.

    Pretraining told the aggregator distances in millimetres; a network that knows its slices' spacing goes on so.

    Args:
        samples: with ``image`` ``C H W S`` and its affine.
    """
    distances = (float(sample[Keys.IMAGE].affine[:3, 2].norm()) for sample in evenly_spaced(samples))
    return round(statistics.median(distances), 2)

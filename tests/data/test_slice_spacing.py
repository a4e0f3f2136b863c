# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The typical distance of slices is the median over volumes, whatever way they are turned."""

from __future__ import annotations

import torch
from monai.data import MetaTensor

from monai_cluster.data import typical_slice_spacing
from monai_cluster.data.slice_spacing import evenly_spaced
from monai_cluster.keys import ClusterKeys as Keys


def sample(spacing: float) -> dict[str, MetaTensor]:
    """Slices that lean: their normal is no axis of the world."""
    affine = torch.eye(4, dtype=torch.float64)
    affine[:3, 2] = torch.tensor([0.0, 0.6, 0.8]) * spacing
    return {Keys.IMAGE: MetaTensor(torch.zeros(1, 2, 2, 2), affine=affine)}


def test_the_median_distance_along_the_third_axis() -> None:
    assert typical_slice_spacing([sample(1.0), sample(5.004), sample(10.0)]) == 5.0


def test_evenly_spaced_samples_hold_first_and_last() -> None:
    assert evenly_spaced(range(5), 9) == [0, 1, 2, 3, 4]
    assert evenly_spaced(range(101), 3) == [0, 50, 100]

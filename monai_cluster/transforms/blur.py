# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Gaussian blur whose border repeats the edge.

MONAI's ``RandGaussianSmooth`` pads with zeros, which draws a dark frame around every blurred view (and dims the first
and last slice): a mark by which views are told apart without looking at the anatomy. As products with small banded
matrices the filter is faster than a convolution too.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, RandomizableTransform, Transform
from torch import Tensor

__all__ = ["RandEdgeBlur", "RandEdgeBlurd", "blur_axis"]

TRUNCATE = 4.0  # standard deviations


def blur_axis(data: Tensor, sigma: float, axis: int) -> Tensor:
    """Blur one axis by a Gaussian, cut at four standard deviations, the edge repeated beyond the border.

    Args:
        data: any shape.
        sigma: standard deviation in samples; 0 leaves the data.
        axis: which axis.
    """
    if sigma <= 0:
        return data
    length, radius = data.shape[axis], int(TRUNCATE * sigma + 0.5)
    offsets = torch.arange(-radius, radius + 1)
    weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
    weights = weights / weights.sum()
    places = torch.arange(length)
    matrix = torch.zeros(length, length)
    for offset, weight in zip(offsets.tolist(), weights.tolist(), strict=True):
        matrix[places, (places + offset).clamp(0, length - 1)] += weight
    if axis in (-1, data.ndim - 1):
        return data @ matrix.T
    return (matrix @ data.movedim(axis, -2)).movedim(-2, axis)


class RandEdgeBlur(RandomizableTransform, Transform):
    """Blur with a random standard deviation per axis.

    Args:
        sigmas: range of the standard deviation in pixels for each spatial axis; (0, 0) leaves an axis.
        prob: how often.

    Raises:
        ValueError: for a range that is negative or descends.
    """

    def __init__(self, sigmas: Sequence[tuple[float, float]], prob: float = 1.0) -> None:
        RandomizableTransform.__init__(self, prob)
        for low, high in sigmas:
            if not 0 <= low <= high:
                raise ValueError(f"sigmas must ascend from 0 upwards, got {(low, high)}; for example (0.25, 1.5)")
        self.sigmas = [(float(low), float(high)) for low, high in sigmas]

    def __call__(self, data: Tensor) -> Tensor:
        """``C`` and the spatial axes, same shape out."""
        self.randomize(None)
        plain: Tensor = data.as_tensor() if isinstance(data, MetaTensor) else data
        if not self._do_transform:
            return plain
        if plain.ndim - 1 != len(self.sigmas):
            raise ValueError(
                f"sigmas must have one range per spatial axis, got {len(self.sigmas)} for shape {tuple(plain.shape)}; "
                "give one per axis"
            )
        for axis, (low, high) in enumerate(self.sigmas):
            plain = blur_axis(plain, float(self.R.uniform(low, high)), axis + 1)
        return plain.contiguous()


class RandEdgeBlurd(RandomizableTransform, MapTransform):
    """Dictionary form of :class:`RandEdgeBlur`; each key draws for itself."""

    def __init__(
        self,
        keys: KeysCollection,
        sigmas: Sequence[tuple[float, float]],
        prob: float = 1.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.blur = RandEdgeBlur(sigmas, prob)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandEdgeBlurd:
        """Seed this transform and the blur inside."""
        super().set_random_state(seed, state)
        self.blur.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Blur every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            output[key] = self.blur(output[key])
        return output

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The paper's seven augmentations of a sliced volume ``C H W S``, one dictionary transform each."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import (
    MapTransform,
    RandAdjustContrastd,
    RandAffine,
    RandAffined,
    RandBiasFieldd,
    RandGaussianNoised,
    Randomizable,
    Transform,
)
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.keys import ClusterKeys

from .blur import RandEdgeBlurd

__all__ = [
    "VOLUME_AUGMENTATIONS",
    "InPlane",
    "InPlaned",
    "RandAnisotropy",
    "RandAnisotropyd",
    "RandVolumeFlipd",
    "volume_augmentations",
]

VOLUME_AUGMENTATIONS = ("flip", "affine", "anisotropy", "noise", "blur", "bias_field", "gamma")


def _plain(data: Tensor) -> Tensor:
    return data.as_tensor() if isinstance(data, MetaTensor) else data


class InPlane(Randomizable, Transform):
    """Apply one draw of a 2D transform to every slice of a volume at once.

    Args:
        transform: an array transform of ``C H W``; the slices are handed to it as channels.
    """

    def __init__(self, transform: Callable[[Any], Any]) -> None:
        self.transform: Any = transform

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> InPlane:
        """Seed this transform and the one inside."""
        super().set_random_state(seed, state)
        if isinstance(self.transform, Randomizable):
            self.transform.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """The transform inside draws for itself."""

    def __call__(self, data: Tensor) -> Tensor:
        """``C H W S`` to ``C H W S``."""
        channels, height, width, slices = data.shape
        flat = _plain(data).permute(0, 3, 1, 2).reshape(channels * slices, height, width)
        flat = _plain(self.transform(flat))
        return flat.reshape(channels, slices, *flat.shape[1:]).permute(0, 2, 3, 1).contiguous()


class RandAnisotropy(Randomizable, Transform):
    """Thicken the voxels along one random axis: sample down by a random factor and linearly back up.

    Args:
        factors: range of the factor.
        axes: spatial axes to choose from; without 2 no slice is mixed with its neighbours.

    Raises:
        ValueError: for factors below 1 or axes outside 0..2.
    """

    def __init__(self, factors: tuple[float, float] = (1.5, 4.0), axes: Sequence[int] = (0, 1, 2)) -> None:
        if not 1 <= factors[0] <= factors[1]:
            raise ValueError(f"factors must be a range from 1 upwards, got {tuple(factors)}; for example (1.5, 4)")
        if not axes or not set(axes) <= {0, 1, 2}:
            raise ValueError(
                f"axes must be some of 0, 1, 2, got {tuple(axes)}; 0 and 1 are in plane, 2 is the slice axis"
            )
        self.factors = (float(factors[0]), float(factors[1]))
        self.axes = tuple(axes)

    def draw(self) -> tuple[int, float]:
        """Axis and factor."""
        return self.axes[int(self.R.randint(len(self.axes)))], float(self.R.uniform(*self.factors))

    def __call__(self, data: Tensor) -> Tensor:
        """``C H W S`` to ``C H W S``."""
        axis, factor = self.draw()
        lines = _plain(data).movedim(axis + 1, -1)
        length = lines.shape[-1]
        short = max(1, round(length / factor))
        flat = lines.reshape(1, -1, length)
        flat = F.interpolate(F.adaptive_avg_pool1d(flat, short), size=length, mode="linear", align_corners=False)
        return flat.reshape(lines.shape).movedim(-1, axis + 1).contiguous()


class _ArrayTransformd(Randomizable, MapTransform):
    """Dictionary shell around a random array transform."""

    transform: Randomizable

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> _ArrayTransformd:
        super().set_random_state(seed, state)
        self.transform.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """The transform inside draws for itself."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        output = dict(data)
        for key in self.key_iterator(output):
            output[key] = self.transform(output[key])  # type: ignore[operator]
        return output


class InPlaned(_ArrayTransformd):
    """Dictionary form of :class:`InPlane`."""

    def __init__(self, keys: KeysCollection, transform: Callable[[Any], Any], allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.transform = InPlane(transform)


class RandAnisotropyd(_ArrayTransformd):
    """Dictionary form of :class:`RandAnisotropy`."""

    def __init__(
        self,
        keys: KeysCollection,
        factors: tuple[float, float] = (1.5, 4.0),
        axes: Sequence[int] = (0, 1, 2),
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.transform = RandAnisotropy(factors, axes)


class RandVolumeFlipd(Randomizable, MapTransform):
    """Flip one to three random axes; a flip of the slice axis re-orders the slices' records with them.

    Args:
        keys: entries ``C H W S``; all are flipped alike.
        axes: spatial axes to choose from.
    """

    def __init__(self, keys: KeysCollection, axes: Sequence[int] = (0, 1, 2), allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        if not axes or not set(axes) <= {0, 1, 2}:
            raise ValueError(
                f"axes must be some of 0, 1, 2, got {tuple(axes)}; 0 and 1 are in plane, 2 is the slice axis"
            )
        self.axes = tuple(axes)

    def draw(self) -> list[int]:
        """A non-empty subset of the axes."""
        chosen = int(self.R.randint(1, 2 ** len(self.axes)))
        return [axis for bit, axis in enumerate(self.axes) if chosen >> bit & 1]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Flip, and keep ``slice_index``, ``slice_position`` and ``padded`` with their slices."""
        output, axes = dict(data), self.draw()
        for key in self.key_iterator(output):
            output[key] = torch.flip(_plain(output[key]), [axis + 1 for axis in axes])
        if 2 in axes:
            for name in (ClusterKeys.SLICE_INDEX, ClusterKeys.SLICE_POSITION, ClusterKeys.PADDED):
                if name in output:
                    output[name] = torch.flip(output[name], [0])
        return output


def volume_augmentations(
    keys: KeysCollection = ClusterKeys.IMAGE,
    names: Sequence[str] = VOLUME_AUGMENTATIONS,
    through_plane: bool = False,
) -> list[Transform]:
    """The paper's augmentations, each applied whenever it is called: one is drawn per view.

    Args:
        keys: entries ``C H W S``, intensities in 0..1.
        names: which of the seven.
        through_plane: also rotate out of plane and mix neighbouring slices; must be off where the slices of two views
            are matched, since a slice would then no longer show the anatomy of its index.

    Returns:
        one dictionary transform per name.

    Raises:
        ValueError: for an unknown name.
    """
    tilt = math.radians(5 if through_plane else 0)  # in voxels: thick slices tilt by more
    turn, scale, shift, wide = math.radians(15), 0.1, 0.05, (0.25, 1.5)
    build: dict[str, Callable[[], Transform]] = {
        "flip": lambda: RandVolumeFlipd(keys),
        "affine": lambda: (
            RandAffined(
                keys,
                prob=1.0,
                rotate_range=(tilt, tilt, turn),
                scale_range=(scale, scale, 0.0),
                mode="bilinear",
                padding_mode="zeros",
            )
            if through_plane
            else InPlaned(keys, RandRelativeAffine(turn, scale, shift))
        ),
        "anisotropy": lambda: RandAnisotropyd(keys, axes=(0, 1, 2) if through_plane else (0, 1)),
        "noise": lambda: RandGaussianNoised(keys, prob=1.0, std=0.1),
        "blur": lambda: RandEdgeBlurd(keys, [wide, wide, (0.25, 1.0) if through_plane else (0.0, 0.0)]),
        "bias_field": lambda: RandBiasFieldd(keys, prob=1.0, degree=3, coeff_range=(-0.2, 0.2)),
        "gamma": lambda: RandAdjustContrastd(keys, prob=1.0, gamma=(0.6, 1.7)),
    }
    for name in names:
        if name not in build:
            close = difflib.get_close_matches(name, build, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"augmentations must be of {', '.join(build)}, got {name!r}{hint}")
    return [build[name]() for name in names]


class RandRelativeAffine(Randomizable, Transform):
    """MONAI's 2D ``RandAffine`` with its shift given relative to the image's size.

    Args:
        rotate: largest turn in radians.
        scale: largest relative change of size.
        shift: largest shift as a share of height and width.
    """

    def __init__(self, rotate: float, scale: float, shift: float) -> None:
        self.shift = shift
        self.affine = RandAffine(
            prob=1.0, rotate_range=(rotate,), scale_range=(scale, scale), mode="bilinear", padding_mode="zeros"
        )

    def set_random_state(
        self, seed: int | None = None, state: np.random.RandomState | None = None
    ) -> RandRelativeAffine:
        """Seed this transform and MONAI's inside."""
        super().set_random_state(seed, state)
        self.affine.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """MONAI's transform draws for itself."""

    def __call__(self, data: Tensor) -> Tensor:
        """``C H W`` to ``C H W``."""
        height, width = data.shape[-2:]
        self.affine.rand_affine_grid.translate_range = (self.shift * height, self.shift * width)
        result: Tensor = self.affine(data)
        return result

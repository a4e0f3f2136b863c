# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Multi-crop (Caron 2020): two large and several small random crops, each resized, in 2D and slice by slice in 3D."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Mapping
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import Compose, MapTransform, Randomizable, Transform
from torch import Tensor
from torch.nn import functional as F

from .multi_view import MultiView, MultiViewd

__all__ = ["MultiCrop", "MultiCropd", "RandResizedCrop", "RandResizedCropd"]

Range = tuple[float, float]
TRIES = 10
FOREGROUND = 0.02


def _share(value: float) -> float:
    if not 0 <= value <= 1:
        raise ValueError(f"min_foreground is a share and must lie in 0..1, got {value}; for example 0.1")
    return float(value)


class RandResizedCrop(Randomizable, Transform):
    """Crop a random box of random area and shape, and resize it with an antialiasing filter.

    A volume ``C H W S`` is cropped in plane, all slices alike, so that its slices keep their index and position.

    Args:
        size: side of the result in pixels, or (height, width).
        scale: range of the crop's area as a share of the image's.
        ratio: range of height over width.
        min_foreground: share of the box that must be brighter than 0.02 (intensities in 0..1); boxes are drawn until
            one
            has it, at most ten times, then the fullest is taken. Medical images are black around the body, and black
            crops are all alike.

    Raises:
        ValueError: for a size below 1, a scale outside (0, 1], an empty range or a share outside 0..1.
    """

    def __init__(
        self,
        size: int | tuple[int, int],
        scale: Range = (0.14, 1.0),
        ratio: Range = (3 / 4, 4 / 3),
        min_foreground: float = 0.0,
    ) -> None:
        self.size = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
        if min(self.size) < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}; for example 96")
        if not 0 < scale[0] <= scale[1] <= 1:
            raise ValueError(f"scale must be an ascending range in (0, 1], got {tuple(scale)}; for example (.14, 1)")
        if not 0 < ratio[0] <= ratio[1]:
            raise ValueError(f"ratio must be an ascending range above 0, got {tuple(ratio)}; for example (.75, 1.33)")
        self.scale = (float(scale[0]), float(scale[1]))
        self.ratio = (float(ratio[0]), float(ratio[1]))
        self.min_foreground = _share(min_foreground)
        self.box = (0, 0, 0, 0)

    def randomize(self, data: tuple[int, int]) -> None:
        """Draw ``box`` = (top, left, height, width) inside an image of ``data`` = (height, width)."""
        height, width = data
        area = height * width
        for _ in range(TRIES):
            share = self.R.uniform(*self.scale)
            ratio = math.exp(self.R.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
            h, w = round(math.sqrt(share * area * ratio)), round(math.sqrt(share * area / ratio))
            # checked after rounding: on small images half a pixel can leave the range
            if 1 <= h <= height and 1 <= w <= width and self.scale[0] <= h * w / area <= self.scale[1]:
                break
        else:  # long, thin images: keep their shape
            side = math.sqrt(self.R.uniform(*self.scale))
            h, w = max(1, round(height * side)), max(1, round(width * side))
        self.box = (int(self.R.randint(height - h + 1)), int(self.R.randint(width - w + 1)), h, w)

    def __call__(self, data: Tensor) -> Tensor:
        """``C H W`` to ``C`` by ``size``, or ``C H W S`` to ``C`` by ``size`` by ``S``."""
        if data.ndim not in (3, 4):
            raise ValueError(
                f"an image C H W or a volume C H W S is needed, got shape {tuple(data.shape)}; add channels first"
            )
        plain: Tensor = data.as_tensor() if hasattr(data, "as_tensor") else data
        crop = self._cut(plain)
        flat = crop.permute(0, 3, 1, 2).flatten(0, 1) if crop.ndim == 4 else crop
        flat = F.interpolate(flat[None], size=self.size, mode="bilinear", antialias=True)[0]
        if crop.ndim == 4:
            flat = flat.reshape(crop.shape[0], crop.shape[3], *self.size).permute(0, 2, 3, 1).contiguous()
        return flat

    def _cut(self, image: Tensor) -> Tensor:
        """Draw boxes until one shows enough; leaves the chosen one in ``box``."""
        fullest, best = -1.0, self.box
        for _ in range(TRIES):
            self.randomize((image.shape[1], image.shape[2]))
            top, left, height, width = self.box
            crop = image[:, top : top + height, left : left + width]
            if not self.min_foreground:
                return crop
            share = float((crop > FOREGROUND).float().mean())
            if share > fullest:
                fullest, best = share, self.box
            if share >= self.min_foreground:
                break
        self.box = best
        top, left, height, width = best
        return image[:, top : top + height, left : left + width]


class RandResizedCropd(Randomizable, MapTransform):
    """Dictionary form of :class:`RandResizedCrop`; each key draws its own box."""

    def __init__(
        self,
        keys: KeysCollection,
        size: int | tuple[int, int],
        scale: Range = (0.14, 1.0),
        ratio: Range = (3 / 4, 4 / 3),
        min_foreground: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.crop = RandResizedCrop(size, scale, ratio, min_foreground)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> RandResizedCropd:
        """Seed this transform and the crop inside."""
        super().set_random_state(seed, state)
        self.crop.set_random_state(seed, state)
        return self

    def randomize(self, data: Any = None) -> None:
        """The transform inside draws for itself."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Crop every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            output[key] = self.crop(output[key])
        return output


class MultiCrop(MultiView):
    """Global and local random resized crops of one image or volume, as a list of tensors.

    Args:
        global_size: side of the global crops in pixels.
        local_size: side of the local crops.
        num_global: number of global crops.
        num_local: number of local crops.
        global_scale: range of the global crops' area share.
        local_scale: range of the local crops' area share.
        augment: random array transform applied to each crop.
        min_foreground: see :class:`RandResizedCrop`.
    """

    def __init__(
        self,
        global_size: int = 224,
        local_size: int = 96,
        num_global: int = 2,
        num_local: int = 6,
        global_scale: Range = (0.14, 1.0),
        local_scale: Range = (0.05, 0.14),
        augment: Callable[[Any], Any] | None = None,
        min_foreground: float = 0.0,
    ) -> None:
        after = [] if augment is None else [augment]
        super().__init__(
            Compose([RandResizedCrop(global_size, global_scale, min_foreground=min_foreground), *after]),
            Compose([RandResizedCrop(local_size, local_scale, min_foreground=min_foreground), *after]),
            num_global,
            num_local,
        )


class MultiCropd(MultiViewd):
    """Dictionary form of :class:`MultiCrop`: writes ``views``. ``augment`` is a dictionary transform here."""

    def __init__(
        self,
        keys: str,
        global_size: int = 224,
        local_size: int = 96,
        num_global: int = 2,
        num_local: int = 6,
        global_scale: Range = (0.14, 1.0),
        local_scale: Range = (0.05, 0.14),
        augment: Callable[[Any], Any] | None = None,
        min_foreground: float = 0.0,
    ) -> None:
        after = [] if augment is None else [augment]
        super().__init__(
            keys,
            Compose([RandResizedCropd(keys, global_size, global_scale, min_foreground=min_foreground), *after]),
            Compose([RandResizedCropd(keys, local_size, local_scale, min_foreground=min_foreground), *after]),
            num_global,
            num_local,
        )

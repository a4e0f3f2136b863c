# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A volume as an ordered set of slices, and back.

A sliced volume is a tensor ``C H W S`` with the slice axis last, and three facts per slice: ``slice_index`` (index in
the source volume, -1 for padding), ``slice_position`` (mm along the slice normal) and ``padded``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any, Literal

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Randomizable, Transform
from torch import Tensor

from monai_cluster.keys import ClusterKeys

from .slice_geometry import PLANES, pad_slices, resolve_axis, slice_positions, sliced_affine, split_volume

__all__ = [
    "SelectSlice",
    "SelectSliced",
    "SliceVolume",
    "SliceVolumed",
    "StackSlices",
    "StackSlicesd",
]

Sampling = Literal["random", "even", "window"]
PER_SLICE = (ClusterKeys.SLICE_INDEX, ClusterKeys.SLICE_POSITION, ClusterKeys.PADDED)


class SliceVolume(Randomizable, Transform):
    """Turn a volume into ordered slices ``C H W S``.

    The result is a ``MetaTensor`` whose ``meta`` holds ``slice_index``, ``slice_position``, ``padded`` and what
    :class:`StackSlices` needs to undo the step. Slicing every slice and stacking back is the identity.

    Args:
        axis: slice axis 0 to 2, or ``"axial"``, ``"coronal"``, ``"sagittal"``, resolved from the affine.
        every: keep every n-th slice.
        num_slices: draw that many of these at random, in order; None keeps all. Fewer available: all are kept.
        pad_to: append zero slices, marked as padded, up to this number.
        sampling: how ``num_slices`` are drawn: ``"random"`` any of them, ``"even"`` equally spaced from a random start,
            ``"window"`` neighbours.

    Raises:
        ValueError: for counts below one, an unknown sampling, or more slices than ``pad_to``.
    """

    def __init__(
        self,
        axis: int | str = "axial",
        every: int = 1,
        num_slices: int | None = None,
        pad_to: int | None = None,
        sampling: Sampling = "random",
    ) -> None:
        for name, value in (("every", every), ("num_slices", num_slices), ("pad_to", pad_to)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}; leave it out to keep all slices")
        if sampling not in ("random", "even", "window"):
            raise ValueError(f"sampling must be 'random', 'even' or 'window', got {sampling!r}; choose one of them")
        if isinstance(axis, str) and axis not in PLANES:
            raise ValueError(
                f"axis must be a number or one of {', '.join(PLANES)}, got {axis!r}; name one of these planes"
            )
        self.axis = axis
        self.every = every
        self.num_slices = num_slices
        self.pad_to = pad_to
        self.sampling = sampling

    def draw(self, total: int) -> np.ndarray:
        """Choose slice indices, in ascending order, from ``total`` slices."""
        candidates = np.arange(0, total, self.every)
        count, wanted = len(candidates), self.num_slices
        if wanted is None or wanted >= count:
            return candidates
        if self.sampling == "random":
            return candidates[np.sort(self.R.choice(count, wanted, replace=False))]
        if self.sampling == "window":
            start = int(self.R.randint(count - wanted + 1))
            return candidates[start : start + wanted]
        return candidates[((np.arange(wanted) + self.R.rand()) * count / wanted).astype(np.int64)]

    def __call__(self, data: Tensor) -> MetaTensor:
        """Slice a volume.

        Args:
            data: ``C`` and three spatial axes.

        Returns:
            ``C H W S``.
        """
        volume, affine = split_volume(data)
        axis = resolve_axis(self.axis, affine)
        source_shape = tuple(volume.shape)
        count = source_shape[axis + 1]
        index = torch.as_tensor(self.draw(count), dtype=torch.int64)
        slices = volume.movedim(axis + 1, -1)
        if len(index) < count:
            slices = slices[..., index]
        position = slice_positions(affine, axis, count)[index]
        meta: dict[str, Any] = {
            "slice_axis": axis,
            "source_shape": source_shape,
            "source_affine": affine.clone(),
        }
        new_affine = sliced_affine(affine, axis, index)
        slices, index, position, padded = pad_slices(slices, index, position, self.pad_to)
        meta.update({ClusterKeys.SLICE_INDEX: index, ClusterKeys.SLICE_POSITION: position, ClusterKeys.PADDED: padded})
        return MetaTensor(slices.contiguous(), affine=new_affine, meta=meta)


class StackSlices(Transform):
    """Put the slices of :class:`SliceVolume` back into their volume, in any order; padding is dropped.

    Args:
        fill: value of the source slices that were not kept.

    Raises:
        ValueError: when the tensor was not made by :class:`SliceVolume`.
    """

    def __init__(self, fill: float = 0.0) -> None:
        self.fill = fill

    def __call__(self, data: Tensor) -> MetaTensor:
        """Stack ``C H W S`` to the source's shape and affine."""
        if not isinstance(data, MetaTensor) or "source_shape" not in data.meta:
            raise ValueError(
                "only slices made by SliceVolume can be stacked, got a tensor without slice records; "
                "slice the volume with SliceVolume and keep the MetaTensor"
            )
        meta, slices = data.meta, data.as_tensor()
        axis, shape = int(meta["slice_axis"]), tuple(meta["source_shape"])
        keep = ~torch.as_tensor(meta[ClusterKeys.PADDED])
        index = torch.as_tensor(meta[ClusterKeys.SLICE_INDEX])[keep]
        volume = slices.new_full((slices.shape[0], *slices.shape[1:3], shape[axis + 1]), self.fill)
        volume[..., index] = slices[..., keep]
        volume = volume.movedim(-1, axis + 1).contiguous()
        return MetaTensor(volume, affine=meta["source_affine"])


class SelectSlice(Transform):
    """Take one slice of a volume as a 2D image ``C H W``.

    Args:
        index: index along the slice axis, negative from the end; None takes the middle one (``S // 2``).
        axis: slice axis or anatomical plane.

    Raises:
        ValueError: when the volume has no such slice.
    """

    def __init__(self, index: int | None = None, axis: int | str = "axial") -> None:
        self.index = index
        self.axis = axis

    def __call__(self, data: Tensor, index: int | None = None) -> MetaTensor:
        """Select; ``index`` given here wins over the constructor's."""
        volume, affine = split_volume(data)
        axis = resolve_axis(self.axis, affine)
        count = volume.shape[axis + 1]
        chosen = self.index if index is None else index
        chosen = count // 2 if chosen is None else chosen
        if not -count <= chosen < count:
            raise ValueError(f"slice {chosen} must lie in 0..{count - 1}; choose another slice or axis")
        chosen %= count
        image = volume.select(axis + 1, chosen).contiguous()
        meta = {ClusterKeys.SLICE_INDEX: chosen}
        return MetaTensor(image, affine=sliced_affine(affine, axis, torch.tensor([chosen])), meta=meta)


class SliceVolumed(Randomizable, MapTransform):
    """Dictionary form of :class:`SliceVolume`; also writes ``slice_index``, ``slice_position`` and ``padded``.

    All keys are cut at the same slices. Where the dictionary has these entries already (slices of slices), they keep
    speaking of the first source. Arguments as for :class:`SliceVolume`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        axis: int | str = "axial",
        every: int = 1,
        num_slices: int | None = None,
        pad_to: int | None = None,
        sampling: Sampling = "random",
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        self.slicer = SliceVolume(axis, every, num_slices, pad_to, sampling)

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> SliceVolumed:
        """Seed this transform and the slicer inside."""
        super().set_random_state(seed, state)
        self.slicer.set_random_state(seed, state)
        return self

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Slice every key."""
        output = dict(data)
        known = {name: output.pop(name) for name in PER_SLICE if name in output}
        before = self.slicer.R.get_state()
        for key in self.key_iterator(output):
            self.slicer.R.set_state(before)
            sliced = self.slicer(output[key])
            output[key] = sliced
            output.update({name: torch.as_tensor(sliced.meta[name]) for name in PER_SLICE})
        if known and ClusterKeys.SLICE_INDEX in output:
            index, padded = output[ClusterKeys.SLICE_INDEX], output[ClusterKeys.PADDED]
            for name, values in known.items():
                source = torch.as_tensor(values)[index.clamp(min=0)]
                output[name] = torch.where(padded, output[name], source)
        return output


class StackSlicesd(MapTransform):
    """Dictionary form of :class:`StackSlices`; drops the slice keys again."""

    def __init__(self, keys: KeysCollection, fill: float = 0.0, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.stacker = StackSlices(fill)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Stack every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            output[key] = self.stacker(output[key])
        for name in PER_SLICE:
            output.pop(name, None)
        return output


class SelectSliced(MapTransform):
    """Dictionary form of :class:`SelectSlice`; writes ``slice_index`` as an int."""

    def __init__(
        self,
        keys: KeysCollection,
        index: int | None = None,
        axis: int | str = "axial",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.selector = SelectSlice(index, axis)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Select in every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            output[key] = self.selector(output[key])
            output[ClusterKeys.SLICE_INDEX] = int(output[key].meta[ClusterKeys.SLICE_INDEX])
        return output

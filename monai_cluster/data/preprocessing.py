# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The deterministic half of the pipeline: from a datalist row to intensities in 0..1 at the wanted size."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, CropForegroundd, MapTransform, Orientationd, Spacingd, Transform
from torch.nn import functional as F

from monai_cluster.keys import ClusterKeys
from monai_cluster.transforms.intensity import ModalityIntensityd

from .readers import UPRIGHT_CODES, other_meta, read_image, read_volume

__all__ = ["FitInPlaned", "LoadSampled", "SelectChanneld", "ThinSlicesd", "image_preprocessing", "volume_preprocessing"]

RAS_CODES = {"axial": "RAS", "coronal": "RSA", "sagittal": "ASR"}
LABELS = (("L", "R"), ("P", "A"), ("I", "S"))
FOREGROUND = 0.02  # of the intensity range 0..1


class LoadSampled(MapTransform):
    """Load ``image`` of a row as ``C X Y Z`` (volume) or ``C H W`` (image), by :func:`read_volume` or
    :func:`read_image`.

    Args:
        keys: entries with paths.
        kind: ``"image"`` or ``"volume"``.
        frame: which frame of 4D files; a row's own ``frame`` wins.

    Raises:
        ValueError: for another kind.
    """

    def __init__(
        self, keys: KeysCollection, kind: str, frame: int | None = None, allow_missing_keys: bool = False
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if kind not in ("image", "volume"):
            raise ValueError(f"kind must be 'image' or 'volume', got {kind!r}; choose one")
        self.kind = kind
        self.frame = frame

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load every key."""
        output = dict(data)
        frame = output.get("frame", self.frame)
        frame = None if frame is None or frame == "" else int(frame)
        for key in self.key_iterator(output):
            output[key] = (read_volume if self.kind == "volume" else read_image)(output[key], frame)
        return output


class SelectChanneld(MapTransform):
    """Keep one channel of several as ``1 ...``; an image with a single channel stays as it is.

    Args:
        keys: channel-first entries.
        channel: which one.
    """

    def __init__(self, keys: KeysCollection, channel: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.channel = channel

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Select in every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            count = output[key].shape[0]
            if count > 1:
                if not -count <= self.channel < count:
                    raise ValueError(f"channel must lie in 0..{count - 1}, got {self.channel}; choose another")
                output[key] = output[key][self.channel % count][None]
        return output


class FitInPlaned(MapTransform):
    """Resize height and width of ``C H W`` or ``C H W S`` without distorting the anatomy.

    One scale in millimetres per pixel serves both axes, so that anisotropic pixels become square; the longer side gets
    ``size`` and, with ``pad``, the shorter is padded with zeros on both sides. The affine follows.

    Args:
        keys: entries to resize.
        size: side of the result in pixels.
        pad: fill up to a square.
        keep_aspect: False stretches to the square instead.
        mode: ``"bilinear"``, or ``"nearest-exact"`` for class ids.

    Raises:
        ValueError: for a size below 1 or an unknown mode.
    """

    def __init__(
        self,
        keys: KeysCollection,
        size: int,
        pad: bool = True,
        keep_aspect: bool = True,
        allow_missing_keys: bool = False,
        mode: str = "bilinear",
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if size < 1:
            raise ValueError(f"size must be at least 1 pixel, got {size}; for example 128")
        if mode not in ("bilinear", "nearest-exact"):
            raise ValueError(f"mode must be 'bilinear' or 'nearest-exact', got {mode!r}; ids need the latter")
        self.size = size
        self.mode = mode
        self.pad = pad
        self.keep_aspect = keep_aspect

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resize every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            output[key] = self.fit(output[key])
        return output

    def fit(self, image: MetaTensor) -> MetaTensor:
        """Resize one image or volume."""
        affine = torch.as_tensor(image.affine, dtype=torch.float64)
        old = image.shape[1:3]
        new = (self.size, self.size)
        if self.keep_aspect:
            extent = [length * float(affine[:3, axis].norm()) for axis, length in enumerate(old)]
            new = tuple(max(1, round(self.size * side / max(extent))) for side in extent)  # type: ignore[assignment]
        plain = image.as_tensor()
        flat = plain.permute(0, 3, 1, 2).flatten(0, 1) if plain.ndim == 4 else plain
        if new != tuple(old):
            flat = F.interpolate(flat[None], size=new, mode=self.mode, antialias=self.mode == "bilinear")[0]
        margin = [self.size - side if self.pad else 0 for side in new]
        before = [side // 2 for side in margin]
        flat = F.pad(flat, (before[1], margin[1] - before[1], before[0], margin[0] - before[0]))
        if plain.ndim == 4:
            flat = flat.reshape(plain.shape[0], plain.shape[3], *flat.shape[1:]).permute(0, 2, 3, 1)
        step = torch.eye(4, dtype=torch.float64)  # index in the result -> index in the source
        for axis in range(2):
            ratio = old[axis] / new[axis]
            step[axis, axis] = ratio
            step[axis, 3] = (0.5 - before[axis]) * ratio - 0.5
        return MetaTensor(flat.contiguous(), affine=affine @ step, meta=other_meta(image))


class ThinSlicesd(MapTransform):
    """Keep every n-th slice of ``C H W S``, n as small as ``max_slices`` allows, centred; writes ``slice_index``.

    Args:
        keys: volumes with the slice axis last.
        max_slices: most slices to keep.
    """

    def __init__(self, keys: KeysCollection, max_slices: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        if max_slices < 1:
            raise ValueError(f"max_slices must be at least 1, got {max_slices}; leave it out to keep all")
        self.max_slices = max_slices

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Thin every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            volume = output[key]
            count = volume.shape[-1]
            every = -(-count // self.max_slices)
            first = (count - 1) % every // 2
            affine = torch.as_tensor(volume.affine, dtype=torch.float64).clone()
            affine[:3, 3] += first * affine[:3, 2]
            affine[:3, 2] *= every
            output[key] = MetaTensor(
                volume.as_tensor()[..., first::every].contiguous(), affine=affine, meta=other_meta(volume)
            )
            output[ClusterKeys.SLICE_INDEX] = torch.arange(first, count, every)
        return output


def volume_preprocessing(
    size: int = 128,
    plane: str = "axial",
    upright: bool = False,
    max_slices: int | None = None,
    spacing: Sequence[float] | None = None,
    window: str | Sequence[float] = "wide",
    percentiles: Sequence[float] = (0.5, 99.5),
    crop_foreground: bool = False,
    keep_aspect: bool = True,
    channel: int | None = None,
    frame: int | None = None,
) -> Compose:
    """Load a volume as ``1 H W S``: slices of one anatomical plane, slice axis last, intensities in 0..1.

    Args:
        size: side of the slices in pixels; the longer side is resized, the shorter padded.
        plane: ``"axial"``, ``"coronal"`` or ``"sagittal"``.
        upright: turn slices as a radiologist sees them (axial: front on top, patient's right on the left) instead of
            MONAI's RAS order (axial: H = left to right, W = back to front).
        max_slices: thin to at most this many by keeping every n-th.
        spacing: resample to these mm along H, W, S first; -1 keeps an axis.
        window: CT window, see :class:`ModalityIntensity`.
        percentiles: for all other modalities.
        crop_foreground: cut empty margins.
        keep_aspect: False stretches slices to the square.
        channel: keep one channel; None keeps all.
        frame: frame of 4D files; None refuses them.

    Raises:
        ValueError: for an unknown plane.
    """
    codes = UPRIGHT_CODES if upright else RAS_CODES
    if plane not in codes:
        raise ValueError(f"plane must be one of {', '.join(codes)}, got {plane!r}; name one of these")
    key = ClusterKeys.IMAGE
    steps: list[Transform] = [LoadSampled(key, "volume", frame), Orientationd(key, axcodes=codes[plane], labels=LABELS)]
    if channel is not None:
        steps.append(SelectChanneld(key, channel))
    if spacing is not None:
        steps.append(Spacingd(key, pixdim=tuple(spacing), mode="bilinear", padding_mode="border"))
    steps.append(ModalityIntensityd(key, window, percentiles))
    if crop_foreground:
        steps.append(CropForegroundd(key, source_key=key, select_fn=above_background, allow_smaller=True))
    if max_slices is not None:
        steps.append(ThinSlicesd(key, max_slices))
    steps.append(FitInPlaned(key, size, True, keep_aspect))
    return Compose(steps)


def image_preprocessing(
    size: int | None = 256,
    pad: bool = False,
    window: str | Sequence[float] = "wide",
    percentiles: Sequence[float] = (0.5, 99.5),
    crop_foreground: bool = False,
    keep_aspect: bool = True,
    channel: int | None = None,
    frame: int | None = None,
) -> Compose:
    """Load a 2D image as ``1 H W``, top row first, intensities in 0..1.

    Args:
        size: longer side in pixels; None keeps the file's.
        pad: pad the shorter side to a square; random crops need none, embedding in batches does.
        window: CT window, see :class:`ModalityIntensity`.
        percentiles: for all other modalities.
        crop_foreground: cut empty margins.
        keep_aspect: False stretches the image to the square.
        channel: keep one channel; None keeps all.
        frame: frame of files with time; None refuses them.
    """
    key = ClusterKeys.IMAGE
    steps: list[Transform] = [LoadSampled(key, "image", frame)]
    if channel is not None:
        steps.append(SelectChanneld(key, channel))
    steps.append(ModalityIntensityd(key, window, percentiles))
    if crop_foreground:
        steps.append(CropForegroundd(key, source_key=key, select_fn=above_background, allow_smaller=True))
    if size is not None:
        steps.append(FitInPlaned(key, size, pad, keep_aspect))
    return Compose(steps)


def above_background(image: torch.Tensor) -> torch.Tensor:
    """Where an image in 0..1 is brighter than background."""
    return image > FOREGROUND

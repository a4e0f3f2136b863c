# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""From a labelled row to an image in 0..1 and its label on one grid, with the way back to the file's own grid."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform, Orientationd, Spacingd, Transform
from torch import Tensor
from torch.nn import functional as F

from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.transforms.intensity import ModalityIntensity

from .preprocessing import LABELS, FitInPlaned, LoadSampled, SelectChanneld
from .readers import UPRIGHT_CODES, other_meta, read_image, read_volume

__all__ = [
    "ChannelIntensityd",
    "LoadLabeld",
    "NoteSourced",
    "ResampleSlicesd",
    "SOURCE_AFFINE",
    "SOURCE_SHAPE",
    "labelled_preprocessing",
]

SOURCE_AFFINE, SOURCE_SHAPE = "source_affine", "source_shape"
SAME_GRID_MM = 0.05  # corners of image and label may lie so far apart, in mm: NIfTI stores float32


class NoteSourced(MapTransform):
    """Remember the grid on which an image was loaded, so that predictions can be written back on it.

    Args:
        keys: the image; writes ``source_affine`` (``4 4``, index to RAS mm) and ``source_shape``.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Note it."""
        output = dict(data)
        for key in self.key_iterator(output):
            output[SOURCE_AFFINE] = torch.as_tensor(output[key].affine, dtype=torch.float64).clone()
            output[SOURCE_SHAPE] = torch.tensor(output[key].shape[1:])
        return output


class LoadLabeld(MapTransform):
    """Load a label map and refuse one that does not lie on the image's grid.

    Args:
        keys: entry with the path of the label map.
        kind: ``"image"`` or ``"volume"``.
        num_classes: ids must be below it, background included; None does not look.
        image_key: the loaded image.

    Raises:
        ValueError: on call, if shape, position or orientation differ from the image's (a mirrored or shifted label), or
            ids are not whole numbers in 0..num_classes − 1.
    """

    def __init__(
        self, keys: KeysCollection, kind: str, num_classes: int | None = None, image_key: str = Keys.IMAGE
    ) -> None:
        super().__init__(keys)
        self.kind, self.num_classes, self.image_key = kind, num_classes, image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Load and check every key."""
        output = dict(data)
        image = output[self.image_key]
        for key in self.key_iterator(output):
            label = (read_volume if self.kind == "volume" else read_image)(output[key])
            _check_grid(image, label)
            _check_ids(label, self.num_classes)
            output[key] = label
        return output


def _check_grid(image: MetaTensor, label: MetaTensor) -> None:
    if label.shape[1:] != image.shape[1:] or label.shape[0] != 1:
        raise ValueError(
            f"a label map must have the image's shape and one channel, got {tuple(label.shape)} for an image of "
            f"{tuple(image.shape)}: resample the label to the image's grid."
        )
    affines = [torch.as_tensor(one.affine, dtype=torch.float64) for one in (image, label)]
    sides = torch.tensor([*image.shape[1:], *[1] * (4 - image.ndim)], dtype=torch.float64) - 1
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3) * sides
    places = [corners @ affine[:3, :3].T + affine[:3, 3] for affine in affines]
    distance = float((places[0] - places[1]).norm(dim=1).max())
    if not distance <= SAME_GRID_MM:
        raise ValueError(
            f"image and label must lie on one grid, but their corners are up to {distance:.2f} mm apart (mirrored, "
            "shifted or of other spacing): save the label with the image's affine, or resample it."
        )


def _check_ids(label: MetaTensor, num_classes: int | None) -> None:
    values = torch.unique(label.as_tensor())
    if not bool((values == values.round()).all()) or float(values.min()) < 0:
        raise ValueError(
            f"a label map must hold class ids 0, 1, 2 …, got {values[:5].tolist()}: give probabilities a threshold."
        )
    if num_classes is not None and float(values.max()) >= num_classes:
        raise ValueError(
            f"class ids must lie below {num_classes} (background included), got {int(values.max())}: name all classes "
            "in the datalist's 'labels', or correct the label map."
        )


class ChannelIntensityd(MapTransform):
    """Scale every channel to 0..1 by itself: two MR sequences have no common scale.

    Args:
        keys: channel-first images.
        window: CT window, see :class:`~monai_cluster.transforms.ModalityIntensity`.
        percentiles: for all other modalities.
    """

    def __init__(self, keys: KeysCollection, window: str | Sequence[float], percentiles: Sequence[float]) -> None:
        super().__init__(keys)
        self.scaler = ModalityIntensity(window, percentiles)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            image = output[key]
            modality = output.get(Keys.MODALITY) or image.meta.get("modality")
            modality = str(modality) if modality else None
            scaled = torch.cat([self.scaler(channel, modality) for channel in image.as_tensor().split(1)])
            output[key] = MetaTensor(scaled, affine=image.affine, meta=other_meta(image))
        return output


class ResampleSlicesd(MapTransform):
    """Interpolate ``C H W S`` to so many slices, for networks that take batches of whole volumes.

    Args:
        keys: volumes.
        num_slices: S of the result.
    """

    def __init__(self, keys: KeysCollection, num_slices: int) -> None:
        super().__init__(keys)
        if num_slices < 1:
            raise ValueError(f"num_slices must be at least 1, got {num_slices}; for example 32")
        self.num_slices = num_slices

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Resample every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            volume = output[key]
            old = volume.shape[-1]
            plain = volume.as_tensor().flatten(1, 2)
            plain = F.interpolate(plain, size=self.num_slices, mode="linear", align_corners=False)
            step = torch.eye(4, dtype=torch.float64)
            step[2, 2] = old / self.num_slices
            step[2, 3] = 0.5 * step[2, 2] - 0.5
            affine = torch.as_tensor(volume.affine, dtype=torch.float64) @ step
            plain = plain.reshape(plain.shape[0], *volume.shape[1:3], -1)
            output[key] = MetaTensor(plain, affine=affine, meta=other_meta(volume))
        return output


def labelled_preprocessing(
    task: Literal["segmentation", "detection", "classification"],
    spatial_dims: int = 3,
    num_classes: int | None = None,
    label_key: str = Keys.LABEL,
    with_labels: bool = True,
    spacing: Sequence[float] | None = None,
    image_size: int | None = None,
    num_slices: int | None = None,
    plane: str = "axial",
    window: str | Sequence[float] = "wide",
    percentiles: Sequence[float] = (0.5, 99.5),
    channel: int | None = None,
) -> Compose:
    """Load image and label upright as ``C H W`` or ``C H W S``, intensities in 0..1, and note the file's own grid.

    Args:
        task: what the label is: a map of class ids, boxes, or a class (left as it is).
        spatial_dims: 2 for images, 3 for volumes.
        num_classes: of a segmentation, background included; larger ids are refused.
        label_key: the label map's column; the loaded map is called ``label`` whatever its column.
        with_labels: off for prediction, where there are none.
        spacing: resample volumes to these mm along H, W, S; -1 keeps an axis. None keeps the file's.
        image_size: resize H and W so that the longer side has so many pixels, and pad to a square.
        num_slices: interpolate volumes to so many slices.
        plane: ``"axial"``, ``"coronal"`` or ``"sagittal"`` slices.
        window: CT window.
        percentiles: for all other modalities.
        channel: keep one channel; None keeps all.

    Raises:
        ValueError: for an unknown task or plane, ``spatial_dims`` other than 2 and 3, or a resampling that the task
            cannot undo.
    """
    if task not in ("segmentation", "detection", "classification"):
        raise ValueError(f"task must be segmentation, detection or classification, got {task!r}.")
    if spatial_dims not in (2, 3) or plane not in UPRIGHT_CODES:
        raise ValueError(
            f"spatial_dims must be 2 or 3 and plane one of {', '.join(UPRIGHT_CODES)}, got {spatial_dims} and "
            f"{plane!r}."
        )
    if spatial_dims == 2 and (spacing is not None or num_slices is not None):
        raise ValueError("spacing and num_slices belong to volumes: use image_size for images.")
    kind = "volume" if spatial_dims == 3 else "image"
    image, label = Keys.IMAGE, Keys.LABEL
    mapped = task == "segmentation" and with_labels
    both = [image, label] if mapped else [image]
    steps: list[Transform] = [LoadSampled(image, kind), NoteSourced(image)]
    if mapped and label_key != label:
        steps.append(TakeLabeld(label_key))
    if mapped:
        steps.append(LoadLabeld(label, kind, num_classes))
    if channel is not None:
        steps.append(SelectChanneld(image, channel))
    if spatial_dims == 3:
        steps.append(Orientationd(both, axcodes=UPRIGHT_CODES[plane], labels=LABELS))
    if spacing is not None:
        modes = ["bilinear", "nearest"][: len(both)]
        steps.append(Spacingd(both, pixdim=tuple(spacing), mode=modes, padding_mode="border"))
    steps.append(ChannelIntensityd(image, window, percentiles))
    if image_size is not None:
        steps.append(FitInPlaned(image, image_size))
        if mapped:
            steps.append(FitInPlaned(label, image_size, mode="nearest-exact"))
    if num_slices is not None:
        if mapped:
            raise ValueError("num_slices would interpolate class ids: use spacing for segmentation.")
        steps.append(ResampleSlicesd(image, num_slices))
    if task == "detection" and with_labels:
        from .boxes import BoxToArrayd

        steps.append(BoxToArrayd(spatial_dims=spatial_dims))
    if mapped:
        steps.append(AsClassIdsd(label))
    return Compose(steps)


class TakeLabeld(MapTransform):
    """Take a column as the sample's ``label``, in place of what the row may call so.

    Args:
        keys: the column.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Move it."""
        output = dict(data)
        for key in self.key_iterator(output):
            output[Keys.LABEL] = output.pop(key)
        return output


class AsClassIdsd(MapTransform):
    """Label maps as uint8, a quarter of the memory in caches."""

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            label: Tensor = output[key]
            output[key] = MetaTensor(label.as_tensor().round().to(torch.uint8), affine=label.affine)  # type: ignore[attr-defined]
        return output

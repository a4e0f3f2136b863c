# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Bring every modality to intensities in 0..1: CT by a window in Hounsfield units, all else by percentiles."""

from __future__ import annotations

import re
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Transform
from torch import Tensor

from monai_cluster.keys import ClusterKeys

__all__ = ["CT_WINDOWS", "ModalityIntensity", "ModalityIntensityd", "is_ct"]

CT_WINDOWS = {"wide": (-1000.0, 1000.0), "soft": (-160.0, 240.0), "lung": (-1350.0, 150.0), "bone": (-450.0, 1050.0)}
HIGHEST_AIR = -200.0  # a CT image contains air (-1000 HU) or at least fat (-100 HU): a higher minimum cannot be HU


def is_ct(modality: str | None) -> bool:
    """Whether free text such as ``"CT chest"`` or ``"cta-head"`` begins with CT; cone-beam CT has no reliable HU."""
    words = re.split(r"[^A-Z0-9]+", (modality or "").upper().strip())
    return words[0] in ("CT", "CTA")


class ModalityIntensity(Transform):
    """Scale intensities to 0..1, clipped.

    CT: linear in the window. MR, X-ray, PET, ultrasound, photographs and images of unknown modality: linear between two
    percentiles of the image. "CT" whose minimum is above -200 cannot be in Hounsfield units (rebuilt 8-bit files) and
    is scaled by percentiles, with one warning. A constant image gives zeros.

    Args:
        window: (low, high) in HU, or ``"wide"`` (-1000, 1000), ``"soft"``, ``"lung"``, ``"bone"``.
        percentiles: lower and upper percentile.

    Raises:
        ValueError: for an unknown or empty window or percentiles; on call, for NaN or infinite values.
    """

    def __init__(self, window: str | Sequence[float] = "wide", percentiles: Sequence[float] = (0.5, 99.5)) -> None:
        if isinstance(window, str):
            if window not in CT_WINDOWS:
                raise ValueError(
                    f"window must be (low, high) in HU or one of {', '.join(CT_WINDOWS)}, got "
                    f"{window!r}; name one of these"
                )
            window = CT_WINDOWS[window]
        if len(window) != 2 or not window[0] < window[1]:
            raise ValueError(
                f"window must be (low, high) with low < high, got {tuple(window)}; for example (-1000, 1000)"
            )
        if len(percentiles) != 2 or not 0 <= percentiles[0] < percentiles[1] <= 100:
            raise ValueError(f"percentiles must ascend within 0..100, got {tuple(percentiles)}; for example (.5, 99.5)")
        self.window = (float(window[0]), float(window[1]))
        self.percentiles = (float(percentiles[0]), float(percentiles[1]))
        self._warned = False

    def __call__(self, data: Tensor, modality: str | None = None) -> Tensor:
        """Scale an image or volume of any shape.

        Args:
            data: intensities as loaded.
            modality: free text beginning with the modality; None means unknown.

        Returns:
            float32 of the same shape, keeping affine and meta.
        """
        values = data.as_tensor() if isinstance(data, MetaTensor) else data
        values = values.to(torch.float32)
        if not bool(torch.isfinite(values).all()):
            bad = int((~torch.isfinite(values)).sum())
            raise ValueError(
                f"intensities must be finite, got {bad} NaN or infinite of {values.numel()} values; "
                "replace them before loading (numpy.nan_to_num), or take the file off the list"
            )
        scaled = self._scale(values, modality)
        return MetaTensor(scaled, meta=data.meta) if isinstance(data, MetaTensor) else scaled

    def _scale(self, values: Tensor, modality: str | None) -> Tensor:
        low, high = self.window
        minimum, maximum = (float(bound) for bound in values.aminmax())
        if minimum == maximum:
            return torch.zeros_like(values)
        if not is_ct(modality) or minimum > HIGHEST_AIR:
            if is_ct(modality) and not self._warned:
                self._warned = True
                warnings.warn(
                    f"CT should be in Hounsfield units (air -1000), but the minimum is {minimum:g}: "
                    "scaled by percentiles "
                    "instead; convert to HU, or change its modality (said once)",
                    stacklevel=3,
                )
            low, high = (float(bound) for bound in np.percentile(values.numpy(), self.percentiles))
            if low == high:  # nearly constant, a few outliers: percentiles cannot scale it
                low, high = minimum, maximum
        return values.sub(low).div_(high - low).clamp_(0.0, 1.0)


class ModalityIntensityd(MapTransform):
    """Dictionary form of :class:`ModalityIntensity`.

    Args:
        keys: entries to scale.
        window: as for :class:`ModalityIntensity`.
        percentiles: as for :class:`ModalityIntensity`.
        modality_key: entry with the modality; without it, the one that a DICOM header gave (``meta["modality"]``).
    """

    def __init__(
        self,
        keys: KeysCollection,
        window: str | Sequence[float] = "wide",
        percentiles: Sequence[float] = (0.5, 99.5),
        modality_key: str = ClusterKeys.MODALITY,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scaler = ModalityIntensity(window, percentiles)
        self.modality_key = modality_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale every key."""
        output = dict(data)
        for key in self.key_iterator(output):
            modality = output.get(self.modality_key)
            if not modality and isinstance(output[key], MetaTensor):
                modality = output[key].meta.get("modality")
            output[key] = self.scaler(output[key], str(modality) if modality else None)
        return output

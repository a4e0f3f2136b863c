# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuned models whose right answer is known: networks that read class and boxes off the brightness."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor, nn

from monai_cluster.apps import FinetunedModel

CLASSES = {
    "segmentation": ("background", "organ", "lesion"),
    "detection": ("lesion",),
    "classification": ("dark", "bright"),
}


class NearestLevel(nn.Module):
    """Class k where the brightness is nearest to k / 2."""

    def forward(self, image: Tensor) -> Tensor:
        levels = torch.tensor([0.0, 0.5, 1.0]).reshape(1, 3, *[1] * (image.ndim - 2))
        return -200 * (image[:, :1] - levels) ** 2


class BrightBoxes(nn.Module):
    """One box round every connected bright part."""

    def forward(self, images: Sequence[Tensor], use_inferer: bool | None = None) -> list[dict[str, Tensor]]:
        found = []
        for image in images:
            parts = ndimage.find_objects(ndimage.label(image[0].numpy() > 0.75)[0])
            boxes = [[side.start for side in part] + [side.stop for side in part] for part in parts]
            found.append(
                {
                    "box": torch.tensor(boxes, dtype=torch.float32).reshape(-1, 2 * (image.ndim - 1)),
                    "box_label": torch.zeros(len(boxes), dtype=torch.long),
                    "score": torch.linspace(0.9, 0.5, len(boxes)),
                }
            )
        return found


class MeanBrightness(nn.Module):
    """Probabilities 1 - m and m of an image whose mean is m."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(1)
        return torch.stack([(1 - mean).log(), mean.log()], dim=1)


NETWORKS = {"segmentation": NearestLevel, "detection": BrightBoxes, "classification": MeanBrightness}


def stand_in(
    task: str,
    dims: int = 3,
    prediction: Mapping[str, Any] | None = None,
    recipe: Mapping[str, Any] | None = None,
    **preprocessing: Any,
) -> FinetunedModel:
    """A model that cannot err on :func:`levels`."""
    return FinetunedModel(
        NETWORKS[task](), task, CLASSES[task], {"spatial_dims": dims} | preprocessing, dict(prediction or {}),
        {"sha256": "0" * 64, "recipe": dict(recipe or {})},
    )  # fmt: skip


def levels(ids: np.ndarray, step: float = 100.0) -> np.ndarray:
    """An image of class ids: 0, 100 and 200 with a little noise."""
    noise = np.random.default_rng(int(ids.sum())).uniform(0, step / 50, ids.shape)
    return ids * step + noise


def lesion_in_organ(shape: tuple[int, ...] = (20, 26, 9)) -> tuple[np.ndarray, list[int]]:
    """Class ids that no turn or mirroring maps onto themselves, and the lesion's box: lower corner, upper corner."""
    grid = np.stack(np.meshgrid(*[np.arange(length) for length in shape], indexing="ij"), axis=-1)
    centre, radius = np.array((8, 15, 4))[: len(shape)], np.array((7, 9, 4))[: len(shape)]
    ids = ((((grid - centre) / radius) ** 2).sum(-1) < 1).astype(np.uint8)
    low, high = (4, 12, 2)[: len(shape)], (8, 21, 5)[: len(shape)]
    ids[tuple(slice(*ends) for ends in zip(low, high, strict=True))] = 2
    return ids, [*low, *high]

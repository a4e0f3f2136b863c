# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A task's predictor as a MONAI inferer, which takes batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor, nn

__all__ = ["PredictorInferer"]


class PredictorInferer(Inferer):
    """Predict every image of a batch, for evaluators and applications that expect MONAI's inferers.

    Args:
        predictor: ``(image C …, network) -> prediction``, such as ``SegmentationPredictor``.
    """

    def __init__(self, predictor: Callable[[Tensor, nn.Module], Any]) -> None:
        super().__init__()
        self.predictor = predictor

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Predict ``B C …``.

        Returns:
            Probabilities ``B K …`` or ``B K``; for detectors a list of ``B`` dictionaries.

        Raises:
            TypeError: for further arguments, which no predictor takes.
        """
        if args or kwargs:
            raise TypeError(f"a predictor takes images and a network, got also {[*args, *kwargs]}: leave them out.")
        found = [self.predictor(image, network) for image in inputs]  # type: ignore[arg-type]
        return torch.stack(found) if isinstance(found[0], Tensor) else found

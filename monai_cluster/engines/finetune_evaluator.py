# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Predict one labelled sample after the other, as a MONAI evaluator that also knows CPUs and bfloat16."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.engines import Evaluator
from monai.engines.utils import IterationEvents, default_metric_cmp_fn
from monai.inferers import Inferer
from monai.transforms import Transform
from monai.utils import ForwardMode
from torch import Tensor, nn

from monai_cluster.keys import ClusterKeys as Keys

__all__ = ["FinetuneEvaluator"]


class FinetuneEvaluator(Evaluator):
    """Run a predictor over validation samples of any size, one by one.

    ``engine.state.output`` is a list with one dictionary: the sample's entries (``image``, ``label`` or ``box`` …) and
    ``pred``, what the predictor returned. Metrics take what they need from there.

    Args:
        device: where to predict.
        val_data_loader: gives lists with one sample (``collate_fn=list_data_collate`` is not used), or samples.
        network: in evaluation mode during the run.
        inferer: ``(image C …, network) -> prediction``, see ``monai_cluster.engines.predictors``; or a MONAI inferer,
            which is given a batch of one.
        postprocessing: transform of each sample with its ``pred``, before metrics and handlers see it.
        key_val_metric: ignite metric that selects the best weights.
        additional_metrics: more ignite metrics.
        metric_cmp_fn: ``(current, best) -> bool``.
        val_handlers: MONAI or ignite handlers.
        amp: autocast the prediction.
        amp_dtype: ``"bfloat16"`` or ``"float16"``.
        epoch_length: samples to predict; all by default.
    """

    def __init__(
        self,
        device: str | torch.device,
        val_data_loader: Iterable[Any],
        network: nn.Module,
        inferer: Callable[[Tensor, nn.Module], Any] | Inferer,
        postprocessing: Transform | None = None,
        key_val_metric: dict[str, Any] | None = None,
        additional_metrics: dict[str, Any] | None = None,
        metric_cmp_fn: Callable[[Any, Any], bool] | None = None,
        val_handlers: Sequence[Any] | None = None,
        amp: bool = False,
        amp_dtype: str = "bfloat16",
        epoch_length: int | None = None,
    ) -> None:
        self.network, self.inferer = network, inferer
        self.amp_dtype: torch.dtype = getattr(torch, amp_dtype)
        super().__init__(
            device=device,
            val_data_loader=val_data_loader,
            postprocessing=postprocessing,
            epoch_length=epoch_length,
            key_val_metric=key_val_metric,
            additional_metrics=additional_metrics,
            metric_cmp_fn=metric_cmp_fn or default_metric_cmp_fn,
            val_handlers=val_handlers,
            amp=amp,
            mode=ForwardMode.EVAL,
            decollate=False,
        )

    def _iteration(self, engine: Any, batchdata: Any) -> list[dict[str, Any]]:  # type: ignore[override]
        sample: Mapping[str, Any] = batchdata[0] if isinstance(batchdata, (list, tuple)) else batchdata
        image = sample[Keys.IMAGE]
        image = image.as_tensor() if hasattr(image, "as_tensor") else image
        self.network.eval()
        with (
            torch.inference_mode(),
            torch.autocast(self.state.device.type, dtype=self.amp_dtype, enabled=self.amp),
        ):
            image = image.to(self.state.device)
            if isinstance(self.inferer, Inferer):
                prediction = self.inferer(image[None], self.network)[0]
            else:
                prediction = self.inferer(image, self.network)
        self.state.output = [{**sample, Keys.PRED: prediction}]
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        found: list[dict[str, Any]] = self.state.output
        return found

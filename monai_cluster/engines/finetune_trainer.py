# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One supervised training step, as a MONAI trainer that also knows CPUs, bfloat16 and frozen parts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from monai.engines.trainer import Trainer
from monai.engines.utils import IterationEvents, default_metric_cmp_fn
from monai.engines.workflow import Workflow
from torch import Tensor, nn
from torch.optim import Optimizer

from monai_cluster.keys import ClusterKeys as Keys

from .update import accumulate_and_step

__all__ = ["FinetuneTrainer", "prepare_detection_batch", "prepare_labelled_batch"]

Inputs = tuple[tuple[Any, ...], Any]


def prepare_labelled_batch(
    batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False
) -> Inputs:
    """``((image,), label)`` on the device, as plain tensors: ``B C …`` and class ids ``B 1 …`` or ``B``."""
    image, label = (_plain(batch[key]).to(device, non_blocking=non_blocking) for key in (Keys.IMAGE, Keys.LABEL))
    return (image,), label.long()


def prepare_detection_batch(
    batch: Mapping[str, Any], device: str | torch.device | None = None, non_blocking: bool = False
) -> Inputs:
    """``((images, targets), None)`` on the device: lists of ``C …`` and of ``{"box": N 2d, "box_label": N}``."""
    images = [_plain(image).to(device, non_blocking=non_blocking) for image in batch[Keys.IMAGE]]
    targets = [
        {Keys.BOX: _plain(box).to(device), Keys.BOX_LABEL: _plain(label).to(device)}
        for box, label in zip(batch[Keys.BOX], batch[Keys.BOX_LABEL], strict=True)
    ]
    return (images, targets), None


def _plain(value: Any) -> Tensor:
    value = torch.as_tensor(value)
    tensor: Tensor = value.as_tensor() if isinstance(value, MetaTensor) else value
    return tensor


class FinetuneTrainer(Trainer):
    """Supervised training of a segmentation, detection or classification network.

    ``engine.state.output`` is a list with one dictionary of floats: ``loss``, and each term where there are several.
    ``engine.frozen`` lists modules that stay in evaluation mode (see ``FreezePretrained``).

    Args:
        device: where to train; autocast follows its type, on CPU too.
        max_epochs: last epoch, counted from 1.
        train_data_loader: gives labelled batches.
        network: ``(*inputs) -> output``; a DDP-wrapped one as well.
        optimizer: any torch optimiser over the network's parameters.
        loss_function: ``(output, label) -> scalar``, called in float32; None where the network itself returns a
            dictionary of losses, as detectors do.
        train_handlers: MONAI or ignite handlers.
        prepare_batch: ``(batch, device, non_blocking) -> (inputs, label)``.
        epoch_length: iterations per epoch, by default ``len(train_data_loader)``.
        non_blocking: asynchronous copies to the device.
        amp: autocast the forward pass.
        amp_dtype: ``"bfloat16"`` or ``"float16"``; the latter scales the loss.
        accumulation_steps: batches whose gradients are added up before one optimiser step.
        max_grad_norm: clip the global gradient norm; None does not clip.
        key_train_metric: ignite metric that selects the best checkpoint.
        additional_metrics: more ignite metrics.
        metric_cmp_fn: ``(current, best) -> bool``.

    Raises:
        ValueError: for an unknown ``amp_dtype`` or ``accumulation_steps`` below 1.
        FloatingPointError: during the run, when a loss is NaN or infinite.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        network: nn.Module,
        optimizer: Optimizer,
        loss_function: Callable[..., Tensor] | None = None,
        train_handlers: Sequence[Any] | None = None,
        prepare_batch: Callable[..., Inputs] = prepare_labelled_batch,
        epoch_length: int | None = None,
        non_blocking: bool = False,
        amp: bool = False,
        amp_dtype: str = "bfloat16",
        accumulation_steps: int = 1,
        max_grad_norm: float | None = None,
        key_train_metric: dict[str, Any] | None = None,
        additional_metrics: dict[str, Any] | None = None,
        metric_cmp_fn: Callable[[Any, Any], bool] | None = None,
    ) -> None:
        if amp_dtype not in ("bfloat16", "float16"):
            raise ValueError(f"amp_dtype must be 'bfloat16' or 'float16', got {amp_dtype!r}.")
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}.")
        self.network, self.optimizer, self.loss_function = network, optimizer, loss_function
        self.amp_dtype: torch.dtype = getattr(torch, amp_dtype)
        self.accumulation_steps, self.max_grad_norm = accumulation_steps, max_grad_norm
        self.frozen: Sequence[nn.Module] = []
        super().__init__(
            device=device,
            max_epochs=max_epochs,
            data_loader=train_data_loader,
            epoch_length=epoch_length,
            non_blocking=non_blocking,
            prepare_batch=prepare_batch,
            key_metric=key_train_metric,
            additional_metrics=additional_metrics,
            handlers=train_handlers,
            amp=amp,
            decollate=False,
            metric_cmp_fn=metric_cmp_fn or default_metric_cmp_fn,
        )
        scaled = amp and self.amp_dtype is torch.float16
        self.scaler = torch.amp.GradScaler(self.state.device.type, enabled=scaled)  # type: ignore[assignment]

    def run(self) -> None:
        """Train from the current state to ``max_epochs``."""
        Workflow.run(self)  # not Trainer.run: it would replace the (possibly restored) scaler by a fresh CUDA one

    def _iteration(self, engine: Any, batchdata: Any) -> list[dict[str, float]]:  # type: ignore[override]
        """One step: forward, loss, backward, update; events fire in MONAI's order."""
        inputs, label = self.prepare_batch(batchdata, self.state.device, self.non_blocking)
        self.network.train()
        for module in self.frozen:
            module.eval()
        with torch.autocast(self.state.device.type, dtype=self.amp_dtype, enabled=self.amp):
            output = self.network(*inputs)
        self.fire_event(IterationEvents.FORWARD_COMPLETED)
        losses = output if self.loss_function is None else {Keys.LOSS: self.loss_function(output.float(), label)}
        loss = torch.stack([value.float() for value in losses.values()]).sum()
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        self.state.output = [self._report(loss, losses)]  # before the step: a broken loss must not reach the weights
        accumulate_and_step(self, loss)
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        reported: list[dict[str, float]] = self.state.output
        return reported

    def _report(self, loss: Tensor, losses: Mapping[str, Tensor]) -> dict[str, float]:
        named = {Keys.LOSS: loss} | {name: value for name, value in losses.items() if len(losses) > 1}
        values = torch.stack([value.detach().double() for value in named.values()]).tolist()
        report = dict(zip(named, values, strict=True))
        broken = [name for name, value in report.items() if not math.isfinite(value)]
        if broken:
            raise FloatingPointError(
                f"{', '.join(broken)} became NaN or infinite at iteration {self.state.iteration} (epoch "
                f"{self.state.epoch}): lower the learning rate, clip gradients (max_grad_norm), or use bfloat16 for "
                "float16; the last checkpoint is intact."
            )
        return report

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One joint training step on images and volumes, as a MONAI trainer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from monai.engines.trainer import Trainer
from monai.engines.utils import IterationEvents, default_metric_cmp_fn
from monai.engines.workflow import Workflow
from torch import Tensor, nn
from torch.optim import Optimizer

from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.outputs import ClusterOutput, JointOutput

from .prepare_batch import Stream, prepare_joint_batch
from .update import accumulate_and_step

__all__ = ["ClusterTrainer"]

TERMS = ("image", "volume", "mask", "slice")


class ClusterTrainer(Trainer):
    """Joint self-supervised training, L = Σ λ·L over the image, volume, mask and slice terms (arXiv:2212.01893, eq.
    10).

    ``engine.state.output`` is a list with one dictionary of floats (``loss``, ``image_loss``, …, and each criterion's
    diagnostics prefixed by its term), so that MONAI's ``from_engine(["loss"], first=True)`` idiom works. For handlers,
    ``engine.state.joint_output`` holds the network's output without gradient and ``engine.state.batch`` the batch.

    Args:
        device: where to train; autocast follows its type, on CPU too.
        max_epochs: last epoch, counted from 1.
        train_data_loader: gives joint batches, see :func:`prepare_joint_batch`.
        network: ``(images, volumes) -> JointOutput``; a DDP-wrapped one as well.
        optimizer: any torch optimiser over the network's parameters.
        image_criterion: ``(ClusterOutput, sample_index) -> scalar`` for the image stream.
        volume_criterion: the same for the volume stream.
        mask_criterion: ``MaskedOutput -> scalar``.
        slice_criterion: like ``image_criterion``, for slices matched between two views of a volume.
        loss_weights: ``{"image": 1.0, "volume": 1.0, "mask": 1.0, "slice": 1.0}``; a missing term counts 1 where its
            criterion is given, 0 switches a term off. Handlers may change it between epochs.
        train_handlers: MONAI or ignite handlers.
        prepare_batch: replaces :func:`prepare_joint_batch`.
        epoch_length: iterations per epoch, by default ``len(train_data_loader)``.
        non_blocking: asynchronous copies to the device.
        amp: autocast the forward pass and the criteria (which compute in fp32 where it matters).
        amp_dtype: ``"bfloat16"`` or ``"float16"``; the latter scales the loss.
        accumulation_steps: batches whose gradients are added up before one optimiser step.
        max_grad_norm: clip the global gradient norm; None does not clip.
        compile: ``torch.compile`` the network in place (state-dict names stay).
        compile_kwargs: arguments of ``torch.compile``.
        key_train_metric: ignite metric that selects the best checkpoint.
        additional_metrics: more ignite metrics.
        metric_cmp_fn: ``(current, best) -> bool``; give ``lambda c, b: c < b`` for losses.

    Raises:
        ValueError: for no criterion at all, unknown names in ``loss_weights``, an unknown ``amp_dtype`` or
            ``accumulation_steps`` below 1.
        FloatingPointError: during the run, when a loss is NaN or infinite.
    """

    def __init__(
        self,
        device: str | torch.device,
        max_epochs: int,
        train_data_loader: Iterable[Any],
        network: nn.Module,
        optimizer: Optimizer,
        image_criterion: nn.Module | None = None,
        volume_criterion: nn.Module | None = None,
        mask_criterion: nn.Module | None = None,
        slice_criterion: nn.Module | None = None,
        loss_weights: Mapping[str, float] | None = None,
        train_handlers: Sequence[Any] | None = None,
        prepare_batch: Callable[..., tuple[Stream | None, Stream | None]] = prepare_joint_batch,
        epoch_length: int | None = None,
        non_blocking: bool = False,
        amp: bool = False,
        amp_dtype: str = "bfloat16",
        accumulation_steps: int = 1,
        max_grad_norm: float | None = None,
        compile: bool = False,
        compile_kwargs: Mapping[str, Any] | None = None,
        key_train_metric: dict[str, Any] | None = None,
        additional_metrics: dict[str, Any] | None = None,
        metric_cmp_fn: Callable[[Any, Any], bool] | None = None,
    ) -> None:
        if amp_dtype not in ("bfloat16", "float16"):
            raise ValueError(f"amp_dtype must be 'bfloat16' or 'float16', got {amp_dtype!r}.")
        if accumulation_steps < 1:
            raise ValueError(f"accumulation_steps must be at least 1, got {accumulation_steps}.")
        # Set before the parent attaches the handlers: they may look for them.
        self.image_criterion, self.volume_criterion = image_criterion, volume_criterion
        self.mask_criterion, self.slice_criterion = mask_criterion, slice_criterion
        self.loss_weights = self._check_weights(loss_weights or {})
        self.network, self.optimizer = network, optimizer
        self.amp_dtype: torch.dtype = getattr(torch, amp_dtype)
        self.accumulation_steps, self.max_grad_norm = accumulation_steps, max_grad_norm
        if compile:
            network.compile(**dict(compile_kwargs or {}))
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

    def criterion(self, term: str) -> nn.Module | None:
        """The criterion of a term: image, volume, mask or slice."""
        found: nn.Module | None = getattr(self, f"{term}_criterion")
        return found

    def run(self) -> None:
        """Train from the current state to ``max_epochs``."""
        Workflow.run(self)  # not Trainer.run: it would replace the (possibly restored) scaler by a fresh CUDA one

    def _check_weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        unknown = sorted(set(weights) - set(TERMS))
        if unknown:
            raise ValueError(f"loss_weights has unknown terms {unknown}; the terms are {', '.join(TERMS)}.")
        given = [term for term in TERMS if self.criterion(term) is not None]
        if not given:
            raise ValueError("at least one of image_, volume_, mask_ and slice_criterion is needed, got none.")
        return {term: float(weights.get(term, 1.0)) for term in given}

    def _iteration(self, engine: Any, batchdata: Any) -> list[dict[str, float]]:  # type: ignore[override]
        """One step: forward, losses, backward, update; events fire in MONAI's order."""
        images, volumes = self.prepare_batch(batchdata, self.state.device, self.non_blocking)
        self.network.train()
        with torch.autocast(self.state.device.type, dtype=self.amp_dtype, enabled=self.amp):
            output = self.network(images, volumes)
            self.fire_event(IterationEvents.FORWARD_COMPLETED)
            losses = self._losses(output, images, volumes)
        loss = self._total(losses)
        self.fire_event(IterationEvents.LOSS_COMPLETED)
        report = self._report(loss, losses)  # before the step: a loss that is not finite must not reach the weights
        accumulate_and_step(self, loss)
        self.state.joint_output = _detach(output)
        self.state.output = [report]
        self.fire_event(IterationEvents.MODEL_COMPLETED)
        reported: list[dict[str, float]] = self.state.output
        return reported

    def _losses(self, output: JointOutput, images: Stream | None, volumes: Stream | None) -> dict[str, Tensor]:
        """The terms that this batch can give: a stream that is absent has none."""
        losses: dict[str, Tensor] = {}
        for term, stream, found in (
            ("image", images, output.image),
            ("volume", volumes, output.volume),
            ("slice", volumes, output.slices),
        ):
            criterion = self.criterion(term)
            if criterion is not None and found is not None and stream is not None and self.loss_weights[term]:
                losses[term] = criterion(found, _index_of(found, stream[Keys.SAMPLE_INDEX]))
        if self.mask_criterion is not None and output.masked is not None and self.loss_weights["mask"]:
            losses["mask"] = self.mask_criterion(output.masked)
        if not losses:
            raise ValueError(
                "no loss term applies to this batch: the network gave "
                f"{[name for name, part in output._asdict().items() if part is not None]}, the weights are "
                f"{self.loss_weights}; check loss_weights, the criteria and the loader's streams."
            )
        return losses

    def _total(self, losses: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([self.loss_weights[term] * value for term, value in losses.items()]).sum()

    def _report(self, loss: Tensor, losses: Mapping[str, Tensor]) -> dict[str, float]:
        """All scalars of the step with one transfer from the device."""
        named = {Keys.LOSS: loss} | {f"{term}_loss": value for term, value in losses.items()}
        for term in losses:
            criterion = self.criterion(term)
            diagnostics = getattr(criterion, "diagnostics", {})
            named |= {f"{term}_{name}": value for name, value in diagnostics.items()}
        values = torch.stack([torch.as_tensor(value).detach().double().to(loss.device) for value in named.values()])
        report = dict(zip(named, values.tolist(), strict=True))
        broken = [name for name in report if name.endswith(Keys.LOSS) and not math.isfinite(report[name])]
        if broken:
            raise FloatingPointError(
                f"{', '.join(broken)} became NaN or infinite at iteration {self.state.iteration} (epoch "
                f"{self.state.epoch}): lower the learning rate, clip gradients (max_grad_norm), or use bfloat16 for "
                "float16; the last checkpoint is intact."
            )
        return report


def _index_of(found: ClusterOutput, sample_index: Tensor) -> Tensor:
    """Sample indices for a stream's rows; matched slices come volume by volume, several to one sample."""
    rows = found.embeddings.shape[1]
    return sample_index if rows == len(sample_index) else sample_index.repeat_interleave(rows // len(sample_index))


def _detach(part: Any) -> Any:
    """The same named tuples without gradient."""
    if isinstance(part, Tensor):
        return part.detach()
    if isinstance(part, tuple):
        values = [_detach(item) for item in part]
        return type(part)(*values) if hasattr(part, "_fields") else tuple(values)
    return part

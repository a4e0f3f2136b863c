# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Layer-wise adaptive rates for large batches: LARS (arXiv:1708.03888) and its variant LARC."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, overload

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = ["LARC", "LARS"]


class _LayerwiseSGD(Optimizer):
    """SGD with momentum whose gradient is scaled for each parameter tensor; see LARS and LARC for the two rules."""

    rate_in_momentum: bool

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float,
        weight_decay: float,
        trust_coefficient: float,
        eps: float,
        clip: bool,
        nesterov: bool,
        exclude_1d: bool,
    ) -> None:
        settings = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "trust_coefficient": trust_coefficient,
            "eps": eps,
        }
        negative = [f"{name}={value}" for name, value in settings.items() if not value >= 0]
        if negative or momentum >= 1:
            raise ValueError(
                f"lr, weight_decay, trust_coefficient and eps must be at least 0 and momentum in [0, 1), got "
                f"{', '.join(negative) or f'momentum={momentum}'}."
            )
        if nesterov and momentum == 0:
            raise ValueError("nesterov needs momentum above 0, got 0: set momentum=0.9 or nesterov=False.")
        super().__init__(params, settings | {"clip": clip, "nesterov": nesterov, "exclude_1d": exclude_1d})

    @overload
    def step(self, closure: None = None) -> None: ...

    @overload
    def step(self, closure: Callable[[], float]) -> float: ...

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:
        """Update all parameters that have a gradient; ``closure`` recomputes the loss and returns it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            params = [param for param in group["params"] if param.grad is not None]
            for same in _by_device_and_type(params):
                self._update(same, group)
        return loss

    def _update(self, params: list[Tensor], group: dict[str, Any]) -> None:
        updates = _scaled_gradients(params, group)
        rate = float(group["lr"])
        if self.rate_in_momentum:
            updates, rate = list(torch._foreach_mul(updates, rate)), 1.0
        if group["momentum"]:
            updates = self._with_momentum(params, updates, group["momentum"], group["nesterov"])
        torch._foreach_add_(params, updates, alpha=-rate)

    def _with_momentum(
        self, params: list[Tensor], updates: list[Tensor], momentum: float, nesterov: bool
    ) -> list[Tensor]:
        buffers = []
        for param in params:
            if "momentum_buffer" not in self.state[param]:
                self.state[param]["momentum_buffer"] = torch.zeros_like(param)
            buffers.append(self.state[param]["momentum_buffer"])
        torch._foreach_mul_(buffers, momentum)
        torch._foreach_add_(buffers, updates)
        return list(torch._foreach_add(updates, buffers, alpha=momentum)) if nesterov else buffers


class LARC(_LayerwiseSGD):
    """SGD with momentum on gradients scaled to each parameter's size, as SwAV trains.

    ``g' = (g + wd·p) · trust·‖p‖ / (‖g‖ + wd·‖p‖ + eps)``, then ``m ← momentum·m + g'`` and ``p ← p - lr·m``. A
    parameter whose own or whose gradient's norm is 0 takes the plain gradient without decay.

    Args:
        params: parameters or parameter groups; a group may override every argument below.
        lr: learning rate.
        momentum: of the SGD step.
        weight_decay: L2 decay, inside the scaling.
        trust_coefficient: trust; .001 in SwAV and in the joint pretraining paper.
        eps: keeps the quotient finite.
        clip: scale by ``min(rate / lr, 1)``, so that the effective rate never exceeds ``lr``; SwAV has it off.
        nesterov: look-ahead momentum.
        exclude_1d: biases and normalisation weights take the plain gradient without decay.

    Raises:
        ValueError: for a parameter out of range.
    """

    rate_in_momentum = False

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
        clip: bool = False,
        nesterov: bool = False,
        exclude_1d: bool = False,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, trust_coefficient, eps, clip, nesterov, exclude_1d)


class LARS(_LayerwiseSGD):
    """The original rule: as :class:`LARC` without clipping, with the learning rate inside the momentum.

    ``m ← momentum·m + lr·g'`` and ``p ← p - m``: a change of the rate acts on new gradients only. One-dimensional
    parameters are left out by default, as is usual.

    Args:
        params: parameters or parameter groups; a group may override every argument below.
        lr: learning rate.
        momentum: of the SGD step.
        weight_decay: L2 decay, inside the scaling.
        trust_coefficient: trust.
        eps: keeps the quotient finite.
        nesterov: look-ahead momentum.
        exclude_1d: biases and normalisation weights take the plain gradient without decay.

    Raises:
        ValueError: for a parameter out of range.
    """

    rate_in_momentum = True

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust_coefficient: float = 0.001,
        eps: float = 1e-8,
        nesterov: bool = False,
        exclude_1d: bool = True,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, trust_coefficient, eps, False, nesterov, exclude_1d)


def _scaled_gradients(params: list[Tensor], group: dict[str, Any]) -> list[Tensor]:
    """``(g + decay·p)·ratio`` for each parameter, without a transfer from the device."""
    gradients = [param.grad for param in params if param.grad is not None]
    dtype = torch.promote_types(params[0].dtype, torch.float32)
    sizes = torch.stack(torch._foreach_norm(params, 2, dtype=dtype))
    slopes = torch.stack(torch._foreach_norm(gradients, 2, dtype=dtype))
    adapted = (sizes > 0) & (slopes > 0)
    if group["exclude_1d"]:
        adapted &= torch.tensor([param.ndim > 1 for param in params], device=adapted.device)
    decay = group["weight_decay"]
    ratio = group["trust_coefficient"] * sizes / (slopes + decay * sizes + group["eps"])
    if group["clip"]:
        ratio = (ratio / group["lr"]).clamp_max(1.0) if group["lr"] > 0 else torch.ones_like(ratio)
    ratio = torch.where(adapted, ratio, 1.0).to(params[0].dtype)
    decays = torch.where(adapted, ratio * decay, 0.0).to(params[0].dtype)
    updates = list(torch._foreach_mul(gradients, list(ratio.unbind())))
    if decay:
        torch._foreach_add_(updates, torch._foreach_mul(params, list(decays.unbind())))
    return updates


def _by_device_and_type(params: list[Tensor]) -> list[list[Tensor]]:
    """Lists of parameters that one fused call can take together."""
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for param in params:
        groups.setdefault((param.device, param.dtype), []).append(param)
    return list(groups.values())

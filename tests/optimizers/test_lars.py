# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""LARS and LARC against their formulas written for one tensor, and against torch's SGD where they must coincide."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from monai_cluster.optimizers import LARC, LARS

SETTINGS = {"lr": 0.3, "momentum": 0.9, "weight_decay": 0.04, "trust_coefficient": 0.02}


def parameters(dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 3), (2, 3, 3), (5,), ()]
    return [nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(param.shape, generator=generator).double() for param in parameters()]


def step_with(optimizer: torch.optim.Optimizer, step: int) -> None:
    params = [param for group in optimizer.param_groups for param in group["params"]]
    for param, gradient in zip(params, gradients(step), strict=True):
        param.grad = gradient.to(param.dtype)
    optimizer.step()


def scaled(param: Tensor, gradient: Tensor, lr: float, clip: bool) -> Tensor:
    """``(g + wd p) trust |p| / (|g| + wd |p| + 1e-8)``."""
    size, slope, decay = float(param.norm()), float(gradient.norm()), SETTINGS["weight_decay"]
    rate = SETTINGS["trust_coefficient"] * size / (slope + decay * size + 1e-8)
    return (gradient + decay * param) * (min(rate / lr, 1.0) if clip else rate)


KINDS = {
    "LARC": (LARC, {}),
    "LARC, clipped": (LARC, {"clip": True}),
    "LARC, clipped at 1": (LARC, {"clip": True, "lr": 1e-3}),
    "LARC, nesterov": (LARC, {"nesterov": True}),
    "LARC without biases": (LARC, {"exclude_1d": True}),
    "LARS": (LARS, {}),
    "LARS with biases": (LARS, {"exclude_1d": False}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_four_steps_equal_the_formula(kind: str) -> None:
    rule, options = KINDS[kind]
    exclude = options.get("exclude_1d", rule is LARS)
    ours, wanted = parameters(), [param.detach().clone() for param in parameters()]
    optimizer = rule(ours, **(SETTINGS | options))
    buffers = [torch.zeros_like(param) for param in wanted]
    for step in range(4):
        if step == 2:
            optimizer.param_groups[0]["lr"] /= 3
        lr = optimizer.param_groups[0]["lr"]
        for place, (param, gradient) in enumerate(zip(wanted, gradients(step), strict=True)):
            skip = exclude and param.ndim <= 1
            update = gradient if skip else scaled(param, gradient, lr, options.get("clip", False))
            if rule is LARS:  # the rate enters the momentum
                buffers[place] = 0.9 * buffers[place] + lr * update
                wanted[place] = param - buffers[place]
            else:
                buffers[place] = 0.9 * buffers[place] + update
                direction = update + 0.9 * buffers[place] if options.get("nesterov") else buffers[place]
                wanted[place] = param - lr * direction
        step_with(optimizer, step)
    for mine, theirs in zip(ours, wanted, strict=True):
        torch.testing.assert_close(mine.detach(), theirs, rtol=1e-12, atol=1e-14)


def test_clipping_at_one_is_plain_sgd_with_decay() -> None:
    """A trust so large that every rate exceeds the learning rate."""
    ours, theirs = parameters(), parameters()
    larc = LARC(ours, lr=0.1, weight_decay=0.01, trust_coefficient=1e6, clip=True)
    sgd = torch.optim.SGD(theirs, lr=0.1, momentum=0.9, weight_decay=0.01)
    for step in range(3):
        step_with(larc, step)
        step_with(sgd, step)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=1e-14)


def test_a_norm_of_zero_takes_the_plain_gradient_without_decay() -> None:
    zero, still = nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.ones(2, 2))
    zero.grad, still.grad = torch.ones(2, 2), torch.zeros(2, 2)
    LARC([zero, still], lr=0.5, weight_decay=0.1).step()
    assert zero.detach().eq(-0.5).all()
    assert still.detach().eq(1).all()


def test_scaling_the_loss_does_not_change_the_step() -> None:
    ours, theirs = parameters(), parameters()
    for params, factor in ((ours, 1.0), (theirs, 1e3)):
        for param, gradient in zip(params, gradients(0), strict=True):
            param.grad = gradient * factor
        LARC(params, lr=0.1, eps=0.0).step()
    for mine, other, start in zip(ours, theirs, parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-12, atol=0)
        # the first step moves each tensor by lr * trust times its own norm
        assert float((mine - start).norm().detach()) == pytest.approx(1e-4 * float(start.detach().norm()))


@pytest.mark.parametrize("rule", [LARC, LARS])
def test_resumed_state_continues_as_the_uninterrupted_run(rule: type[LARC] | type[LARS]) -> None:
    whole, resumed = parameters(), parameters()
    first = rule(whole, **SETTINGS)
    for step in range(2):
        step_with(first, step)
    second = rule(resumed, lr=9.0)
    second.load_state_dict(deepcopy(first.state_dict()))  # torch shares the tensors otherwise
    with torch.no_grad():
        for mine, other in zip(resumed, whole, strict=True):
            mine.copy_(other)
    for optimizer in (first, second):
        step_with(optimizer, 2)
    for mine, other in zip(resumed, whole, strict=True):
        assert torch.equal(mine, other)


def test_groups_keep_their_own_settings_and_types_may_differ() -> None:
    free, decayed = parameters(torch.float32), parameters(torch.bfloat16)
    optimizer = LARC([{"params": free, "exclude_1d": True}, {"params": decayed, "lr": 0.0}], lr=0.5, momentum=0.0)
    for params in (free, decayed):
        for param, gradient in zip(params, gradients(1), strict=True):
            param.grad = gradient.to(param.dtype)
    optimizer.step()
    wanted = parameters(torch.float32)[2] - 0.5 * gradients(1)[2].float()
    torch.testing.assert_close(free[2], wanted)
    assert all(torch.equal(mine, start) for mine, start in zip(decayed, parameters(torch.bfloat16), strict=True))


def test_parameters_without_gradient_stay_and_the_closure_is_called() -> None:
    used, unused = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
    optimizer = LARS([used, unused], lr=1.0, exclude_1d=False)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (used**2).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == 3
    assert unused.detach().eq(1).all()
    assert used.detach().lt(1).all()


def test_it_trains_under_torchs_schedules() -> None:
    torch.manual_seed(0)
    model, rows = nn.Linear(4, 1), torch.randn(64, 4)
    wanted = rows @ torch.tensor([[1.0], [-2.0], [0.5], [3.0]])
    optimizer = LARC(model.parameters(), lr=5.0, trust_coefficient=0.01)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 200)
    losses = []
    for _ in range(200):
        optimizer.zero_grad()
        loss = ((model(rows) - wanted) ** 2).mean()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]


def test_wrong_settings_are_refused_by_rule() -> None:
    with pytest.raises(ValueError, match=r"at least 0 and momentum in \[0, 1\), got lr=-1"):
        LARC(parameters(), lr=-1)
    with pytest.raises(ValueError, match=r"got momentum=1\.0"):
        LARS(parameters(), lr=1, momentum=1.0)
    with pytest.raises(ValueError, match="nesterov needs momentum above 0"):
        LARC(parameters(), lr=1, momentum=0, nesterov=True)

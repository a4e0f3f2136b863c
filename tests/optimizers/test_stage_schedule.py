# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The staged schedule against MONAI's for one stage, and stage by stage for several."""

from __future__ import annotations

import pytest
import torch
from monai.optimizers import WarmupCosineSchedule

from monai_cluster.optimizers import StagedWarmupCosine


def rates(make, steps: int, lr: float = 0.4) -> list[float]:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule = make(optimizer)
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


def test_without_warmup_one_stage_is_monais_cosine() -> None:
    ours = rates(lambda o: StagedWarmupCosine(o, [{"epochs": 5}], 4), 20)
    theirs = rates(lambda o: WarmupCosineSchedule(o, warmup_steps=0, t_total=20), 20)
    assert ours == pytest.approx(theirs)


def test_warmup_rises_linearly_to_the_peak_and_the_end_keeps_the_final_share() -> None:
    found = rates(lambda o: StagedWarmupCosine(o, [{"epochs": 10}], 1, warmup_epochs=4, final_factor=0.25), 12)
    assert found[:5] == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.4])
    assert found[10:] == pytest.approx([0.1, 0.1])


def test_each_stage_starts_anew_with_its_own_peak() -> None:
    stages = [{"epochs": 2, "weights": {}}, {"epochs": 3, "learning_rate": 0.02}]
    found = rates(lambda o: StagedWarmupCosine(o, stages, 2), 10)
    alone = rates(lambda o: StagedWarmupCosine(o, [{"epochs": 3}], 2), 6, lr=0.02)
    assert found[0] == pytest.approx(0.4)
    assert found[4:] == pytest.approx(alone)


def test_numbers_that_make_no_schedule_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got 0 such stages, 3, 0 and 0\.0"):
        rates(lambda o: StagedWarmupCosine(o, [], 3), 1)
    with pytest.raises(ValueError, match="steps_per_epoch >= 1"):
        rates(lambda o: StagedWarmupCosine(o, [{"epochs": 1}], 0), 1)

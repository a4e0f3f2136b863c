# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
from __future__ import annotations

import pytest
import torch
from torch import nn

from monai_cluster.optimizers import StagedWarmupCosine, branch_parameter_groups
from tests.networks.tiny import tiny_network


def test_every_parameter_is_in_one_group_and_volume_parts_get_their_own_rate() -> None:
    network = tiny_network()
    image, volume = branch_parameter_groups(network, 0.1, 0.2)
    assert (image["lr"], volume["lr"]) == (0.1, pytest.approx(0.02))
    everything = [id(parameter) for parameter in network.parameters()]
    assert sorted(id(one) for group in (image, volume) for one in group["params"]) == sorted(everything)
    expected = [
        *network.slice_encoder.projection.parameters(),
        *network.slice_aggregator.parameters(),
        *network.volume_head.parameters(),
        *network.mask_decoder.parameters(),
    ]
    assert {id(one) for one in volume["params"]} == {id(one) for one in expected}


def test_wrapped_networks_give_the_same_groups() -> None:
    network = tiny_network()
    wrapped = nn.ModuleDict({"module": network})
    sizes = [[len(group["params"]) for group in branch_parameter_groups(one, 1.0, 0.5)] for one in (network, wrapped)]
    assert sizes[0] == sizes[1]


def test_the_schedule_keeps_the_ratio_of_the_rates() -> None:
    optimizer = torch.optim.SGD(branch_parameter_groups(tiny_network(), 0.1, 0.2))
    schedule = StagedWarmupCosine(
        optimizer, [{"epochs": 0}, {"epochs": 2, "learning_rate": 0.05}], steps_per_epoch=5, warmup_epochs=1
    )
    peaks = []
    for _ in range(10):
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates[1] == pytest.approx(0.2 * rates[0])
        peaks.append(rates[0])
        optimizer.step()
        schedule.step()
    assert max(peaks) == pytest.approx(0.05)


def test_a_factor_that_is_not_positive_is_refused() -> None:
    with pytest.raises(ValueError, match="volume_factor must be positive, got 0"):
        branch_parameter_groups(tiny_network(), 0.1, 0)

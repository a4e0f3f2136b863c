# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Epochs, stages, prototypes and re-clustering around a toy engine."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from ignite.engine import Engine, Events
from monai.engines.utils import IterationEvents

from monai_cluster.handlers import FreezePrototypes, NormalizePrototypes, Recluster, SetEpoch, Stage, StageSchedule
from monai_cluster.losses import DeepClusterLoss, SwappedPredictionLoss
from monai_cluster.networks import Prototypes

PAPER = [
    {"name": "image", "epochs": 2, "weights": {"image": 1.0}},
    {"name": "mask", "epochs": 1, "weights": {"mask": 1.0}, "freeze": ["slice_encoder"]},
    {"name": "volume", "epochs": 3, "weights": {"volume": 2.0}},
]


class FakeNetwork(torch.nn.Module):
    """Notes what the schedule asks of it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen: set[str] = set()
        self.terms: tuple[str, ...] = ()

    def freeze(self, *names: str) -> None:
        self.frozen |= set(names)

    def unfreeze(self, *names: str) -> None:
        self.frozen -= set(names)

    def set_terms(self, terms: tuple[str, ...]) -> None:
        self.terms = terms


def run_epochs(
    handlers: list, epochs: int, criteria: tuple[str, ...] = ("image", "volume", "mask")
) -> tuple[Engine, list]:
    engine = Engine(lambda engine, batch: None)
    engine.criterion = lambda term: object() if term in criteria else None
    engine.loss_weights = {}
    trace: list = []
    for handler in handlers:
        handler.attach(engine)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda e: trace.append(dict(e.loss_weights)))
    engine.run([0], max_epochs=epochs)
    return engine, trace


def test_the_papers_stages_follow_one_another_with_their_streams_and_frozen_parts() -> None:
    network, loader = FakeNetwork(), SimpleNamespace(seen=[], set_streams=lambda names: loader.seen.append(names))
    notes: list = []
    schedule = StageSchedule(PAPER, network, loader)
    note = SimpleNamespace(
        attach=lambda e: e.add_event_handler(
            Events.EPOCH_STARTED, lambda _: notes.append((set(network.frozen), network.terms))
        )
    )
    _, trace = run_epochs([schedule, note], 6)
    off = {"image": 0.0, "volume": 0.0, "mask": 0.0}
    assert trace == [off | {"image": 1.0}] * 2 + [off | {"mask": 1.0}] + [off | {"volume": 2.0}] * 3
    assert notes == [(set(), ("image",))] * 2 + [({"slice_encoder"}, ("mask",))] + [(set(), ("volume",))] * 3
    assert loader.seen == [("images",), ("volumes",), ("volumes",)]
    assert schedule.total_epochs == 6


def test_a_resumed_run_lands_in_the_stage_of_its_epoch() -> None:
    schedule = StageSchedule(PAPER)
    assert [schedule.stage_at(epoch).name for epoch in (1, 2, 3, 4, 6, 9)] == [
        "image", "image", "mask", "volume", "volume", "volume",
    ]  # fmt: skip


def test_a_stage_of_no_epochs_is_skipped() -> None:
    first, second, last = (Stage(name, epochs, {"image": 1.0}) for name, epochs in (("a", 0), ("b", 2), ("c", 0)))
    schedule = StageSchedule([first, second, last])
    assert [schedule.stage_at(epoch).name for epoch in (1, 2, 3)] == ["b", "b", "b"]


def test_wrong_stages_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one stage, got none"):
        StageSchedule([])
    with pytest.raises(ValueError, match="stage 'a': epochs must be 0 or more, got -1"):
        Stage("a", -1, {"image": 1.0})
    with pytest.raises(ValueError, match="at least one epoch, got stages of 0 epochs only"):
        StageSchedule([Stage("a", 0, {"image": 1.0})])
    with pytest.raises(ValueError, match=r"stage 'a': unknown loss terms \['pixel'\]"):
        Stage("a", 1, {"pixel": 1.0})
    with pytest.raises(ValueError, match="stage 'a': every weight is 0"):
        Stage("a", 1, {"image": 0.0})
    with pytest.raises(ValueError, match=r"weighs the terms \['mask'\], but the trainer has no criterion"):
        run_epochs([StageSchedule([PAPER[1]])], 1, criteria=("image",))


def test_an_epochs_random_numbers_depend_on_seed_and_epoch_alone() -> None:
    def draws(seed: int, start: int) -> list[float]:
        numbers: list[float] = []
        engine = Engine(lambda e, b: numbers.append(torch.rand(1).item()))
        SetEpoch(seed).attach(engine)
        engine.add_event_handler(Events.STARTED, lambda e: setattr(e.state, "epoch", start))
        engine.run([0], max_epochs=4)
        return numbers

    whole = draws(3, 0)
    assert draws(3, 2) == whole[2:]
    assert draws(4, 0) != whole
    assert len(set(whole)) == 4


def test_everything_with_an_epoch_is_told() -> None:
    told: list = []
    listener = SimpleNamespace(set_epoch=told.append)
    run_epochs([SetEpoch(0, listener, [listener, object()])], 2)
    assert told == [1, 1, 2, 2]
    with pytest.raises(ValueError, match="seed must be 0 or more, got -1"):
        SetEpoch(-1)


def make_prototype_engine(network: torch.nn.Module) -> Engine:
    """An engine whose step gives the prototypes a gradient and moves them."""
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)

    def step(engine: Engine, batch: torch.Tensor) -> None:
        optimizer.zero_grad()
        network(torch.nn.functional.normalize(batch, dim=-1)).sum().backward()
        engine.fire_event(IterationEvents.BACKWARD_COMPLETED)
        optimizer.step()

    engine = Engine(step)
    engine.register_events(*IterationEvents)
    return engine


def test_prototypes_stay_put_while_frozen_and_keep_unit_norm_when_they_move() -> None:
    torch.manual_seed(0)
    network = Prototypes(4, 3)
    start = network.weight.detach().clone()
    engine = make_prototype_engine(network)
    FreezePrototypes(network, 2).attach(engine)
    NormalizePrototypes(network).attach(engine)
    moved: list[bool] = []
    engine.add_event_handler(
        Events.ITERATION_COMPLETED, lambda e: moved.append(not torch.allclose(network.weight, start, atol=1e-6))
    )
    engine.run([torch.ones(2, 4)] * 4, max_epochs=1)
    assert moved == [False, False, True, True]
    torch.testing.assert_close(network.weight.norm(dim=1), torch.ones(3))
    with pytest.raises(ValueError, match="num_iterations must be 0 or more, got -1"):
        FreezePrototypes(network, -1)
    with pytest.raises(ValueError, match="Linear has no Prototypes module"):
        NormalizePrototypes(torch.nn.Linear(2, 2))


def test_recluster_refuses_a_loss_that_learns_its_prototypes() -> None:
    with pytest.raises(TypeError, match="needs a DeepClusterLoss, got SwappedPredictionLoss"):
        Recluster("image", SwappedPredictionLoss(5, 4), Prototypes(4, 5))
    deep = DeepClusterLoss(num_samples=4, num_prototypes=[2], embedding_dim=4)
    with pytest.raises(ValueError, match="interval must be at least 1 epoch, got 0"):
        Recluster("image", deep, Prototypes(4, 2), interval=0)
    with pytest.raises(ValueError, match=r"term must be one of \['image', 'slice', 'volume'\], got 'images'"):
        Recluster("images", deep, Prototypes(4, 2))

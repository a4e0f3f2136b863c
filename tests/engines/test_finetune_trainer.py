# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Supervised steps: gradients, accumulation, frozen parts, validation, early stopping, layer-wise rates."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from ignite.engine import Events
from torch import Tensor, nn
from torch.nn import functional as F

from monai_cluster.engines import (
    ClassificationPredictor,
    FinetuneEvaluator,
    FinetuneTrainer,
    SegmentationPredictor,
    prepare_detection_batch,
)
from monai_cluster.handlers import EpochScore, FreezePretrained, ValidateEvery
from monai_cluster.metrics import class_overlap, mean_dice, validation_auc
from monai_cluster.optimizers import finetuning_parameter_groups


class Net(nn.Module):
    """Two pretrained levels and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.deep = nn.Conv2d(4, 4, 3, padding=1)
        self.head = nn.Conv2d(4, 2, 1)

    def forward(self, image: Tensor) -> Tensor:
        return self.head(F.relu(self.deep(F.relu(self.norm(self.stem(image))))))

    def pretrained_modules(self) -> list[list[nn.Module]]:
        return [[self.stem, self.norm], [self.deep]]


def batches(number: int = 4, size: int = 4) -> list[dict[str, Tensor]]:
    made = torch.Generator().manual_seed(0)
    images = torch.rand(number, size, 1, 8, 8, generator=made)
    return [{"image": image, "label": (image > 0.5).long()} for image in images]


def loss_of(scores: Tensor, label: Tensor) -> Tensor:
    return F.cross_entropy(scores, label[:, 0])


def trainer(network: nn.Module, data: Any, **changes: Any) -> FinetuneTrainer:
    settings: dict[str, Any] = {"max_epochs": 1, "optimizer": torch.optim.SGD(network.parameters(), 0.1)}
    return FinetuneTrainer(
        device="cpu", train_data_loader=data, network=network, loss_function=loss_of, **{**settings, **changes}
    )


def test_one_step_is_the_step_written_by_hand() -> None:
    torch.manual_seed(0)
    network = Net()
    by_hand = copy.deepcopy(network)
    data = batches(1)
    engine = trainer(network, data)
    engine.run()
    by_hand.train()
    loss = loss_of(by_hand(data[0]["image"]), data[0]["label"])
    loss.backward()
    assert engine.state.output == [{"loss": pytest.approx(float(loss))}]
    for found, wanted in zip(network.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(found, wanted - 0.1 * wanted.grad)


def test_two_accumulated_halves_are_one_batch() -> None:
    torch.manual_seed(0)
    network = nn.Conv2d(1, 2, 1)
    whole, halves = copy.deepcopy(network), copy.deepcopy(network)
    data = batches(1)
    trainer(whole, data, optimizer=torch.optim.SGD(whole.parameters(), 0.1)).run()
    parts = [{key: value[place : place + 2] for key, value in data[0].items()} for place in (0, 2)]
    trainer(halves, parts, optimizer=torch.optim.SGD(halves.parameters(), 0.1), accumulation_steps=2).run()
    torch.testing.assert_close(whole.weight, halves.weight)


def test_frozen_levels_keep_weights_and_running_statistics_until_their_epoch() -> None:
    network = Net()
    before = copy.deepcopy(network.state_dict())
    handler = FreezePretrained(network, num_epochs=1)
    engine = trainer(network, batches(), train_handlers=[handler])
    engine.run()
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]) == (not name.startswith("head")), name
    engine = trainer(network, batches(), max_epochs=2, train_handlers=[FreezePretrained(network, num_epochs=1)])
    engine.run()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == set(before)


def test_a_network_frozen_for_good_never_moves() -> None:
    network = Net()
    before = copy.deepcopy(network.state_dict())
    trainer(network, batches(), max_epochs=3, train_handlers=[FreezePretrained(network, None)]).run()
    assert all(torch.equal(network.state_dict()[name], before[name]) for name in before if not name.startswith("head"))
    with pytest.raises(ValueError, match="num_epochs must be 0 or more"):
        FreezePretrained(network, -1)


def test_rates_fall_level_by_level_and_biases_do_not_decay() -> None:
    network = Net()
    groups = finetuning_parameter_groups(network, 1e-2, layer_decay=0.5, weight_decay=0.1)
    rate = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    decay = {id(parameter): group["weight_decay"] for group in groups for parameter in group["params"]}
    assert rate[id(network.head.weight)] == 1e-2
    assert rate[id(network.deep.weight)] == 0.5e-2
    assert rate[id(network.stem.weight)] == rate[id(network.norm.weight)] == 0.25e-2
    assert decay[id(network.stem.weight)] == 0.1
    assert decay[id(network.deep.bias)] == decay[id(network.norm.weight)] == 0
    assert len(rate) == sum(len(group["params"]) for group in groups) == len(list(network.parameters()))
    with pytest.raises(ValueError, match="layer_decay must lie in"):
        finetuning_parameter_groups(network, 1e-2, layer_decay=0)


def test_a_loss_that_is_not_finite_stops_before_the_weights_change() -> None:
    network = Net()
    before = copy.deepcopy(network.state_dict())
    data = batches(1)
    data[0]["image"][0, 0, 0, 0] = torch.nan
    with pytest.raises(FloatingPointError, match="became NaN or infinite at iteration 1"):
        trainer(network, data).run()
    assert torch.equal(network.head.weight, before["head.weight"])


class Fixed(nn.Module):
    """A score that the test sets."""

    def forward(self, image: Tensor) -> Tensor:
        return torch.stack([-image[:, 0], image[:, 0]], dim=1)


def evaluator(scores: list[float]) -> Any:
    given = iter(scores)
    samples = [[{"image": torch.rand(1, 4, 4), "label": torch.zeros(1, 4, 4)}]]
    return FinetuneEvaluator(
        "cpu",
        samples,
        Fixed(),
        SegmentationPredictor(),
        key_val_metric={"val_score": EpochScore(lambda sample: 0.0, lambda parts: {"val_dice": next(given)})},
    )


def test_training_ends_when_validation_stops_improving() -> None:
    engine = trainer(
        Net(), batches(1), max_epochs=9, train_handlers=[ValidateEvery(evaluator([0.1, 0.5, 0.4, 0.5, 0.9]), 1, 2)]
    )
    engine.run()
    assert engine.state.epoch == 4
    assert engine.state.best_validation == 0.5
    assert engine.state.metrics["val_dice"] == 0.5


def test_validation_runs_at_its_interval_and_in_the_last_epoch() -> None:
    seen = []
    found = evaluator([0.1] * 9)
    engine = trainer(Net(), batches(1), max_epochs=5, train_handlers=[ValidateEvery(found, 2)])
    found.add_event_handler(Events.COMPLETED, lambda: seen.append(engine.state.epoch))
    engine.run()
    assert seen == [2, 4, 5]
    for arguments, message in (
        ((None, 1, 3), "early stopping needs validation rows"),
        ((found, 0, 0), "interval must be at least 1"),
    ):
        with pytest.raises(ValueError, match=message):
            ValidateEvery(*arguments)


def test_counted_overlaps_give_monais_dice() -> None:
    from monai.metrics import DiceMetric

    made = torch.Generator().manual_seed(1)
    reference = DiceMetric(include_background=False, reduction="mean_batch", num_classes=3)
    parts = []
    for _ in range(4):
        label = torch.randint(0, 3, (1, 6, 6), generator=made)
        probabilities = torch.rand(3, 6, 6, generator=made)
        parts.append(class_overlap({"label": label, "pred": probabilities}))
        reference(probabilities.argmax(0)[None, None], label[None])
    wanted = reference.aggregate()
    found = mean_dice(parts)
    assert [found["val_dice_1"], found["val_dice_2"]] == pytest.approx(wanted.tolist())
    assert found["val_dice"] == pytest.approx(float(wanted.mean()))


def test_a_class_that_neither_has_is_left_out_and_one_missed_counts_zero() -> None:
    nothing = torch.tensor([[16, 0, 0], [16, 0, 0], [16, 0, 0]])
    missed = torch.tensor([[12, 0, 0], [16, 0, 0], [12, 4, 0]])
    found = mean_dice([nothing, missed])
    assert found["val_dice_1"] == 0
    assert found["val_dice"] == 0
    assert found["val_dice_2"] != found["val_dice_2"]


def test_auc_of_a_perfect_and_of_a_useless_classifier() -> None:
    perfect = [(0, [0.9, 0.1]), (1, [0.2, 0.8]), (1, [0.4, 0.6])]
    assert validation_auc(perfect) == {"val_auc": 1.0, "val_balanced_accuracy": 1.0}
    assert validation_auc([(label, [0.5, 0.5]) for label, _ in perfect])["val_auc"] == 0.5
    assert validation_auc([(0, [0.9, 0.1])])["val_auc"] == 0.5


def test_a_sliding_window_and_one_piece_agree_where_the_network_is_local() -> None:
    network, image = Fixed(), torch.rand(1, 20, 27, 9)
    whole = SegmentationPredictor(None)(image, network)
    windows = SegmentationPredictor((8, 8, 4), overlap=0.5)(image, network)
    torch.testing.assert_close(whole.sum(0), torch.ones(20, 27, 9))
    torch.testing.assert_close(whole, windows, atol=1e-5, rtol=0)
    flipped = SegmentationPredictor((8, 8, 4), flip_axes=(0, 2))(image, network)
    torch.testing.assert_close(whole, flipped, atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="overlap must lie in"):
        SegmentationPredictor(overlap=1)


def test_flips_are_averaged_and_undone() -> None:
    class LeftToRight(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            ramp = torch.linspace(-2, 2, image.shape[-1]).expand_as(image)
            return torch.cat([ramp, -ramp], 1)

    image = torch.rand(1, 4, 6)
    plain = SegmentationPredictor()(image, LeftToRight())
    averaged = SegmentationPredictor(flip_axes=(1,))(image, LeftToRight())
    torch.testing.assert_close(averaged, (plain + plain.flip(2)) / 2)

    class Corner(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torch.stack([image[:, 0, 0, 0], -image[:, 0, 0, 0]], 1)

    found = ClassificationPredictor(flip_axes=(0, 1))(image, Corner())
    corners = image[0][[0, 0, 3, 3], [0, 5, 0, 5]]
    torch.testing.assert_close(found[0], torch.stack([corners, -corners], 1).softmax(1)[:, 0].mean())


def test_detection_batches_keep_their_lists() -> None:
    (images, targets), label = prepare_detection_batch(
        {"image": [torch.zeros(1, 4, 4)], "box": [torch.zeros(0, 4)], "box_label": [torch.zeros(0)]}, "cpu"
    )
    assert label is None
    assert len(images) == len(targets) == 1
    assert targets[0]["box"].shape == (0, 4)
    with pytest.raises(ValueError, match="amp_dtype must be"):
        trainer(Net(), batches(1), amp_dtype="float8")
    with pytest.raises(ValueError, match="accumulation_steps must be"):
        trainer(Net(), batches(1), accumulation_steps=0)

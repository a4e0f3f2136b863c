# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The training step on a network small enough to compute by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from ignite.engine import Events
from monai.data import MetaTensor
from monai.engines.utils import IterationEvents
from monai.handlers import CheckpointLoader, CheckpointSaver, StatsHandler, from_engine
from torch import nn

from monai_cluster.engines import ClusterTrainer, prepare_joint_batch
from monai_cluster.outputs import ClusterOutput, JointOutput


class LinearNet(nn.Module):
    """Two linear maps in the joint network's clothes."""

    def __init__(self) -> None:
        super().__init__()
        self.image, self.volume = nn.Linear(3, 2, bias=False), nn.Linear(3, 2, bias=False)

    def _output(self, layer: nn.Linear, stream: dict | None) -> ClusterOutput | None:
        if stream is None:
            return None
        embeddings = torch.stack([layer(view) for view in stream["views"]])
        return ClusterOutput(embeddings, embeddings)

    def forward(self, images: dict | None, volumes: dict | None) -> JointOutput:
        return JointOutput(self._output(self.image, images), self._output(self.volume, volumes), None)


class SquareLoss(nn.Module):
    """Mean square of the scores, with one diagnostic and the indices it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.diagnostics: dict[str, torch.Tensor] = {}
        self.seen: list[list[int]] = []

    def forward(self, output: ClusterOutput, sample_index: torch.Tensor) -> torch.Tensor:
        self.diagnostics = {"mean_score": output.scores.mean().detach()}
        self.seen.append(sample_index.tolist())
        return output.scores.square().mean()


def make_batches(count: int = 4, volumes: bool = True) -> list[dict]:
    generator = torch.Generator().manual_seed(0)

    def stream(rows: int, step: int) -> dict:
        views = [torch.randn(rows, 3, generator=generator) for _ in range(2)]
        return {"views": views, "sample_index": torch.arange(rows) + 10 * step}

    names = {"images": 4, "volumes": 2} if volumes else {"images": 4}
    return [{name: stream(rows, step) for name, rows in names.items()} for step in range(count)]


def make_trainer(batches: list[dict], epochs: int = 1, lr: float = 0.1, **options: object) -> ClusterTrainer:
    torch.manual_seed(0)
    network = options.pop("network", None) or LinearNet()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=0.9)
    criteria = {"image_criterion": SquareLoss(), "volume_criterion": SquareLoss()} | options
    return ClusterTrainer("cpu", epochs, batches, network, optimizer, **criteria)


def test_one_step_equals_the_step_written_by_hand() -> None:
    batches = make_batches(1)
    trainer = make_trainer(batches, loss_weights={"image": 2.0, "volume": 0.5})
    expected = copy.deepcopy(trainer.network)
    total = 0.0
    for name, weight in (("image", 2.0), ("volume", 0.5)):
        scores = torch.stack([getattr(expected, name)(view) for view in batches[0][f"{name}s"]["views"]])
        total = total + weight * scores.square().mean()
    total.backward()
    trainer.run()
    for ours, theirs in zip(trainer.network.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad)
    assert from_engine(["loss"], first=True)(trainer.state.output) == pytest.approx(total.item())
    assert set(trainer.state.output[0]) == {
        "loss", "image_loss", "volume_loss", "image_mean_score", "volume_mean_score",
    }  # fmt: skip


def test_criteria_get_the_indices_of_their_own_stream() -> None:
    trainer = make_trainer(make_batches(2))
    trainer.run()
    assert trainer.image_criterion.seen == [[0, 1, 2, 3], [10, 11, 12, 13]]
    assert trainer.volume_criterion.seen == [[0, 1], [10, 11]]


def test_a_missing_stream_has_no_loss_and_its_weights_stay() -> None:
    trainer = make_trainer(make_batches(2, volumes=False))
    before = trainer.network.volume.weight.detach().clone()
    trainer.run()
    assert torch.equal(trainer.network.volume.weight, before)
    assert "volume_loss" not in trainer.state.output[0]


def test_accumulating_two_batches_equals_one_step_on_their_mean() -> None:
    batches = make_batches(2)
    accumulated = make_trainer(batches, accumulation_steps=2)
    whole = copy.deepcopy(accumulated.network)
    loss = 0.0
    for batch in batches:
        output = whole(batch["images"], batch["volumes"])
        loss = loss + (output.image.scores.square().mean() + output.volume.scores.square().mean()) / 2
    loss.backward()
    accumulated.run()
    for ours, theirs in zip(accumulated.network.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs - 0.1 * theirs.grad)


def test_gradients_left_over_at_the_end_of_an_epoch_are_used() -> None:
    trainer = make_trainer(make_batches(3), accumulation_steps=2)
    steps = []
    step = trainer.optimizer.step
    trainer.optimizer.step = lambda *args, **kwargs: (steps.append(trainer.state.iteration), step(*args, **kwargs))[1]
    trainer.run()
    assert steps == [2, 3]


def test_clipping_bounds_the_update() -> None:
    trainer = make_trainer(make_batches(1), lr=1.0, max_grad_norm=1e-3)
    before = torch.cat([p.detach().flatten().clone() for p in trainer.network.parameters()])
    trainer.run()
    after = torch.cat([p.detach().flatten() for p in trainer.network.parameters()])
    assert float((after - before).norm()) == pytest.approx(1e-3, rel=1e-3)


@pytest.mark.parametrize("amp_dtype", ["bfloat16", "float16"])
def test_autocast_on_the_cpu_changes_the_forward_precision_and_still_learns(amp_dtype: str) -> None:
    seen = []

    class Watching(LinearNet):
        def forward(self, images: dict | None, volumes: dict | None) -> JointOutput:
            output = super().forward(images, volumes)
            seen.append(output.image.scores.dtype)
            return output

    torch.manual_seed(0)
    network = Watching()
    trainer = make_trainer(make_batches(4), epochs=3, amp=True, amp_dtype=amp_dtype, network=network)
    losses = []
    trainer.add_event_handler(Events.ITERATION_COMPLETED, lambda e: losses.append(e.state.output[0]["loss"]))
    trainer.run()
    assert set(seen) == {getattr(torch, amp_dtype)}
    assert losses[-1] < losses[0] / 2


def test_events_fire_in_monai_order_and_handlers_see_outputs_without_gradient() -> None:
    trainer = make_trainer(make_batches(1))
    order = []
    for event in (
        IterationEvents.FORWARD_COMPLETED, IterationEvents.LOSS_COMPLETED, IterationEvents.BACKWARD_COMPLETED,
        IterationEvents.MODEL_COMPLETED,
    ):  # fmt: skip
        trainer.add_event_handler(event, lambda e, name=event.name: order.append(name))
    trainer.run()
    assert order == ["FORWARD_COMPLETED", "LOSS_COMPLETED", "BACKWARD_COMPLETED", "MODEL_COMPLETED"]
    assert not trainer.state.joint_output.image.scores.requires_grad


def test_a_run_resumed_by_monai_checkpoints_ends_with_the_same_weights(tmp_path) -> None:
    straight = make_trainer(make_batches(), epochs=4)
    straight.run()

    def state(trainer: ClusterTrainer) -> dict:
        return {"network": trainer.network, "optimizer": trainer.optimizer, "trainer": trainer}

    first = make_trainer(make_batches(), epochs=2)
    CheckpointSaver(str(tmp_path), state(first), save_interval=1, n_saved=1).attach(first)
    first.run()
    second = make_trainer(make_batches(), epochs=4)
    file = next(tmp_path.glob("*epoch=2.pt"))
    CheckpointLoader(str(file), state(second), map_location="cpu").attach(second)
    second.run()
    for ours, theirs in zip(second.network.parameters(), straight.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_monai_stats_handler_prints_every_loss(capfd) -> None:
    handler = StatsHandler(name="stats", output_transform=lambda output: output[0])
    trainer = make_trainer(make_batches(1), train_handlers=[handler])
    trainer.run()
    printed = "".join(capfd.readouterr())
    assert "image_loss: " in printed
    assert "volume_loss: " in printed


def test_a_loss_that_is_not_finite_stops_the_run() -> None:
    batches = make_batches(1)
    batches[0]["images"]["views"][0][0, 0] = math.nan
    trainer = make_trainer(batches)
    before = [parameter.detach().clone() for parameter in trainer.network.parameters()]
    with pytest.raises(FloatingPointError, match=r"image_loss became NaN or infinite at iteration 1 \(epoch 1\)"):
        trainer.run()
    assert all(torch.equal(ours, old) for ours, old in zip(trainer.network.parameters(), before, strict=True))


def test_gradients_that_are_not_finite_leave_the_weights_alone() -> None:
    trainer = make_trainer(make_batches(1), max_grad_norm=1.0)
    weight = trainer.network.image.weight
    before = weight.detach().clone()
    weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(FloatingPointError, match="gradients became NaN or infinite at iteration 1"):
        trainer.run()
    assert torch.equal(weight, before)


def test_wrong_arguments_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"unknown terms \['images'\]; the terms are image, volume, mask, slice"):
        make_trainer(make_batches(1), loss_weights={"images": 1.0})
    with pytest.raises(ValueError, match="amp_dtype must be 'bfloat16' or 'float16', got 'half'"):
        make_trainer(make_batches(1), amp_dtype="half")
    with pytest.raises(ValueError, match="accumulation_steps must be at least 1, got 0"):
        make_trainer(make_batches(1), accumulation_steps=0)
    with pytest.raises(ValueError, match="at least one of image_, volume_, mask_ and slice_criterion"):
        make_trainer(make_batches(1), image_criterion=None, volume_criterion=None)
    with pytest.raises(TypeError, match="network_typo"):
        make_trainer(make_batches(1), network_typo=1)


def test_a_batch_for_which_every_term_is_off_is_refused() -> None:
    with pytest.raises(ValueError, match="no loss term applies to this batch"):
        make_trainer(make_batches(1), loss_weights={"image": 0.0, "volume": 0.0}).run()


def test_prepare_batch_strips_metatensors_and_needs_a_stream() -> None:
    batch = {"images": {"views": [MetaTensor(torch.ones(2, 1, 4, 4))], "sample_index": torch.arange(2)}}
    images, volumes = prepare_joint_batch(batch)
    assert volumes is None
    assert type(images["views"][0]) is torch.Tensor
    assert torch.equal(images["views"][0], torch.ones(2, 1, 4, 4))
    with pytest.raises(ValueError, match="needs the key 'images' or 'volumes', got \\['image'\\]"):
        prepare_joint_batch({"image": {}})

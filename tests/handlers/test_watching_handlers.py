# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The handlers that write down how a run goes: metrics file, progress, probe, epoch means."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events

from monai_cluster.handlers import KNNProbe, MetricsJsonl, ProgressBar
from monai_cluster.handlers.epoch_means import EpochMeans


def loss_engine() -> Engine:
    """Each iteration reports the loss that its batch is."""
    return Engine(lambda engine, batch: [{"loss": batch, "image_loss": batch / 2}])


def resume_at(engine: Engine, epoch: int, iteration: int) -> None:
    """Like MONAI's CheckpointLoader: the place is set at STARTED, after other handlers were told of the start."""

    def set_place() -> None:
        engine.state.epoch, engine.state.iteration = epoch, iteration

    engine.add_event_handler(Events.STARTED, set_place)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_epoch_means_average_each_scalar_over_the_iterations_that_reported_it() -> None:
    seen = []
    engine = Engine(lambda engine, batch: [batch])
    means = EpochMeans()
    means.attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(means.means))
    engine.run([{"a": 1.0, "b": 4.0}, {"a": 3.0}, {"a": math.nan, "b": torch.tensor(6.0)}], max_epochs=2)
    assert seen == [{"a": 2.0, "b": 5.0}] * 2


def test_each_epoch_is_one_valid_json_line_with_means_metrics_and_rate(tmp_path: Path) -> None:
    engine = loss_engine()
    engine.optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.25)  # type: ignore[attr-defined]
    engine.add_event_handler(
        Events.EPOCH_COMPLETED, lambda: engine.state.metrics.update(broken=math.nan, rank=torch.tensor(3.0))
    )
    MetricsJsonl(tmp_path / "sub" / "metrics.jsonl").attach(engine)
    engine.run([1.0, 2.0, 6.0], max_epochs=2)
    first, second = lines_of(tmp_path / "sub" / "metrics.jsonl")
    assert (first["epoch"], first["iteration"], second["epoch"], second["iteration"]) == (1, 3, 2, 6)
    assert (first["loss"], first["image_loss"], first["lr"], first["rank"]) == (3.0, 1.5, 0.25, 3.0)
    assert first["broken"] is None
    assert second["time"] >= first["time"] > 1e9
    assert first["epoch_seconds"] >= 0


def test_a_resumed_run_repeats_no_epoch_and_drops_an_unfinished_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    engine = loss_engine()
    MetricsJsonl(path).attach(engine)
    engine.run([1.0], max_epochs=4)
    with path.open("a") as file:
        file.write('{"epoch": 5, "lo')

    resumed = loss_engine()
    MetricsJsonl(path).attach(resumed)
    resume_at(resumed, epoch=2, iteration=2)
    resumed.run([5.0], max_epochs=3)
    assert [(line["epoch"], line["loss"]) for line in lines_of(path)] == [(1, 1.0), (2, 1.0), (3, 5.0)]


def test_progress_counts_the_iterations_of_the_whole_run(capsys: pytest.CaptureFixture[str]) -> None:
    engine = loss_engine()
    bar = ProgressBar(smoothing=1.0, bar=True)
    bar.attach(engine)
    counted = []
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: counted.append((bar._bar.n, bar._bar.total)))
    engine.run([1.0, 2.0], max_epochs=3)
    assert counted == [(i, 6) for i in range(1, 7)]
    shown = capsys.readouterr().err
    assert "epoch 3/3" in shown
    assert "loss=2.0000" in shown


def test_progress_of_a_resumed_run_starts_where_it_left_off() -> None:
    engine = loss_engine()
    bar = ProgressBar(bar=True)
    bar.attach(engine)
    begun = []
    resume_at(engine, epoch=2, iteration=4)
    engine.add_event_handler(Events.ITERATION_COMPLETED, lambda: begun.append((bar._bar.initial, bar._bar.n)))
    engine.run([1.0, 2.0], max_epochs=3)
    assert begun == [(4, 5), (4, 6)]


def test_without_a_terminal_each_epoch_is_one_log_line(caplog: pytest.LogCaptureFixture) -> None:
    engine = loss_engine()
    ProgressBar(bar=False).attach(engine)
    with caplog.at_level(logging.INFO, logger="monai_cluster.handlers.progress_bar"):
        engine.run([1.0, 3.0], max_epochs=2)
    assert len(caplog.messages) == 2
    assert caplog.messages[0].startswith("epoch 1/2: loss 2.0000, image_loss 1.0000, ")
    assert caplog.messages[1].endswith("0:00:00 left")


def test_waiting_for_data_is_counted_as_a_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = {"now": 100.0}
    monkeypatch.setattr("monai_cluster.handlers.progress_bar.time.monotonic", lambda: clock["now"])

    def slow_data() -> Any:
        for _ in range(4):
            clock["now"] += 3.0
            yield 1.0

    def step(engine: Engine, batch: float) -> dict[str, float]:
        clock["now"] += 1.0
        return {"loss": batch}

    engine, bar = Engine(step), ProgressBar(bar=False)
    bar.attach(engine)
    engine.run(slow_data(), max_epochs=1, epoch_length=4)
    assert bar.data_share == pytest.approx(12 / 16)


def test_smoothing_outside_its_range_is_refused() -> None:
    with pytest.raises(ValueError, match="smoothing must be above 0"):
        ProgressBar(smoothing=0.0)


def probe_result(noise: float) -> tuple[torch.Tensor, list[str]]:
    generator = torch.Generator().manual_seed(0)
    labels = [("a", "b", "c", "")[i % 4] for i in range(60)]
    directions = torch.eye(8)[torch.tensor([i % 4 for i in range(60)])]
    return directions + noise * torch.randn(60, 8, generator=generator), labels


def test_probe_finds_planted_classes_and_leaves_out_rows_without_label() -> None:
    engine = loss_engine()
    KNNProbe(lambda: probe_result(0.05), prefix="image_").attach(engine)
    engine.run([1.0])
    names = {"image_knn_accuracy", "image_cluster_nmi", "image_cluster_ari"}
    assert {name: engine.state.metrics[name] for name in names} == dict.fromkeys(names, 1.0)


def test_probe_uses_given_clusters_and_runs_every_so_many_epochs_and_at_the_end() -> None:
    engine, seen = loss_engine(), []

    def embed() -> tuple[Any, ...]:
        embeddings, labels = probe_result(0.05)
        return embeddings, labels, torch.zeros(60, dtype=torch.int64)  # one cluster knows nothing

    KNNProbe(embed, interval=2).attach(engine)
    engine.add_event_handler(Events.EPOCH_COMPLETED, lambda: seen.append(dict(engine.state.metrics)))
    engine.run([1.0], max_epochs=5)
    assert [bool(metrics) for metrics in seen] == [False, True, False, True, True]
    assert seen[1] == {"knn_accuracy": 1.0, "cluster_nmi": 0.0, "cluster_ari": 0.0}


def test_probe_interval_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="interval must be at least 1"):
        KNNProbe(lambda: probe_result(0.1), interval=0)


def test_means_skip_what_other_trainers_report_beside_their_losses() -> None:
    means = EpochMeans()
    engine = Engine(lambda engine, batch: {"image": torch.ones(2, 3), "loss": torch.tensor(float(batch)), "name": "x"})
    means.attach(engine)
    engine.run([1, 3], max_epochs=1)
    assert means._sums == {"loss": 4.0}

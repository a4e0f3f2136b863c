# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Cluster health by hand on planted clusters, and on two ranks equal to one."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from ignite.engine import Engine, Events
from torch import Tensor

from monai_cluster.handlers import ClusterHealth
from monai_cluster.metrics import feature_std, rank_me
from monai_cluster.outputs import ClusterOutput, JointOutput


class Criterion:
    """What the handler reads of a criterion."""

    def __init__(self, num_prototypes: Any = 4) -> None:
        self.num_prototypes = num_prototypes
        self.last_assignments: Tensor | None = None


class ReclusteringCriterion(Criterion):
    def recluster(self) -> None: ...


def watched_engine(criterion: Criterion | None, streams: tuple[str, ...] = ("image",), **options: Any) -> Engine:
    """Each batch brings its sample indices, clusters and embeddings; metrics of each epoch are kept."""

    def step(engine: Engine, batch: dict[str, Any]) -> list[dict[str, float]]:
        stream = batch.get("images") or batch["volumes"]
        clusters, rows = stream.get("clusters"), stream["embeddings"]
        scores = stream.get("scores", torch.zeros(1, len(rows), 4))
        output = ClusterOutput(rows[None], scores)
        engine.state.joint_output = JointOutput(  # type: ignore[attr-defined]
            image=output if "images" in batch else None, volume=output if "volumes" in batch else None, masked=None
        )
        if criterion is not None:
            criterion.last_assignments = clusters
        name = "image" if "images" in batch else "volume"
        return [{"loss": 1.0, f"{name}_loss": 1.0, f"{name}_target_perplexity": float(stream.get("perplexity", 2.0))}]

    engine = Engine(step)
    engine.image_criterion = engine.volume_criterion = criterion  # type: ignore[attr-defined]
    health = ClusterHealth(streams, **options)
    health.attach(engine)
    engine.health, engine.epochs = health, []  # type: ignore[attr-defined]
    engine.add_event_handler(
        Events.EPOCH_COMPLETED,
        lambda: engine.epochs.append(dict(engine.state.metrics)),  # type: ignore[attr-defined]
    )
    return engine


def batch_of(index: list[int], clusters: list[int] | None, key: str = "images", **more: Any) -> dict[str, Any]:
    rows = torch.eye(len(index) + 2)[: len(index)]
    found = None if clusters is None else torch.tensor(clusters)
    return {key: {"sample_index": torch.tensor(index), "clusters": found, "embeddings": rows, **more}}


def test_occupancy_and_perplexity_follow_from_the_cluster_sizes() -> None:
    engine = watched_engine(Criterion(4))
    engine.run([batch_of([0, 1], [0, 0], perplexity=1.0), batch_of([2, 3], [0, 2], perplexity=4.0)])
    (found,) = engine.epochs
    assert found["image_occupancy"] == 0.5
    assert found["image_assignment_perplexity"] == pytest.approx(
        math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    )
    assert found["image_target_perplexity"] == 2.5
    assert "image_churn" not in found
    assert not any(name.startswith("volume") for name in found)


def test_churn_is_the_share_of_samples_met_before_whose_cluster_changed() -> None:
    epochs = iter([[0, 0, 1, 2], [0, 1, 1, 3], [0, 1, 1, 3]])
    engine = watched_engine(Criterion(4))
    engine.run(data=_Epochs([[batch_of([0, 1, 2, 3], next(epochs))] for _ in range(3)]), max_epochs=3, epoch_length=1)
    assert [found.get("image_churn") for found in engine.epochs] == [None, 0.5, 0.0]


def test_a_sample_is_compared_with_when_it_was_last_met_however_long_ago() -> None:
    engine = watched_engine(Criterion(4))
    batches = [[batch_of([0, 9], [1, 2])], [batch_of([4], [0])], [batch_of([0, 9], [1, 3])]]
    engine.run(_Epochs(batches), max_epochs=3, epoch_length=1)
    assert [found.get("image_churn") for found in engine.epochs] == [None, None, 0.5]


def test_clusters_made_anew_churn_only_where_no_renaming_explains_it() -> None:
    batches = [[batch_of([0, 1, 2, 3], [0, 0, 1, 1])], [batch_of([0, 1, 2, 3], [3, 3, 2, 3])]]
    for kind, expected in ((Criterion, 1.0), (ReclusteringCriterion, 0.25)):
        engine = watched_engine(kind(4))
        engine.run(_Epochs(batches), max_epochs=2, epoch_length=1)
        assert engine.epochs[1]["image_churn"] == expected


def test_a_resumed_handler_remembers_the_clusters() -> None:
    first = watched_engine(Criterion(4))
    first.run([batch_of([0, 1], [1, 2])])
    second = watched_engine(Criterion(4))
    second.health.load_state_dict(first.health.state_dict())
    second.run([batch_of([0, 1], [1, 3])])
    assert second.epochs[0]["image_churn"] == 0.5


def test_without_a_criterions_assignments_the_nearest_prototype_of_the_first_head_counts() -> None:
    scores = torch.tensor([[[0.1, 0.9, 5.0, 0.0], [0.3, 0.2, 5.0, 0.0]]])
    for criterion in (None, Criterion((2, 2))):
        engine = watched_engine(criterion)
        engine.run([batch_of([0, 1], None, scores=scores)])
        expected = {"image_occupancy": 0.25, "image_assignment_perplexity": 1.0} if criterion is None else {
            "image_occupancy": 1.0, "image_assignment_perplexity": pytest.approx(2.0)}  # fmt: skip
        assert {name: engine.epochs[0][name] for name in expected} == expected


def test_samples_without_a_cluster_do_not_count() -> None:
    engine = watched_engine(Criterion(4))
    engine.run([batch_of([0, 1, 2], [-1, 3, 3])])
    assert (engine.epochs[0]["image_occupancy"], engine.epochs[0]["image_assignment_perplexity"]) == (0.25, 1.0)


def test_spread_and_rank_are_those_of_the_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(40, 6, generator=generator) + 0.5, dim=1)
    engine = watched_engine(Criterion(4))
    parts = [batch_of([i], [0]) for i in range(4)]
    for i, part in enumerate(parts):
        part["images"] |= {
            "embeddings": rows[10 * i : 10 * i + 10],
            "sample_index": torch.arange(10),
            "clusters": torch.zeros(10, dtype=torch.int64),
            "scores": torch.zeros(1, 10, 4),
        }
    engine.run(parts)
    assert engine.epochs[0]["image_feature_std"] == pytest.approx(feature_std(rows))
    assert engine.epochs[0]["image_rank_me"] == pytest.approx(rank_me(rows), rel=1e-5)
    bounded = watched_engine(Criterion(4), max_rows=15)
    bounded.run(parts)
    assert bounded.epochs[0]["image_rank_me"] == pytest.approx(rank_me(rows[-15:]), rel=1e-5)


def test_a_stream_that_did_not_run_leaves_no_stale_metrics() -> None:
    engine = watched_engine(Criterion(4), ("image", "volume"))
    batches = [[batch_of([0, 1], [0, 1])], [batch_of([0, 1], [0, 1], key="volumes")]]
    engine.run(_Epochs(batches), max_epochs=2, epoch_length=1)
    assert {name.split("_")[0] for name in engine.epochs[0]} == {"image"}
    assert {name.split("_")[0] for name in engine.epochs[1]} == {"volume"}


def test_unknown_streams_and_too_few_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="streams must be some of image, volume, slice"):
        ClusterHealth(("images",))
    with pytest.raises(ValueError, match="max_rows must be at least 2"):
        ClusterHealth(max_rows=1)


class _Epochs:
    """A loader that gives other batches in each epoch."""

    def __init__(self, batches: list[list[dict[str, Any]]]) -> None:
        self.batches = iter(batches)

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        return iter(next(self.batches))


def _health_of_rank(rank: int, share: str) -> list[dict[str, float]]:
    """Two epochs over eight samples; the ranks swap halves in between."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(2, 8, 5, generator=generator), dim=2)
    clusters = torch.randint(0, 4, (2, 8), generator=generator)
    batches = []
    for epoch in range(2):
        half = slice(None) if share == "whole" else slice(4 * (rank ^ epoch), 4 * (rank ^ epoch) + 4)
        index = torch.arange(8)[half]
        batches.append([batch_of([0], [0])])
        batches[-1][0]["images"] |= {
            "sample_index": index,
            "clusters": clusters[epoch][half],
            "embeddings": rows[epoch][half],
            "scores": torch.zeros(1, len(index), 4),
        }
    engine = watched_engine(Criterion(4))
    engine.run(_Epochs(batches), max_epochs=2, epoch_length=1)
    return engine.epochs


def test_two_ranks_with_halves_report_what_one_process_with_all_reports(gloo_pair: Any) -> None:
    expected = _health_of_rank(0, "whole")
    for found in gloo_pair(_health_of_rank, "halves"):
        assert [pytest.approx(epoch) for epoch in expected] == found

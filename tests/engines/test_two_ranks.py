# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Two ranks with half a batch each train as one process with the whole batch."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn

from monai_cluster.engines import ClusterTrainer
from monai_cluster.handlers import NormalizePrototypes, Recluster
from monai_cluster.losses import DeepClusterLoss, SwappedPredictionLoss
from monai_cluster.networks import ClusterHead, DeformableAggregator, JointClusterNet, Prototypes, SliceEncoder

NUM_STEPS, BATCH = 3, 4


class TwoStages(nn.Module):
    """Convolutions without batch norm, whose statistics would differ between half and whole batches."""

    stage_channels = (4, 6)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, x: Tensor) -> list[Tensor]:
        first = torch.relu(self.first(x))
        return [first, torch.relu(self.second(first))]


def make_network() -> JointClusterNet:
    torch.manual_seed(0)
    return JointClusterNet(
        SliceEncoder(TwoStages(), embedding_dim=8, levels=(1, 2)),
        DeformableAggregator(8, 1, 2, 4, 12, dropout=0.0),
        ClusterHead(None, Prototypes(6, 5)),
        ClusterHead(None, Prototypes(8, 3), center=True),
    )


def make_batches() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(1)

    def views(*shape: int) -> list[Tensor]:
        return [torch.randn(BATCH, *shape, generator=generator) for _ in range(2)]

    return [
        {
            "images": {"views": views(1, 8, 8), "sample_index": torch.arange(BATCH) + BATCH * step},
            "volumes": {"views": views(1, 8, 8, 5), "sample_index": torch.arange(BATCH) + BATCH * step},
        }
        for step in range(NUM_STEPS)
    ]


def share(batch: Any, rank: int) -> Any:
    """A rank's half of every tensor of a batch."""
    if isinstance(batch, Tensor):
        return batch[rank * BATCH // 2 : (rank + 1) * BATCH // 2]
    if isinstance(batch, list):
        return [share(item, rank) for item in batch]
    return {key: share(item, rank) for key, item in batch.items()}


def train(rank: int | None, method: str, epochs: int = 2) -> dict[str, Tensor]:
    """Weights and criteria after a run, on one rank of two or alone."""
    network = make_network()
    batches = make_batches() if rank is None else [share(batch, rank) for batch in make_batches()]
    wrapped = network if rank is None else nn.parallel.DistributedDataParallel(network, find_unused_parameters=True)
    total = BATCH * NUM_STEPS
    if method == "swav":
        image = SwappedPredictionLoss(5, 6, queue_length=2 * BATCH, queue_start_epoch=2)
        volume = SwappedPredictionLoss(3, 8)
        handlers: list[Any] = [NormalizePrototypes(network)]
    else:
        image = DeepClusterLoss(total, num_prototypes=[5], embedding_dim=6)
        volume = DeepClusterLoss(total, num_prototypes=[3], embedding_dim=8)
        handlers = [
            Recluster("image", image, network.image_head.prototypes),
            Recluster("volume", volume, network.volume_head.prototypes),
        ]
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(trained, lr=0.05, momentum=0.9)
    ClusterTrainer(
        "cpu", epochs, batches, wrapped, optimizer, image, volume, train_handlers=handlers
    ).run()  # fmt: skip
    return {
        **network.state_dict(),
        **{f"image.{name}": value for name, value in image.state_dict().items()},
        **{f"volume.{name}": value for name, value in volume.state_dict().items()},
    }


def train_on_a_rank(rank: int, method: str) -> dict[str, Any]:
    assert dist.get_world_size() == 2
    assert os.environ["WORLD_SIZE"] == "2"
    return {name: value.numpy() for name, value in train(rank, method).items()}


@pytest.mark.parametrize("method", ["swav", "deepcluster"])
def test_a_whole_run_on_two_ranks_equals_one_process(gloo_pair, method: str) -> None:
    alone = train(None, method)
    start = make_network().state_dict()
    assert any(not torch.equal(alone[name], start[name]) for name in start), "nothing was trained"
    for found in gloo_pair(train_on_a_rank, method):
        assert set(found) == set(alone)
        for name, value in alone.items():
            torch.testing.assert_close(
                torch.as_tensor(found[name]), value, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )

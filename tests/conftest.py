# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Fixtures that every test may use: the real data beside the checkout, and two gloo ranks."""

from __future__ import annotations

import os
import socket
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real images, or a skip that says where it was looked for."""
    root = Path(os.environ.get("MONAI_CLUSTER_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(
            "real data not found: put it beside the checkout in ../shared/data or set MONAI_CLUSTER_SHARED_DATA"
        )
    return root


def _serve(rank: int, port: int, tasks: Any, results: Any) -> None:
    torch.set_num_threads(1)
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    dist.init_process_group("gloo", rank=rank, world_size=2)
    while (task := tasks.get()) is not None:
        function, args = task
        try:
            results.put((rank, True, function(rank, *args)))
        except Exception:
            results.put((rank, False, traceback.format_exc()))
    dist.destroy_process_group()


class GlooPair:
    """Two processes that stay alive for the whole test session and run one function after another."""

    def __init__(self) -> None:
        context = mp.get_context("spawn")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.tasks = [context.SimpleQueue() for _ in range(2)]
        self.results = context.Queue()
        self.processes = [
            context.Process(target=_serve, args=(rank, port, self.tasks[rank], self.results), daemon=True)
            for rank in range(2)
        ]
        for process in self.processes:
            process.start()

    def __call__(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        for queue in self.tasks:
            queue.put((function, args))
        answers = sorted((self.results.get(timeout=240) for _ in range(2)), key=lambda answer: answer[0])
        failed = [f"rank {rank}:\n{value}" for rank, good, value in answers if not good]
        if failed:
            pytest.fail("\n".join(failed))
        return [value for _, _, value in answers]

    def close(self) -> None:
        for queue in self.tasks:
            queue.put(None)
        for process in self.processes:
            process.join(timeout=20)
            process.kill()


@pytest.fixture(scope="session")
def gloo_pair() -> Iterator[GlooPair]:
    """``gloo_pair(function, *args)`` runs ``function(rank, *args)`` on two gloo ranks and returns both results."""
    pair = GlooPair()
    yield pair
    pair.close()

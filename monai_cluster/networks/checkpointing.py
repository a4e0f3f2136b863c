# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Activation checkpointing that leaves batch-norm statistics alone when it recomputes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

__all__ = ["checkpoint_with_batch_norm", "frozen_statistics"]


@contextmanager
def frozen_statistics(module: nn.Module) -> Iterator[None]:
    """Batch norms inside ``module`` use batch statistics as before, but their running ones do not move."""
    norms = [part for part in module.modules() if isinstance(part, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    counts = [None if norm.num_batches_tracked is None else norm.num_batches_tracked.clone() for norm in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0  # running = 1 * running + 0 * batch; None instead would change what autograd saves
        yield
    finally:
        with torch.no_grad():
            for norm, momentum, count in zip(norms, momenta, counts, strict=True):
                norm.momentum = momentum
                if norm.num_batches_tracked is not None and count is not None:
                    norm.num_batches_tracked.copy_(count)


def checkpoint_with_batch_norm(function: Callable[[Tensor], Any], module: nn.Module, x: Tensor) -> Any:
    """Run ``function(x)`` keeping only its input; the backward pass runs it again.

    Without care the second run would update the running statistics of every batch norm a second time.

    Args:
        function: what to run, made of parts of ``module``.
        module: the module that holds the batch norms.
        x: ``N ...``, the input.
    """

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), frozen_statistics(module)

    return checkpoint(function, x, use_reentrant=False, context_fn=contexts)

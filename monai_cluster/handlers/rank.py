# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Which process may write."""

from __future__ import annotations

import torch.distributed as dist

__all__ = ["is_main_process"]


def is_main_process() -> bool:
    """True on rank 0, and where nothing is distributed."""
    return not (dist.is_available() and dist.is_initialized()) or dist.get_rank() == 0

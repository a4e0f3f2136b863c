# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""How the process treats memory that tensors on the CPU have given back."""

from __future__ import annotations

import ctypes
import sys

import torch

__all__ = ["keep_freed_memory"]

# glibc's malloc.h
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4


def keep_freed_memory(device: str | torch.device = "cpu") -> bool:
    """Let the allocator keep freed memory for the next tensor instead of returning it to the system.

    glibc maps every large tensor anew and unmaps it when it dies, so a training step on the CPU spends a good part of
    its time on page faults for activations of the same sizes as in the step before (see docs/benchmarks.md). The peak
    stays; only what lies between the peaks is no longer given back before the process ends.

    Args:
        device: where the training runs; nothing is changed unless this is a CPU, whose tensors this allocator serves.

    Returns:
        Whether it was switched on; False on other devices and other C libraries than glibc.
    """
    if torch.device(device).type != "cpu" or not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # musl has none
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, -1))

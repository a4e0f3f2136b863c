# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Whether PyTorch is recording operations: values cannot be looked at then, and memory layouts do not matter."""

from __future__ import annotations

import torch

__all__ = ["is_recording"]


def is_recording() -> bool:
    """True inside ``torch.jit.trace``, ``torch.export`` and ``torch.compile``; TorchScript must not call it."""
    return bool(torch.jit.is_tracing() or torch.compiler.is_compiling())  # type: ignore

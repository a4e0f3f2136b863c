# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Where bf16 is too coarse: positions, norms and cosine similarities."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["at_least_fp32", "unit_length"]


def at_least_fp32(x: Tensor) -> Tensor:
    """Half precision as float32; float32 and float64 stay."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_length(x: Tensor) -> Tensor:
    """Rows (last axis) at unit length, in float32 or better."""
    return F.normalize(at_least_fp32(x), dim=-1)

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Optimisers that torch and MONAI lack."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .lars import LARC as LARC
    from .lars import LARS as LARS
    from .layer_decay import finetuning_parameter_groups as finetuning_parameter_groups
    from .parameter_groups import branch_parameter_groups as branch_parameter_groups
    from .stage_schedule import StagedWarmupCosine as StagedWarmupCosine

__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "layer_decay": ["finetuning_parameter_groups"],
        "lars": ["LARC", "LARS"],
        "parameter_groups": ["branch_parameter_groups"],
        "stage_schedule": ["StagedWarmupCosine"],
    },
)

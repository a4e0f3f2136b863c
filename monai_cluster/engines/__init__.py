# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The training step, and nothing else: every rule around it is a handler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_cluster._lazy import attach

if TYPE_CHECKING:
    from .cluster_trainer import ClusterTrainer as ClusterTrainer
    from .prepare_batch import prepare_joint_batch as prepare_joint_batch

__getattr__, __dir__, __all__ = attach(
    __name__, {"cluster_trainer": ["ClusterTrainer"], "prepare_batch": ["prepare_joint_batch"]}
)

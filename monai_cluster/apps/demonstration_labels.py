# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The second half of the demo: a segmentation and a detection from the encoder that the first half pretrained."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from monai_cluster.apps.evaluation import evaluate
from monai_cluster.apps.finetuning import finetune
from monai_cluster.data.task_phantoms import write_task_phantoms

__all__ = ["demonstrate_finetuning"]

logger = logging.getLogger(__name__)
COMMON = {"val_interval": 3, "num_workers": 0}
# Small enough for two cores: patches of the volumes; whole images, enlarged, since the lesions are a few pixels wide.
TASKS: dict[str, dict[str, Any]] = {
    "segmentation": {
        "spatial_dims": 3,
        "max_epochs": 6,
        "overrides": COMMON | {"patch_size": [64, 64, 16], "iterations_per_epoch": 35, "learning_rate": 0.003},
    },
    "detection": {
        "spatial_dims": 2,
        "max_epochs": 6,
        "overrides": COMMON | {"image_size": 192, "patch_size": [192, 192], "iterations_per_epoch": 30},
    },
}


def demonstrate_finetuning(root: Path, pretrained: str, seed: int = 0) -> dict[str, dict[str, dict[str, float]]]:
    """Make labelled phantoms, fine-tune on them, score and draw the test split.

    Args:
        root: the demo's folder; ``labelled``, ``segmentation`` and ``detection`` are made in it.
        pretrained: the pretraining run's folder.
        seed: of phantoms and weights.

    Returns:
        ``{task: {score: {"value", "low", "high"}}}``.
    """
    datalist = write_task_phantoms(root / "labelled", num_volumes=20, num_images=96, size=64, seed=seed)
    results = {}
    for task, settings in TASKS.items():
        run = root / task
        finetune(task, str(run), str(datalist), pretrained=pretrained, preset="cpu", seed=seed, **settings)  # type: ignore[arg-type]
        results[task] = evaluate(str(run), str(datalist))
        logger.info("pictures of the %s: %s", task, run / "evaluation" / "pictures")
    return results

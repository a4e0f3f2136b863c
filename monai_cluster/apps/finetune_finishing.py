# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The end of a fine-tuning run: best weights, the model as files, scores and pictures on the validation rows."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from monai_cluster.apps.finetuned import load_finetuned, save_finetuned
from monai_cluster.apps.finetuned_evaluation import evaluate_model
from monai_cluster.apps.output_folder import OutputFolder, is_main_process, stop_log
from monai_cluster.apps.picture_training import draw_training
from monai_cluster.data import Datalist

__all__ = ["finish_finetuning"]

logger = logging.getLogger(__name__)


def finish_finetuning(
    task: str,
    output_dir: str,
    network: nn.Module,
    class_names: Sequence[str],
    preprocessing: Mapping[str, Any],
    prediction: Mapping[str, Any],
    recipe: Mapping[str, Any],
    val_rows: Datalist | None = None,
    label_key: str = "label",
    pictures: bool = True,
) -> None:
    """Save the best weights (the last ones without validation) with their description, then score and draw.

    Args:
        task: segmentation, detection or classification.
        output_dir: the run's folder.
        network: as trained.
        class_names: by number.
        preprocessing: arguments of :func:`~monai_cluster.data.labelled_preprocessing`.
        prediction: arguments of the task's predictor.
        recipe: settings worth keeping beside the weights.
        val_rows: scored at the files' own resolution; None scores nothing.
        label_key: the label's column.
        pictures: draw curves and cases; off only saves.
    """
    if not is_main_process():
        return
    folder = OutputFolder(output_dir)
    best = folder.checkpoints / "best.pt"
    chosen = best.is_file() and val_rows is not None
    if chosen:
        saved = torch.load(best, map_location="cpu", weights_only=True)
        network.load_state_dict(saved.get("network", saved))
    device = str(next(network.parameters()).device)
    path = save_finetuned(folder.model, network, task, class_names, preprocessing, prediction, recipe)
    logger.info("model saved as %s (%s weights)", path, "best" if chosen else "last")
    if pictures:
        logger.info("drew %s", draw_training(folder.metrics, folder.pictures / "training.png"))
        if val_rows is not None and len(val_rows):
            evaluate_model(load_finetuned(path), val_rows, folder.root / "validation", label_key, device=device)
    stop_log()

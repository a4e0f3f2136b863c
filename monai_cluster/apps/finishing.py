# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The end of a pretraining run: export the encoder, draw what it learned."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from torch import nn

from monai_cluster.apps.output_folder import OutputFolder, is_main_process, stop_log
from monai_cluster.apps.run_pictures import draw_run
from monai_cluster.data import Datalist
from monai_cluster.networks import SliceEncoder
from monai_cluster.weights import save_encoder

__all__ = ["finish_pretraining"]

logger = logging.getLogger(__name__)


def finish_pretraining(
    output_dir: str,
    encoder: SliceEncoder,
    aggregator: nn.Module | None,
    datalist: Datalist,
    preprocessing: Mapping[str, Any],
    recipe: Mapping[str, Any],
    pictures: bool = True,
) -> None:
    """Export encoder and aggregator with their side file, then draw the pictures; on rank 0 only.

    Args:
        output_dir: the run's folder.
        encoder: the trained slice encoder.
        aggregator: the trained slice aggregator.
        datalist: what it was trained on; the side file keeps its digest, no names.
        preprocessing: how images and volumes were prepared, see :func:`embed_rows`.
        recipe: settings worth keeping beside the weights.
        pictures: draw; off only exports.
    """
    if not is_main_process():
        return
    folder = OutputFolder(output_dir)
    save_encoder(
        folder.encoder,
        encoder,
        aggregator,
        {"preprocessing": dict(preprocessing), "recipe": dict(recipe), "datalist_digest": datalist.digest()},
    )
    logger.info("encoder exported to %s", folder.encoder)
    if pictures:
        for path in draw_run(folder, encoder, aggregator, datalist, preprocessing):
            logger.info("drew %s", path)
    stop_log()

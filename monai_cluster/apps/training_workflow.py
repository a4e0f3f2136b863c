# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Run a bundle's training from Python: the same workflow as ``python -m monai.bundle run``, with our errors."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from monai.bundle import ConfigWorkflow

from monai_cluster.apps.bundle_files import bundle_root, config_files
from monai_cluster.apps.config_errors import own_errors
from monai_cluster.apps.output_folder import OutputFolder, is_main_process

__all__ = ["run_training"]

PLACES = {"bundle_root", "dataset_dir", "datalist", "output_dir", "ckpt_dir", "pretrained", "_meta_"}


def run_training(
    bundle: str,
    configs: Sequence[str],
    settings: Mapping[str, Any],
    folder: OutputFolder,
    more: Mapping[str, Any] | None = None,
) -> None:
    """Build, initialise, run and finish; what ran is written to the run's folder, without the places where it ran.

    Args:
        bundle: name of a bundle that comes with the package.
        configs: its configuration files, the later ones overriding the earlier.
        settings: override keys.
        folder: the run's.
        more: written beside the configuration.

    Raises:
        Exception: what a component raised, without MONAI's words about where in the configuration it stands.
    """
    workflow = _workflow(bundle, configs, settings)
    with own_errors():
        workflow.initialize()
        if is_main_process():
            kept = {key: value for key, value in workflow.parser.get().items() if key not in PLACES}
            folder.config.write_text(json.dumps({**kept, **(more or {})}, indent=2) + "\n")
        workflow.run()
        workflow.finalize()


def _workflow(bundle: str, configs: Sequence[str], settings: Mapping[str, Any]) -> ConfigWorkflow:
    said = logging.getLogger("monai.bundle.workflows")
    level = said.level
    said.setLevel(logging.ERROR)  # it warns that no logging.conf is read, which is on purpose: the run has its own log
    try:
        return ConfigWorkflow(
            config_file=config_files(bundle, configs),
            meta_file=str(bundle_root(bundle) / "configs" / "metadata.json"),
            logging_file=False,
            workflow_type="train",
            **settings,
        )
    finally:
        said.setLevel(level)

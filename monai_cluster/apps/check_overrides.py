# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Refuse overrides that no configuration of the bundle knows.

MONAI adds an unknown top-level key to the configuration and says nothing: ``--max_epoch 1`` then trains all epochs.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow

from monai_cluster.apps.suggestions import did_you_mean

__all__ = ["check_override_keys", "known_keys", "refuse_unknown_overrides"]

# Set by MONAI's own launcher or allowed by its bundle specification.
MONAI_KEYS = {
    "imports",
    "initialize",
    "run",
    "finalize",
    "meta_file",
    "logging_file",
    "tracking",
    "workflow_type",
    "_meta_",
}


def known_keys(bundle_root: str | Path) -> set[str]:
    """Top-level keys of all configuration files of a bundle (a leading ``+``, MONAI's merge sign, dropped).

    Raises:
        FileNotFoundError: if the folder holds no configuration.
    """
    files = sorted(path for path in Path(bundle_root, "configs").glob("*.json") if path.stem != "metadata")
    if not files:
        raise FileNotFoundError(
            f"no configuration file in {Path(bundle_root, 'configs')}: set bundle_root to the bundle's folder."
        )
    keys: set[str] = set(MONAI_KEYS)
    for file in files:
        keys |= {key.lstrip("+").replace("::", "#").split("#")[0] for key in json.loads(file.read_text())}
    return keys


def check_override_keys(config: Mapping[str, Any], bundle_root: str | Path) -> None:
    """Compare a configuration's top-level keys with those that the bundle's files define.

    Raises:
        ValueError: naming every unknown key and the nearest known one.
    """
    known = known_keys(bundle_root)
    unknown = [key for key in config if key not in known]
    if unknown:
        hints = "; ".join(f"{key!r}{did_you_mean(key, known - MONAI_KEYS)}" for key in unknown)
        raise ValueError(f"unknown configuration key {hints}")


def refuse_unknown_overrides(bundle_root: str | Path) -> None:
    """The same check from inside a bundle, first in its ``initialize``.

    An expression in a configuration cannot see the configuration that holds it, so the running workflow is looked up
    among the callers: MONAI evaluates ``initialize`` from a method of :class:`monai.bundle.ConfigWorkflow`.

    Raises:
        ValueError: for unknown keys, or where no workflow is running.
    """
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, ConfigWorkflow):
            check_override_keys(caller.parser.get(), bundle_root)
            return
        frame = frame.f_back
    raise ValueError(
        "refuse_unknown_overrides belongs in the `initialize` of a bundle run by monai.bundle; no workflow is running."
    )

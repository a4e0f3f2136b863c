# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Run the checks over a corpus of malformed and hostile inputs: one case in, one verdict out."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from monai_cluster.data import load_datalist
from monai_cluster.data.readers import read_image, read_volume
from monai_cluster.integrity.archives import inspect_archive
from monai_cluster.integrity.bundle_configs import inspect_bundle
from monai_cluster.integrity.findings import Inspection
from monai_cluster.integrity.items import inspect_item
from monai_cluster.integrity.lists import inspect_datalist
from monai_cluster.integrity.pairs import inspect_pair
from monai_cluster.integrity.weights_files import inspect_weights

__all__ = ["check"]


def check(case: Mapping[str, Any], root: Path) -> dict[str, Any]:
    """Inspect one case, and read it with the package's own reader where it was not refused.

    Args:
        case: ``path`` below ``root`` and ``mode``: ``3d``, ``2d``, ``series``, ``pair`` (with ``label``), ``datalist``
            (with ``root`` and ``task``), ``weights``, ``bundle`` (with ``config``, ``argv`` and ``untrusted``) or
            ``archive``.
        root: folder of the corpus.

    Returns:
        ``verdict``; ``message`` with the rejecting findings; ``warnings``; ``array`` of an image or volume; ``n`` rows.

    Raises:
        ValueError: for an unknown mode.
    """
    inspection = _inspect(case, root)
    texts = {kind: [str(one) for one in inspection.findings if one.severity == kind] for kind in ("reject", "warn")}
    result: dict[str, Any] = {
        "verdict": inspection.verdict,
        "message": " | ".join(texts["reject"]),
        "warnings": texts["warn"],
        "array": None,
        "n": None,
    }
    if inspection.verdict != "reject":
        result.update(_read(case, root))
    return result


def _inspect(case: Mapping[str, Any], root: Path) -> Inspection:
    path, mode = os.path.join(root, case["path"]), case["mode"]
    if mode in ("3d", "series"):
        return inspect_item(path, "volume")
    if mode == "2d":
        return inspect_item(path, "image")
    if mode == "pair":
        return inspect_pair(path, os.path.join(root, case["label"]), case.get("classes"))
    if mode == "datalist":
        return inspect_datalist(path, root / case["root"], case.get("task"))
    if mode == "weights":
        return inspect_weights(path)
    if mode == "archive":
        return inspect_archive(path)
    if mode == "bundle":
        return inspect_bundle(path, case["config"], case.get("argv", ()), trusted=not case.get("untrusted", False))
    raise ValueError(f"mode must be one of 3d, 2d, series, pair, datalist, weights, bundle, archive, got {mode!r}")


def _read(case: Mapping[str, Any], root: Path) -> dict[str, Any]:
    path, mode = os.path.join(root, case["path"]), case["mode"]
    if mode in ("3d", "series", "pair"):
        return {"array": read_volume(path).numpy()}
    if mode == "2d":
        return {"array": read_image(path).numpy()}
    if mode == "datalist":
        return {"n": len(load_datalist(path, base_dir=root / case["root"]))}
    return {}

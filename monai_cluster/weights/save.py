# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Save an encoder and its aggregator so that they can be rebuilt, checked and passed on."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import monai
import torch
from safetensors.torch import save_file
from torch import nn

from monai_cluster.networks.slice_encoder import SliceEncoder
from monai_cluster.version import __version__

from .checkpoint_files import ENCODER_FILE

__all__ = ["FORMAT", "save_encoder", "weights_path"]

FORMAT = "monai_cluster encoder 1"
_PATH = re.compile(r"^(/|~|\.\.?/|[A-Za-z]:[\\/]|\\\\|file:)")
_IDENTIFIERS = {
    "subject",
    "patient",
    "patient_id",
    "patientid",
    "patient_name",
    "patientname",
    "birth_date",
    "accession",
}


def weights_path(path: str | Path) -> Path:
    """The safetensors file meant by a file or folder name."""
    path = Path(path)
    return path if path.suffix == ".safetensors" else path / ENCODER_FILE


def save_encoder(
    out_path: str | Path,
    encoder: SliceEncoder,
    aggregator: nn.Module | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``encoder.safetensors`` and ``encoder.json`` beside it, each as a whole or not at all.

    The JSON file holds what rebuilds both modules, the versions of monai_cluster, MONAI and torch, the weights' sha256,
    and the given metadata.

    Args:
        out_path: a folder, or a file name that ends in ``.safetensors``.
        encoder: the slice encoder.
        aggregator: the slice aggregator, where there is one.
        metadata: ``preprocessing``, ``recipe``, ``datalist_sha256``, …; JSON values, no paths, no identifiers.

    Returns:
        the safetensors file's path.

    Raises:
        ValueError: if the metadata holds a path, an identifier or what JSON cannot hold, or weights are not finite.
    """
    metadata = dict(metadata or {})
    _check_metadata(metadata, "metadata")
    tensors = {f"slice_encoder.{name}": value for name, value in encoder.state_dict().items()}
    if aggregator is not None:
        tensors |= {f"slice_aggregator.{name}": value for name, value in aggregator.state_dict().items()}
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{broken[0]} and {len(broken) - 1} more hold NaN or infinite weights: the training broke down."
        )
    plain = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    target = weights_path(out_path)
    target.parent.mkdir(parents=True, exist_ok=True)
    _replace(target, lambda unfinished: save_file(plain, unfinished, metadata={"format": "pt"}))
    side = {
        "format": FORMAT,
        "architecture": {"slice_encoder": encoder.architecture(), "slice_aggregator": _architecture(aggregator)},
        "metadata": metadata,
        "versions": {"monai_cluster": __version__, "monai": monai.__version__, "torch": torch.__version__},
        "sha256": sha256_of(target),
    }
    text = json.dumps(side, indent=2, sort_keys=True, allow_nan=False)
    _replace(target.with_suffix(".json"), lambda unfinished: unfinished.write_text(text + "\n", encoding="utf-8"))
    return target


def sha256_of(path: Path) -> str:
    """A file's sha256 in hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _architecture(aggregator: nn.Module | None) -> dict[str, Any] | None:
    if aggregator is None:
        return None
    arguments: dict[str, Any] = getattr(aggregator, "architecture", dict)()
    return {"type": type(aggregator).__name__} | arguments


def _replace(target: Path, write: Callable[[Path], Any]) -> None:
    """Write beside the target, then put it in its place, so that a crash leaves the old file."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    unfinished = Path(name)
    try:
        write(unfinished)
        unfinished.chmod(0o644)
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _check_metadata(value: Any, place: str) -> None:
    """Refuse what would leak where the data lay or whose it was."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                raise ValueError(f"{place} has the key {key!r}: JSON keys are text.")
            if key.lower() in _IDENTIFIERS:
                raise ValueError(
                    f"{place} has the key {key!r}, an identifier: leave it out, the file may be passed on."
                )
            _check_metadata(item, f"{place}.{key}")
    elif isinstance(value, (list, tuple)):
        for number, item in enumerate(value):
            _check_metadata(item, f"{place}[{number}]")
    elif isinstance(value, Path) or (isinstance(value, str) and _PATH.match(value)):
        raise ValueError(f"{place} is the path {str(value)!r}: leave it out, the file may be passed on.")
    elif not isinstance(value, (str, int, float, bool, type(None))):
        raise ValueError(f"{place} is a {type(value).__name__}: use text, numbers, lists and dictionaries.")
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{place} is {value}: JSON has no such number, use null.")

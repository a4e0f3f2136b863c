# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A network as TorchScript: one file that runs without this package, and without Python."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from monai.data import load_net_with_metadata, save_net_with_metadata
from torch import Tensor, nn

from .export import _report, _written
from .round_trip import frozen_copy, other_sizes, require_agreement

__all__ = ["export_torchscript"]


def export_torchscript(
    network: nn.Module, example: Tensor, path: str | Path, description: Mapping[str, Any] | None = None
) -> Path:
    """Compile with ``torch.jit.script``, so that sizes stay free, and save.

    Args:
        network: in any mode; what is saved is in evaluation mode, in float32 on the CPU.
        example: one batch, ``B C H W`` or ``B C H W S``; other batch sizes and lengths are compared too.
        path: the file, such as ``model.ts``.
        description: JSON values that travel inside the file, for ``monai.data.load_net_with_metadata``.

    Returns:
        the file's path.

    Raises:
        TypeError: if TorchScript cannot compile the network, such as a detector.
        ValueError: if outputs are not finite.
        RuntimeError: if what is read back does not compute the same.
    """
    frozen = frozen_copy(network)
    try:
        scripted = torch.jit.script(frozen)
    except Exception as error:  # the compiler raises whatever it stumbles over
        raise TypeError(
            f"TorchScript cannot compile {type(network).__name__} ({str(error).strip().splitlines()[0]}): choose "
            "another format; a detector goes as safetensors or bundle."
        ) from error

    saved = io.BytesIO()
    save_net_with_metadata(scripted, saved, include_config_vals=False, meta_values=dict(description or {}))

    def write(unfinished: Path) -> None:
        _write_without_sources(saved, unfinished)
        reread = load_net_with_metadata(str(unfinished), torch.device("cpu"))[0]
        _report(path, require_agreement(frozen, reread, [example, *other_sizes(frozen, example)], "TorchScript"))

    return _written(path, write)


def _write_without_sources(saved: io.BytesIO, path: Path) -> None:
    """Leave out the records of where the source code lay: paths of the machine that exported, for error messages."""
    with zipfile.ZipFile(saved) as read, zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as written:
        for record in read.infolist():
            if not record.filename.endswith(".debug_pkl"):
                written.writestr(zipfile.ZipInfo(record.filename), read.read(record))

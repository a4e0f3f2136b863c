# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Weights from somebody else: safetensors and torch checkpoints, judged without loading or unpickling them."""

from __future__ import annotations

import os

from .byte_stream import open_regular, refuse
from .findings import Inspection
from .guarding import guarded
from .limits import Limits
from .pickle_scan import FIX, RULE
from .safetensors_files import check_safetensors
from .torch_zip import check_torch_zip

__all__ = ["inspect_weights"]

CHECKPOINT_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")


def inspect_weights(path: str | os.PathLike[str], limits: Limits | None = None) -> Inspection:
    """Judge a file of weights before torch sees it. Never raises for what the file holds.

    Findings: PICKLE (code would run), HEADER, TRUNCATED, TRAILING, CORRUPT, TOO_LARGE, NONFINITE, PHI, CONTAINER,
    EMPTY and those of ``open_regular``.

    Args:
        path: a ``.safetensors`` file or a checkpoint of ``torch.save`` (``.pt``, ``.pth``, ``.ckpt``).
        limits: compressed checkpoints may not unpack to more than ``max_decoded_bytes``.
    """
    limits, inspection = limits or Limits(), Inspection()
    inspection.facts.kind = "weights"
    with guarded(inspection):
        with open_regular(path) as file:
            head = file.read(16)
        suffix = os.path.splitext(os.fspath(path))[1].lower()
        if suffix == ".safetensors":
            if head[:4] == b"PK\x03\x04":
                found = "a zip archive under the name of safetensors"
                raise refuse("CONTAINER", "suffix and content must agree", found, "rename it, or export it again")
            check_safetensors(path, limits, inspection)
        elif head[:2] == b"PK":
            check_torch_zip(path, limits, inspection)
        elif head[:1] == b"\x80" or suffix in CHECKPOINT_SUFFIXES:
            found = "a bare (legacy) pickle, or a file that is no zip archive at all (corrupt?)"
            raise refuse("PICKLE", RULE, found, FIX)
        else:
            found = "a file that is neither safetensors nor a checkpoint of torch"
            raise refuse("CONTAINER", "weights must be safetensors or a torch checkpoint", found, "export them again")
    return inspection

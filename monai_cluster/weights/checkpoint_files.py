# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Reading other people's checkpoint files without running anything in them."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

__all__ = ["read_tensors"]

ENCODER_FILE = "encoder.safetensors"

# Plain values that training scripts leave beside the weights: an argument namespace (DINO), NumPy numbers (VISSL).
_NUMPY_SCALAR: Any = np.float64(0).__reduce__()[0]
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *((_NUMPY_SCALAR, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")),  # before and since NumPy 2
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")),
]


def read_tensors(source: str | Path | Mapping[str, Any]) -> tuple[str, dict[str, Tensor]]:
    """All tensors of a checkpoint under flat names, whatever they are wrapped in.

    ``{"state_dict": {"module.conv1.weight": …}}`` becomes ``{"state_dict.module.conv1.weight": …}``.

    Args:
        source: a safetensors or PyTorch file, a folder that holds ``encoder.safetensors``, or a (nested) state dict.

    Returns:
        the file's name ("state dict" for a dictionary) and the tensors, on the CPU.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be read safely or holds no tensor.
    """
    if isinstance(source, Mapping):
        name, content = "state dict", source
    else:
        path = Path(source)
        path = path / ENCODER_FILE if path.is_dir() else path
        if not path.is_file():
            raise FileNotFoundError(
                f"no weights file {path}: give a .safetensors, .pt or .pth file, or our export folder."
            )
        name, content = path.name, _read(path)
    tensors = dict(_flatten(content, ""))
    if not tensors:
        raise ValueError(f"{name} holds no tensors: give a file with a state dict.")
    return name, tensors


def _read(path: Path) -> Mapping[str, Any]:
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path.name} is no safetensors file, or is cut off ({error}): fetch it again.") from error
    try:
        with torch.serialization.safe_globals(_HARMLESS):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{path.name} holds more than tensors and plain values, and loading those could run code: where you trust "
            f"the file, load it and save only its state dict. PyTorch said: {str(error).splitlines()[0]}"
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise ValueError(f"{path.name} is no PyTorch file, or is cut off ({error}): fetch it again.") from error
    if not isinstance(content, Mapping):
        raise ValueError(f"{path.name} holds a {type(content).__name__}, not a state dict: save model.state_dict().")
    return content


def _flatten(content: Mapping[Any, Any], prefix: str) -> Iterator[tuple[str, Tensor]]:
    for key, value in content.items():
        if isinstance(value, Tensor):
            yield f"{prefix}{key}", value
        elif isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A network as ONNX, checked with ONNX Runtime. Needs the extra ``monai-cluster[onnx]``."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import inspect
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .export import _report, _written
from .onnx_translations import onnx_translations
from .round_trip import frozen_copy, other_sizes, require_agreement, tensors_of

__all__ = ["export_onnx"]

EXTRA = ("onnx", "onnxscript", "onnxruntime")
AXES = ("batch", "channels", "height", "width", "slices")


def export_onnx(
    network: nn.Module,
    example: Tensor,
    path: str | Path,
    dynamic: bool = True,
    description: Mapping[str, Any] | None = None,
) -> Path:
    """Record the network as one ONNX file with the input ``image`` and the output ``pred``.

    Args:
        network: takes one batch and gives one tensor (several are called ``pred_0``, ``pred_1``, …).
        example: ``B C H W`` or ``B C H W S``.
        path: the file, such as ``model.onnx``.
        dynamic: leave height, width and slices free; False fixes them to the example's. The batch is always free.
        description: JSON values, kept as text in the model's metadata under ``description``.

    Returns:
        the file's path.

    Raises:
        ImportError: where the extra is not installed.
        TypeError: if the network cannot be recorded, such as a detector.
        ValueError: if outputs are not finite.
        RuntimeError: if ONNX Runtime does not compute the same, also for other sizes where they are free.
    """
    missing = [name for name in EXTRA if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f"ONNX needs {', '.join(missing)}: pip install 'monai-cluster[onnx]'.")
    frozen = frozen_copy(network)
    with torch.no_grad():
        names = [f"pred_{number}" for number in range(len(tensors_of(frozen(example))))]
    program = _record(frozen, example, names if len(names) > 1 else ["pred"], dynamic)
    _strip(program, description)
    examples = [example, *other_sizes(frozen, example)] if dynamic else [example, example[:1]]

    def write(unfinished: Path) -> None:
        program.save(str(unfinished), external_data=False)
        _report(path, require_agreement(frozen, _session(unfinished), examples, "ONNX"))

    return _written(path, write)


def _record(network: nn.Module, example: Tensor, names: list[str], dynamic: bool) -> Any:
    """``torch.onnx.ONNXProgram`` of the network with free axes."""
    # torch.export takes a length of one for a constant.
    lasting = [2 if length == 1 and axis != 1 else 1 for axis, length in enumerate(example.shape)]
    free = {axis: AXES[axis] for axis in range(example.ndim) if axis == 0 or (dynamic and axis > 1)}
    argument = next(iter(inspect.signature(network.forward).parameters))
    try:
        with _quietly("torch.onnx", "onnxscript", "onnx_ir"), torch.no_grad():
            return torch.onnx.export(
                network,
                (example.repeat(lasting),),
                input_names=["image"],
                output_names=names,
                dynamic_shapes={argument: free},
                custom_translation_table=onnx_translations(),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:  # the exporter raises whatever it stumbles over
        first: BaseException = error
        while first.__cause__ is not None:
            first = first.__cause__
        reason = f"{type(first).__name__}: {first}".splitlines()[0]
        raise TypeError(
            f"{type(network).__name__} cannot be recorded as ONNX ({reason}): "
            + ("try dynamic=False, or another format." if dynamic else "choose another format.")
        ) from error


def _strip(program: Any, description: Mapping[str, Any] | None) -> None:
    """Take out the stack traces, which hold the paths of the machine that exported, and put the description in."""
    graphs = [program.model.graph, *(function.graph for function in program.model.functions.values())]
    for graph in graphs:
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
        for value in (*graph.inputs, *graph.initializers.values()):
            value.metadata_props.clear()
    program.model.metadata_props.clear()
    if description is not None:
        program.model.metadata_props["description"] = json.dumps(description, sort_keys=True, allow_nan=False)


def _session(path: Path) -> Callable[[Tensor], list[Tensor]]:
    """The file in ONNX Runtime as a function of one batch."""
    runtime: Any = importlib.import_module("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), 3
    session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: [torch.from_numpy(found) for found in session.run(None, {"image": image.numpy()})]


@contextlib.contextmanager
def _quietly(*names: str) -> Iterator[None]:
    """Without the exporter's hundreds of lines about its rewriting, and warnings about libraries not needed here."""
    logs = [logging.getLogger(name) for name in names]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)

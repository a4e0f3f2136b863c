# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Operations that PyTorch's ONNX exporter gets wrong or does not know."""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable
from typing import Any

import torch

__all__ = ["onnx_translations"]


def onnx_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """For ``custom_translation_table`` of ``torch.onnx.export``, as of PyTorch 2.13; needs onnxscript.

    Without them the networks of this package are not exported, or with outputs of another size.
    """
    op: Any = importlib.import_module("onnxscript").opset18

    def floordiv(first: Any, second: Any) -> Any:
        """Rounds down; the exporter's rounds towards zero, so that ``-(-length // 32)`` comes out one too small."""
        return op.Div(op.Sub(first, op.Mod(first, second)), second)

    def copysign(size: Any, sign: Any) -> Any:
        """The exporter has none. One over minus zero is minus infinity, which shows its sign."""
        zero = op.CastLike(0.0, sign)
        sign = op.Where(op.Equal(sign, zero), op.Reciprocal(sign), sign)
        return op.Where(op.Less(sign, zero), op.Neg(op.Abs(size)), op.Abs(size))

    def repeat_interleave(values: Any, repeats: Any, dim: int | None = None, output_size: Any = None) -> Any:
        """The exporter's repeats the wrong axis where the number of repeats depends on the size of the input."""
        if dim is None:
            values, rank, dim = op.Reshape(values, [-1]), 1, 0
        else:
            rank = len(values.shape)
            dim %= rank
        number = op.Constant(value_ints=[repeats]) if isinstance(repeats, int) else op.Reshape(repeats, [-1])
        before, after = op.Constant(value_ints=[1] * (dim + 1)), op.Constant(value_ints=[1] * (rank - dim - 1))
        repeated = op.Expand(op.Unsqueeze(values, [dim + 1]), op.Concat(before, number, after, axis=0))
        shape = op.Concat(
            op.Shape(values, end=dim), op.Constant(value_ints=[-1]), op.Shape(values, start=dim + 1), axis=0
        )
        return op.Reshape(repeated, shape)

    return {
        operator.floordiv: floordiv,
        torch.ops.aten.copysign.Tensor: copysign,
        torch.ops.aten.repeat_interleave.self_int: repeat_interleave,
    }

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Parts of a network as values that JSON can hold."""

from __future__ import annotations

from typing import Any

from torch import nn

__all__ = ["describe_part"]


def describe_part(part: nn.Module) -> dict[str, Any]:
    """The part's class name as ``type`` beside the arguments that build it again.

    Raises:
        TypeError: if the part has no ``architecture()``.
    """
    architecture = getattr(part, "architecture", None)
    if architecture is None:
        raise TypeError(
            f"{type(part).__name__} has no architecture(): give the class a method that returns its constructor's "
            "arguments, so that a saved network can be built again."
        )
    return {"type": type(part).__name__, **architecture()}

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The pictures that a run leaves behind, one function each."""

from __future__ import annotations

from .picture_attention import draw_attention
from .picture_curves import draw_curves
from .picture_map import draw_embedding_map
from .picture_neighbours import draw_neighbours

__all__ = ["draw_attention", "draw_curves", "draw_embedding_map", "draw_neighbours"]

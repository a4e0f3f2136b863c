# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The pictures that a run leaves behind, one function each."""

from __future__ import annotations

from .picture_attention import draw_attention
from .picture_cases import draw_cases
from .picture_confusion import draw_confusion
from .picture_curves import draw_curves
from .picture_fewlabel import FewLabelPoint, draw_fewlabel
from .picture_froc import draw_froc
from .picture_map import draw_embedding_map
from .picture_neighbours import draw_neighbours
from .scored_case import ScoredCase, worst_median_best

__all__ = [
    "FewLabelPoint",
    "ScoredCase",
    "draw_attention",
    "draw_cases",
    "draw_confusion",
    "draw_curves",
    "draw_embedding_map",
    "draw_fewlabel",
    "draw_froc",
    "draw_neighbours",
    "worst_median_best",
]

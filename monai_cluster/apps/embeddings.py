# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Embeddings of a datalist in one file: images, slices and volumes, each with its ids."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Embeddings", "load_embeddings"]

Array = npt.NDArray[Any]
FORMAT = "monai_cluster embeddings 1"


@dataclass
class Embeddings:
    """Arrays of one datalist's embeddings; rows of one prefix belong together.

    Attributes:
        image_features: ``N F``, last stage pooled.
        image_embedding: ``N D``, multi-level slice embedding.
        image_sample_index: ``N``, the datalist's stable index.
        volume_embedding: ``N D``, the aggregator's, unit norm.
        volume_features: ``N F``, mean of the slices' last-stage features.
        volume_sample_index: ``N``.
        slice_embedding: ``M D``, of all embedded slices of all volumes.
        slice_sample_index: ``M``, the index of the volume it belongs to.
        slice_index: ``M``, index in the source volume.
        slice_position_mm: ``M``, along the slice normal.
        columns: per level (``image``, ``volume``) the datalist's columns as text arrays, such as ``label``; missing
            is "".
    """

    image_features: Array
    image_embedding: Array
    image_sample_index: Array
    volume_embedding: Array
    volume_features: Array
    volume_sample_index: Array
    slice_embedding: Array
    slice_sample_index: Array
    slice_index: Array
    slice_position_mm: Array
    columns: dict[str, dict[str, Array]] = field(default_factory=dict)

    def column(self, level: str, name: str) -> Array:
        """A column of the datalist at a level.

        Raises:
            KeyError: if the datalist has no such column there, with those it has.
        """
        known = self.columns.get(level, {})
        if name not in known:
            raise KeyError(f"the {level} rows have no column {name!r}; they have: {', '.join(sorted(known)) or 'none'}")
        return known[name]

    def save(self, path: str | Path) -> Path:
        """Write everything to one ``.npz`` file that loads without pickle; replaced as a whole or not at all."""
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        arrays = {item.name: getattr(self, item.name) for item in fields(self) if item.name != "columns"}
        for level, columns in self.columns.items():
            arrays |= {f"column/{level}/{name}": values for name, values in columns.items()}
        unfinished = target.with_name(target.name + ".tmp.npz")
        np.savez_compressed(unfinished, format=np.array(FORMAT), **arrays)
        unfinished.replace(target)
        return target


def load_embeddings(path: str | Path) -> Embeddings:
    """Read what :meth:`Embeddings.save` wrote.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file was not written by :meth:`Embeddings.save`.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no embeddings file {path}: write one with `monai-cluster embed`.")
    with np.load(path, allow_pickle=False) as archive:
        if "format" not in archive.files or str(archive["format"]) != FORMAT:
            raise ValueError(f"{path} is no embeddings file of this version (expected format {FORMAT!r}).")
        plain = {name: archive[name] for name in archive.files if name != "format" and not name.startswith("column/")}
        columns: dict[str, dict[str, Array]] = {}
        for name in archive.files:
            if name.startswith("column/"):
                _, level, column = name.split("/", 2)
                columns.setdefault(level, {})[column] = archive[name]
    return Embeddings(**plain, columns=columns)

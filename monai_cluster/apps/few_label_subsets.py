# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Nested sets of labelled patients."""

from __future__ import annotations

from typing import Any

import numpy as np

from monai_cluster.data import Datalist
from monai_cluster.keys import ClusterKeys as Keys

__all__ = ["labelled_subset"]


def labelled_subset(pool: Datalist, num_patients: int, seed: int, how: str = "drawn") -> list[dict[str, Any]]:
    """The rows of so many patients; with one seed, fewer patients are always among the more.

    Args:
        pool: rows with ``subject``.
        num_patients: 0 stands for all.
        seed: of the order of patients.
        how: ``drawn`` in the seed's order, or in the order in which they are ``listed``.

    Raises:
        ValueError: for more patients than there are.
    """
    names = list(dict.fromkeys(str(row[Keys.SUBJECT]) for row in pool.rows))
    if num_patients < 0 or num_patients > len(names):
        raise ValueError(f"numbers of patients must lie in 0..{len(names)} (0 for all), got {num_patients}.")
    if how == "drawn":
        names = [names[place] for place in np.random.default_rng(seed).permutation(len(names))]
    chosen = set(names[:num_patients] if num_patients else names)
    return [row for row in pool.rows if str(row[Keys.SUBJECT]) in chosen]

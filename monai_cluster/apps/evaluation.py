# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""How good frozen embeddings are: kNN and linear probe on any column of a labelled datalist."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from monai_cluster.apps.embedding import embed_datalist
from monai_cluster.apps.embeddings import Embeddings
from monai_cluster.data import Datalist, load_datalist
from monai_cluster.metrics import knn_accuracy, linear_probe

__all__ = ["evaluate", "probe_embeddings"]

REPRESENTATIONS = {
    "image": {"features": "image_features", "embedding": "image_embedding"},
    "volume": {"aggregator": "volume_embedding", "mean of slice features": "volume_features"},
}


def evaluate(
    weights: str,
    data: str,
    label: str = "label",
    out: str | None = None,
    level: Literal["image", "volume"] = "volume",
    train_split: str = "training",
    test_split: str = "test",
    baseline: bool = True,
    device: str | None = None,
    num_workers: int = 0,
    num_neighbours: int = 20,
    seed: int = 0,
) -> dict[str, dict[str, float]]:
    """kNN and linear probe of a pretrained encoder, and of the same encoder without training.

    Args:
        weights: run folder or exported ``encoder.safetensors``.
        data: datalist with two splits and a label column.
        label: the column to predict.
        out: JSON file for the results; None only returns them.
        level: ``image`` or ``volume`` rows.
        train_split: rows the probes learn from.
        test_split: rows the probes are scored on.
        baseline: probe an untrained encoder of the same architecture as well.
        device: such as ``cpu`` or ``cuda``.
        num_workers: reading processes.
        num_neighbours: of the kNN vote.
        seed: of the untrained encoder and the probe's folds.

    Returns:
        ``{"pretrained: features": {"knn_accuracy": ..., "linear_accuracy": ..., ...}, "untrained: features": ...}``.

    Raises:
        FileNotFoundError: for missing weights or data.
        KeyError: if the rows have no such label column.
        ValueError: if a split has no rows of this level.
    """
    results: dict[str, dict[str, float]] = {}
    for name, untrained in (("pretrained", None), ("untrained", seed))[: 2 if baseline else 1]:
        splits = [
            embed_datalist(weights, rows, device, num_workers, untrained_seed=untrained)
            for rows in (_rows_of(data, split, level) for split in (train_split, test_split))
        ]
        probes = probe_embeddings(splits[0], splits[1], label, level, num_neighbours, seed)
        results |= {f"{name}: {representation}": values for representation, values in probes.items()}
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        Path(out).write_text(json.dumps({"label": label, "level": level, "results": results}, indent=2) + "\n")
    for name, values in results.items():
        shown = ", ".join(f"{key} {value:.3f}" for key, value in values.items() if key.endswith(("accuracy", "auc")))
        logging.getLogger(__name__).info("%s (%s, n = %d): %s", name, level, values["num_test"], shown)
    return results


def _rows_of(data: str, split: str, level: str) -> Datalist:
    """The rows of one level alone: the others need no embedding."""
    rows = load_datalist(data, split=split)
    return replace(rows, volumes=[]) if level == "image" else replace(rows, images=[])


def probe_embeddings(
    train: Embeddings, test: Embeddings, label: str, level: str, num_neighbours: int = 20, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Probe every representation of a level; rows without the label are left out and counted.

    kNN runs on features minus the training rows' mean, the linear probe on standardised ones.

    Args:
        train: embeddings the probes learn from.
        test: embeddings the probes are scored on.
        label: column of the datalist.
        level: ``image`` or ``volume``.
        num_neighbours: of the kNN vote.
        seed: of the probe's folds.

    Raises:
        KeyError: if there is no such column.
        ValueError: if no row of a split has a label.
    """
    results = {}
    labels = {name: part.column(level, label) for name, part in (("train", train), ("test", test))}
    kept = {name: values != "" for name, values in labels.items()}
    for name, rows in kept.items():
        if not rows.any():
            raise ValueError(
                f"no {level} of the {name} rows has a value in column {label!r}: choose another column or level."
            )
    for representation, attribute in REPRESENTATIONS[level].items():
        arrays: list[Any] = [
            getattr(train, attribute)[kept["train"]], labels["train"][kept["train"]],
            getattr(test, attribute)[kept["test"]], labels["test"][kept["test"]],
        ]  # fmt: skip
        # Embeddings of one network share a large mean, which would make all of them neighbours.
        mean = arrays[0].mean(axis=0)
        centred = [arrays[0] - mean, arrays[1], arrays[2] - mean, arrays[3]]
        neighbours = min(num_neighbours, len(arrays[0]))
        linear = linear_probe(*arrays, seed=seed)
        results[representation] = {
            "knn_accuracy": knn_accuracy(*centred, num_neighbours=neighbours),
            "linear_accuracy": linear.accuracy,
            "linear_balanced_accuracy": linear.balanced_accuracy,
            "linear_auc": linear.auc,
            "chance_accuracy": float(np.unique(arrays[3], return_counts=True)[1].max() / len(arrays[3])),
            "num_train": float(len(arrays[0])),
            "num_test": float(len(arrays[2])),
            "num_unlabelled": float(sum((~rows).sum() for rows in kept.values())),
        }
    return results

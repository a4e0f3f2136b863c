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
from monai_cluster.apps.finetuned import is_finetuned
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
    flips: bool = False,
) -> dict[str, dict[str, float]]:
    """Score a fine-tuned model on labels, or a pretrained encoder by kNN and linear probe.

    What lies in ``weights`` decides. A fine-tuned model predicts the test split at the files' own resolution; a
    pretrained encoder is probed beside the same encoder without training.

    Args:
        weights: run folder, exported ``encoder.safetensors`` or ``model.safetensors``.
        data: datalist with labels; for probes with two splits.
        label: the column with the label.
        out: for a model the folder of scores, cases and pictures (``evaluation`` in the run's folder by default); for
            probes the JSON file of the results, where None only returns them.
        level: probes: ``image`` or ``volume`` rows.
        train_split: probes: rows to learn from.
        test_split: rows to score.
        baseline: probes: probe an untrained encoder of the same architecture as well.
        device: such as ``cpu`` or ``cuda``.
        num_workers: probes: reading processes.
        num_neighbours: probes: of the kNN vote.
        seed: probes: of the untrained encoder and the folds.
        flips: models: average over mirrored images, along the axes that were mirrored in training.

    Returns:
        Probes: ``{"pretrained: features": {"knn_accuracy": ..., "linear_accuracy": ..., ...}, "untrained: features":
        ...}``. Models: ``{"dice": {"value": ..., "low": ..., "high": ...}, ...}`` with 95 % intervals over patients.

    Raises:
        FileNotFoundError: for missing weights or data.
        KeyError: if the rows have no such label column.
        ValueError: if a split has no rows of this level.
    """
    if is_finetuned(weights):
        return _evaluate_finetuned(weights, data, label, out, test_split, device, flips)
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


def _evaluate_finetuned(
    weights: str, data: str, label: str, out: str | None, split: str, device: str | None, flips: bool
) -> dict[str, dict[str, float]]:
    # Imported here: probing needs none of the predictors.
    from monai_cluster.apps.finetuned import load_finetuned, model_file
    from monai_cluster.apps.finetuned_evaluation import evaluate_model

    model = load_finetuned(weights)
    kind = "volume" if model.preprocessing["spatial_dims"] == 3 else "image"
    rows = load_datalist(data, split=split, paths=(label,) if model.task == "segmentation" else (), kind=kind)
    target = Path(out) if out is not None else model_file(weights).parent.parent / "evaluation"
    if target.is_dir() and any(target.iterdir()):
        raise FileExistsError(f"{target} is not empty: choose another folder with out, or delete it yourself.")
    return evaluate_model(model, rows, target, label, device, flips)


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

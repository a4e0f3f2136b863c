# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Is the pretraining worth it on my data: initialisations × schedules × numbers of labelled patients × seeds."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from monai_cluster.apps.few_label_plan import (
    BASELINE,
    FewLabelRun,
    check_options,
    check_patients,
    initialisations,
    label_digest,
    note_study,
    number_of_epochs,
    patient_of,
    planned_runs,
    weights_digest,
)
from monai_cluster.apps.few_label_subsets import labelled_subset
from monai_cluster.apps.few_label_table import write_tables
from monai_cluster.apps.finetuned import load_finetuned
from monai_cluster.apps.finetuned_evaluation import evaluate_model
from monai_cluster.apps.finetuning import finetune
from monai_cluster.data import class_names, load_datalist, number_classes
from monai_cluster.keys import ClusterKeys as Keys

__all__ = ["FewLabelRun", "fewlabel", "planned_runs"]

logger = logging.getLogger(__name__)


def fewlabel(
    task: Literal["segmentation", "detection", "classification"],
    out: str,
    data: str,
    weights: Sequence[str] = (),
    names: Sequence[str] = (),
    schedules: Sequence[str] = ("full", "frozen"),
    numbers: Sequence[int] = (4, 8, 16, 0),
    seeds: int = 3,
    steps: int = 200,
    network: Literal["slice", "inflated", "stacked", "dynunet"] | None = None,
    baseline: bool = False,
    patients: Literal["drawn", "listed"] = "drawn",
    spatial_dims: int = 3,
    train_split: str = "training",
    test_split: str = "test",
    label_key: str = "label",
    floor: float | None = None,
    preset: Literal["auto", "cpu", "gpu"] = "auto",
    device: str | None = None,
    num_workers: int = 0,
    keep_models: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Fine-tune from every initialisation with few and many labels, and compare them on the same test patients.

    Every training has the same number of steps, batches, patches and augmentation; none looks at the test split, none
    is stopped early, and its last weights are tested. A run that is done is not repeated: call again after a crash.

    Args:
        task: what to learn.
        out: folder of the study; one with other settings is refused.
        data: datalist JSON or CSV with labels and a column ``subject`` (the patient).
        weights: pretraining runs or weights files to compare with training from scratch.
        names: of the weights, in order; their folders' names by default.
        schedules: ``full`` trains everything, ``frozen`` only the new parts, ``decoder_first`` those first.
        numbers: of labelled patients; 0 stands for all.
        seeds: trainings of each kind, with seeds 0, 1, ….
        steps: optimiser steps of every training, a multiple of 10.
        network: as for ``finetune``.
        baseline: also train MONAI's DynUNet from scratch (segmentation).
        patients: ``drawn`` anew for each seed, fewer ones among the more, or the first ones as ``listed``.
        spatial_dims: 2 for images, 3 for volumes.
        train_split: which list to take labelled patients from.
        test_split: which list to test on.
        label_key: the label's column.
        floor: a score that needs no learning (an atlas, the volume alone), drawn as a line.
        preset: as for ``finetune``.
        device: as for ``finetune``.
        num_workers: as for ``finetune``.
        keep_models: keep every model; off keeps the scores only.
        overrides: further configuration keys of all trainings; not their length, labels or schedule.

    Returns:
        The table, ``out/table.md``; beside it ``runs.csv``, ``differences.csv``, ``curves.png`` and ``study.json``,
        which holds all settings.

    Raises:
        FileExistsError: if ``out`` holds a study with other settings.
        FileNotFoundError: for missing data or weights.
        ValueError: before any training, for names that do not fit the weights, an unknown schedule, steps that cannot
            be shared out, more patients than there are, patients that stand in both splits, classes that only the test
            split has, or overrides of what the study sets itself.
    """
    found = initialisations(weights, names)
    changes = dict(overrides or {})
    check_options(task, schedules, seeds, steps, baseline, changes)
    mapped = task == "segmentation"
    pool, test = (
        load_datalist(
            data,
            split=split,
            require=(Keys.BOX, Keys.BOX_LABEL) if task == "detection" else (label_key,),
            paths=(label_key,) if mapped else (),
            kind="volume" if spatial_dims == 3 else "image",
        )
        for split in (train_split, test_split)
    )
    check_patients(pool, test, numbers)
    # Of all labelled patients: a few of them may lack a class, and models of fewer classes could not be compared.
    classes = class_names(task, pool.rows, data, label_key)
    if task == "classification":
        number_classes(test.rows, classes, label_key)
    root = Path(out)
    settings = {
        "task": task, "steps": steps, "network": network, "patients": patients, "spatial_dims": spatial_dims,
        "train_split": train_split, "test_split": test_split, "label_key": label_key, "preset": preset,
        "overrides": changes, "training_data": pool.digest(), "test_data": test.digest(), "classes": classes,
        "training_labels": label_digest(pool, label_key, mapped), "test_labels": label_digest(test, label_key, mapped),
    }  # fmt: skip
    note_study(root, settings, {name: weights_digest(path) for name, path in found.items()})
    runs = list(planned_runs([*found, *([BASELINE] if baseline else [])], schedules, numbers, seeds))
    todo = [run for run in runs if not (root / "runs" / run.name / "result.json").is_file()]
    logger.info("%d of %d runs to do", len(todo), len(runs))
    budget = _budget(steps, changes, {} if task == "detection" else {"label_key": label_key}) | {"class_names": classes}
    for place, run in enumerate(todo):
        started = time.monotonic()
        folder = root / "runs" / run.name
        if folder.exists():
            shutil.rmtree(folder)  # an unfinished run of this study
        subset = labelled_subset(pool, run.num_patients, run.seed, patients)
        folder.mkdir(parents=True)
        listed = folder / "datalist.json"
        _write_list(listed, data, subset, train_split)
        finetune(
            task, str(folder / "train"), str(listed), pretrained=found.get(run.initialisation), schedule=run.schedule,  # type: ignore[arg-type]
            network="dynunet" if run.initialisation == BASELINE else network, preset=preset,
            spatial_dims=spatial_dims, train_split=train_split, val_split=None, seed=run.seed, device=device,
            num_workers=num_workers, overrides=budget,
        )  # fmt: skip
        model = load_finetuned(folder / "train")
        trained = time.monotonic()
        amp = bool(changes.get("amp", True))  # as in training
        scores = evaluate_model(model, test, folder / "test", label_key, device, amp=amp, pictures=False, num_draws=200)
        result = {
            **asdict(run), "patients": sorted({patient_of(row) for row in subset}), "rows": len(subset),
            "scores": {name: _or_null(values) for name, values in scores.items()},
            "seconds_training": round(trained - started, 1), "seconds_test": round(time.monotonic() - trained, 1),
        }  # fmt: skip
        if not keep_models:
            shutil.rmtree(folder / "train" / "exported")
        shutil.rmtree(folder / "train" / "checkpoints", ignore_errors=True)
        text = json.dumps(result, indent=1, allow_nan=False)
        (folder / "result.json").write_text(text + "\n", encoding="utf-8")  # last: it says that all is done
        logger.info("%d/%d %s done in %.0f s", place + 1, len(todo), run.name, time.monotonic() - started)
        done = [one for one in runs if (root / "runs" / one.name / "result.json").is_file()]
        write_tables(root, task, done, floor, num_draws=100)  # rough until the last run: intervals cost time
    return write_tables(root, task, runs, floor)


def _or_null(values: Mapping[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _write_list(target: Path, data: str, rows: Sequence[dict[str, Any]], split: str) -> None:
    """A datalist of the subset, with the head (class names) of the whole one."""
    head: dict[str, Any] = {}
    if Path(data).suffix.lower() == ".json":
        content = json.loads(Path(data).read_text(encoding="utf-8"))
        head = {key: content[key] for key in ("labels", "box_labels") if isinstance(content, dict) and key in content}
    kept = [{key: value for key, value in row.items() if key != Keys.SAMPLE_INDEX} for row in rows]
    target.write_text(json.dumps({**head, split: kept}) + "\n", encoding="utf-8")


def _budget(steps: int, overrides: Mapping[str, Any], labels: Mapping[str, Any]) -> dict[str, Any]:
    """So many optimiser steps in epochs of equal length."""
    epochs = number_of_epochs(steps)
    batches = steps // epochs * int(overrides.get("accumulation_steps", 1))
    return {"pictures": False, **overrides, **labels, "max_epochs": epochs, "iterations_per_epoch": batches}

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Is the pretraining worth it on my data: initialisations × schedules × numbers of labelled patients × seeds."""

from __future__ import annotations

import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from monai_cluster.apps.few_label_subsets import labelled_subset
from monai_cluster.apps.few_label_table import write_tables
from monai_cluster.apps.finetuned import load_finetuned
from monai_cluster.apps.finetuned_evaluation import evaluate_model
from monai_cluster.apps.finetuning import finetune
from monai_cluster.data import Datalist, load_datalist
from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.weights.save import sha256_of

__all__ = ["FewLabelRun", "fewlabel", "planned_runs"]

logger = logging.getLogger(__name__)
SCRATCH = "scratch"


@dataclass(frozen=True)
class FewLabelRun:
    """One training and its test.

    Attributes:
        initialisation: its name; ``scratch`` and ``dynunet`` load nothing.
        schedule: ``full``, ``frozen`` or ``decoder_first``.
        num_patients: labelled patients to learn from; 0 stands for all.
        seed: of the weights, the order of samples, and the patients drawn.
    """

    initialisation: str
    schedule: str
    num_patients: int
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"{self.initialisation}_{self.schedule}_{self.num_patients or 'all'}_seed{self.seed}"


def planned_runs(
    initialisations: Sequence[str], schedules: Sequence[str], numbers: Sequence[int], seeds: int
) -> Iterator[FewLabelRun]:
    """Seed by seed, so that an unfinished study has whole comparisons; nothing is frozen where nothing was loaded."""
    for seed in range(seeds):
        for number in numbers:
            for initialisation in initialisations:
                for schedule in schedules:
                    if schedule == "full" or initialisation not in (SCRATCH, "dynunet"):
                        yield FewLabelRun(initialisation, schedule, number, seed)


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
        steps: optimiser steps of every training.
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
        overrides: further configuration keys of all trainings.

    Returns:
        The table, ``out/table.md``; beside it ``runs.csv``, ``differences.csv``, ``curves.png`` and ``study.json``,
        which holds all settings.

    Raises:
        FileExistsError: if ``out`` holds a study with other settings.
        FileNotFoundError: for missing data or weights.
        ValueError: for names that do not fit the weights, an unknown schedule, more patients than there are, or
            patients that stand in both splits.
    """
    found = _initialisations(weights, names)
    unknown = set(schedules) - {"full", "frozen", "decoder_first"}
    if unknown or (baseline and task != "segmentation"):
        raise ValueError(
            f"schedules are full, frozen and decoder_first, and only segmentation has a baseline; got {sorted(unknown)}."
        )
    paths = (label_key,) if task == "segmentation" else ()
    kind = "volume" if spatial_dims == 3 else "image"
    pool = load_datalist(data, split=train_split, paths=paths, kind=kind)
    test = load_datalist(data, split=test_split, paths=paths, kind=kind)
    _refuse_shared_patients(pool, test)
    root = Path(out)
    settings = {
        "task": task, "steps": steps, "network": network, "patients": patients, "spatial_dims": spatial_dims,
        "train_split": train_split, "test_split": test_split, "label_key": label_key, "preset": preset,
        "overrides": dict(overrides or {}), "training_data": pool.digest(), "test_data": test.digest(),
    }  # fmt: skip
    _note_study(root, settings, {name: _digest(path) for name, path in found.items()})
    runs = list(planned_runs([*found, *(["dynunet"] if baseline else [])], schedules, numbers, seeds))
    todo = [run for run in runs if not (root / "runs" / run.name / "result.json").is_file()]
    logger.info("%d of %d runs to do", len(todo), len(runs))
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
            network="dynunet" if run.initialisation == "dynunet" else network, preset=preset,  # type: ignore[arg-type]
            spatial_dims=spatial_dims, train_split=train_split, val_split=None, seed=run.seed, device=device,
            num_workers=num_workers, overrides=_budget(steps, dict(overrides or {}), task, label_key),
        )  # fmt: skip
        model = load_finetuned(folder / "train")
        trained = time.monotonic()
        scores = evaluate_model(model, test, folder / "test", label_key, device, pictures=False, num_draws=200)
        result = {
            **asdict(run), "patients": sorted({_patient(row) for row in subset}), "rows": len(subset), "scores": scores,
            "seconds_training": round(trained - started, 1), "seconds_test": round(time.monotonic() - trained, 1),
        }  # fmt: skip
        if not keep_models:
            shutil.rmtree(folder / "train" / "exported")
        shutil.rmtree(folder / "train" / "checkpoints", ignore_errors=True)
        (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")  # last: it says that all is done
        logger.info("%d/%d %s done in %.0f s", place + 1, len(todo), run.name, time.monotonic() - started)
        write_tables(root, task, [one for one in runs if (root / "runs" / one.name / "result.json").is_file()], floor)
    return write_tables(root, task, runs, floor)


def _initialisations(weights: Sequence[str], names: Sequence[str]) -> dict[str, str | None]:
    if names and len(names) != len(weights):
        raise ValueError(f"every weights file needs a name, got {len(names)} names for {len(weights)} files.")
    missing = [path for path in weights if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(f"weights {missing[0]!r} do not exist.")
    chosen = list(names) or [Path(path).resolve().name.split(".")[0] for path in weights]
    if len({SCRATCH, "dynunet", *chosen}) < len(chosen) + 2 or any("/" in name or "_seed" in name for name in chosen):
        raise ValueError(f"names must differ from each other, from {SCRATCH!r} and 'dynunet', got {chosen}: use names.")
    return {SCRATCH: None, **dict(zip(chosen, weights, strict=True))}


def _refuse_shared_patients(pool: Datalist, test: Datalist) -> None:
    lacking = sum(Keys.SUBJECT not in row for row in [*pool.rows, *test.rows])
    if lacking:
        raise ValueError(f"every row needs 'subject', the patient, {lacking} lack it: labels are counted by patient.")
    shared = {_patient(row) for row in pool.rows} & {_patient(row) for row in test.rows}
    if shared:
        raise ValueError(f"{len(shared)} patients stand in the training and in the test split: split by patient.")


def _patient(row: Mapping[str, Any]) -> str:
    return str(row[Keys.SUBJECT])


def _digest(path: str | None) -> str | None:
    if path is None:
        return None
    file = Path(path)
    file = file / "exported" / "encoder.safetensors" if file.is_dir() else file
    return sha256_of(file) if file.is_file() else None


def _note_study(root: Path, settings: dict[str, Any], weights: dict[str, str | None]) -> None:
    """Write the settings, or refuse where a study with others lies; weights may join later."""
    file = root / "study.json"
    if file.is_file():
        earlier = json.loads(file.read_text())
        changed = sorted(name for name in settings if earlier["settings"].get(name) != settings[name])
        swapped = sorted(name for name in weights if earlier["weights"].get(name, weights[name]) != weights[name])
        if changed or swapped:
            raise FileExistsError(
                f"{root} holds a study with other {', '.join([*changed, *swapped])}: results would not be comparable; "
                "choose another folder."
            )
        weights = earlier["weights"] | weights
    root.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"settings": settings, "weights": weights}, indent=1) + "\n")


def _write_list(target: Path, data: str, rows: Sequence[dict[str, Any]], split: str) -> None:
    """A datalist of the subset, with the head (class names) of the whole one."""
    head: dict[str, Any] = {}
    if Path(data).suffix.lower() == ".json":
        content = json.loads(Path(data).read_text(encoding="utf-8"))
        head = {key: content[key] for key in ("labels", "box_labels") if isinstance(content, dict) and key in content}
    kept = [{key: value for key, value in row.items() if key != Keys.SAMPLE_INDEX} for row in rows]
    target.write_text(json.dumps({**head, split: kept}) + "\n", encoding="utf-8")


def _budget(steps: int, overrides: dict[str, Any], task: str, label_key: str) -> dict[str, Any]:
    """Ten epochs of equal length, so that schedules have something to count."""
    epochs = next(number for number in (10, 8, 5, 4, 2, 1) if steps % number == 0)
    labels = {} if task == "detection" else {"label_key": label_key}
    return {"pictures": False, **labels, **overrides, "max_epochs": epochs, "iterations_per_epoch": steps // epochs}

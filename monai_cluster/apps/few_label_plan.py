# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Which trainings a few-label study has, and what is refused before the first of them starts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monai_cluster.apps.output_folder import OutputFolder
from monai_cluster.data import Datalist
from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.weights.save import sha256_of, weights_path

__all__ = [
    "FewLabelRun",
    "check_options",
    "check_patients",
    "initialisations",
    "label_digest",
    "note_study",
    "number_of_epochs",
    "patient_of",
    "planned_runs",
    "weights_digest",
]

SCRATCH, BASELINE = "scratch", "dynunet"
SCHEDULES = ("full", "frozen", "decoder_first")
# What makes runs comparable, and what has an option of its own.
SET_BY_THE_STUDY = {
    "max_epochs", "iterations_per_epoch", "class_names", "label_key", "spatial_dims", "seed", "schedule", "pretrained",
    "train_split", "val_split", "patience", "resume",
}  # fmt: skip


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
    """Seed by seed, so that an unfinished study has whole comparisons.

    Nothing is frozen where nothing was loaded: whatever the schedules, training from scratch is ``full``, and always
    there to compare with. What is named twice is trained once.
    """
    for seed in range(seeds):
        for number in dict.fromkeys(numbers):
            for initialisation in dict.fromkeys(initialisations):
                loaded = initialisation not in (SCRATCH, BASELINE)
                for schedule in dict.fromkeys(schedules) if loaded else ("full",):
                    yield FewLabelRun(initialisation, schedule, number, seed)


def initialisations(weights: Sequence[str], names: Sequence[str]) -> dict[str, str | None]:
    """Weights by name, training from scratch first.

    Raises:
        FileNotFoundError: for weights that do not exist.
        ValueError: for names that do not fit the weights, or that folders and tables could not tell apart.
    """
    if names and len(names) != len(weights):
        raise ValueError(f"every weights file needs a name, got {len(names)} names for {len(weights)} files.")
    missing = [path for path in weights if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(f"weights {missing[0]!r} do not exist.")
    chosen = list(names) or [Path(path).resolve().name.split(".")[0] for path in weights]
    unfit = [name for name in chosen if not name or "/" in name or "\\" in name or "|" in name or "_seed" in name]
    if len({SCRATCH, BASELINE, *chosen}) < len(chosen) + 2 or unfit:
        raise ValueError(
            f"names must differ from each other, from {SCRATCH!r} and {BASELINE!r}, and hold neither slashes, '|' nor "
            f"'_seed', got {chosen}: use names."
        )
    return {SCRATCH: None, **dict(zip(chosen, weights, strict=True))}


def check_options(
    task: str, schedules: Sequence[str], seeds: int, steps: int, baseline: bool, overrides: Mapping[str, Any]
) -> None:
    """Refuse what would make runs fail or differ in more than their initialisation.

    Raises:
        ValueError: naming the option.
    """
    unknown = sorted(set(schedules) - set(SCHEDULES))
    if unknown or not schedules or (baseline and task != "segmentation"):
        raise ValueError(
            f"schedules are {', '.join(SCHEDULES)}, and only segmentation has a baseline; got {list(schedules)} for "
            f"{task}."
        )
    if seeds < 1:
        raise ValueError(f"seeds is how many trainings of each kind there are, at least 1, got {seeds}.")
    taken = sorted(SET_BY_THE_STUDY & set(overrides))
    if taken:
        raise ValueError(f"the study itself sets {', '.join(taken)}: use steps and the other options, not overrides.")
    epochs = number_of_epochs(steps)
    if "decoder_first" in schedules and epochs < 5:
        raise ValueError(
            f"decoder_first trains the new parts in a fifth of the epochs, but {steps} steps make {epochs}: use a "
            "multiple of 10."
        )


def number_of_epochs(steps: int) -> int:
    """Ten epochs of equal length where the steps allow it, so that schedules have something to count.

    Raises:
        ValueError: if the steps cannot be shared out evenly.
    """
    epochs = next(number for number in (10, 8, 5, 4, 2, 1) if steps % number == 0)
    if steps < 1 or (epochs < 4 and steps > 10):
        raise ValueError(f"steps are shared out over ten epochs, got {steps}: take a multiple of 10, such as 200.")
    return epochs


def check_patients(pool: Datalist, test: Datalist, numbers: Sequence[int]) -> None:
    """Refuse patients that stand in both splits, and more of them than there are.

    Raises:
        ValueError: saying how many.
    """
    lacking = sum(Keys.SUBJECT not in row for row in [*pool.rows, *test.rows])
    if lacking:
        raise ValueError(f"every row needs 'subject', the patient, {lacking} lack it: labels are counted by patient.")
    patients = {patient_of(row) for row in pool.rows}
    shared = patients & {patient_of(row) for row in test.rows}
    if shared:
        raise ValueError(f"{len(shared)} patients stand in the training and in the test split: split by patient.")
    wrong = [number for number in numbers if not 0 <= number <= len(patients)]
    if wrong or not numbers:
        raise ValueError(f"numbers of patients must lie in 0..{len(patients)} (0 for all), got {list(numbers)}.")
    if 0 in numbers and len(patients) in numbers:
        raise ValueError(f"0 stands for all {len(patients)} patients: leave one of the two numbers out.")


def patient_of(row: Mapping[str, Any]) -> str:
    """The patient, as text."""
    return str(row[Keys.SUBJECT])


def weights_digest(path: str | None) -> str | None:
    """sha256 of a weights file, of a run's export, or of an export's folder."""
    if path is None:
        return None
    file = Path(path)
    if file.is_dir():
        file = next((one for one in (OutputFolder(file).encoder, weights_path(file)) if one.is_file()), file)
    return sha256_of(file) if file.is_file() else None


def label_digest(rows: Datalist, label_key: str, maps: bool) -> str:
    """sha256 of patients and labels: corrected labels make another study.

    Args:
        rows: of a split.
        label_key: the label's column.
        maps: the column holds paths of label maps, whose content counts.
    """
    lines = []
    for row, name in zip(rows.rows, rows.names, strict=True):
        label = sha256_of(Path(row[label_key])) if maps else row.get(label_key)
        lines.append(json.dumps([name, patient_of(row), label, row.get(Keys.BOX), row.get(Keys.BOX_LABEL)]))
    return hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()


def note_study(root: Path, settings: Mapping[str, Any], weights: dict[str, str | None]) -> None:
    """Write the settings, or refuse where a study with others lies; weights, numbers and seeds may join later.

    Raises:
        FileExistsError: naming the settings that differ.
    """
    file = root / "study.json"
    settings = json.loads(json.dumps(settings))  # as they will be read: tuples are lists then
    if file.is_file():
        earlier = json.loads(file.read_text(encoding="utf-8"))
        changed = sorted(name for name in settings if earlier["settings"].get(name, settings[name]) != settings[name])
        swapped = sorted(name for name in weights if earlier["weights"].get(name, weights[name]) != weights[name])
        if changed or swapped:
            raise FileExistsError(
                f"{root} holds a study with other {', '.join([*changed, *swapped])}: results would not be comparable; "
                "choose another folder."
            )
        weights = earlier["weights"] | weights
    root.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"settings": settings, "weights": weights}, indent=1) + "\n", encoding="utf-8")

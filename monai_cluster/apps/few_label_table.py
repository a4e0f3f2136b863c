# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What a few-label study found: runs, means, paired differences, curves."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from monai_cluster.metrics.bootstrap import PairedDifference
from monai_cluster.metrics.task_scores import MAIN_SCORE, compare_cases, part_from_json, score_parts

__all__ = ["write_tables"]

Kind = tuple[str, str, int]  # initialisation, schedule, number of patients


def write_tables(root: Path, task: str, runs: Sequence[Any], floor: float | None = None, num_draws: int = 1000) -> Path:
    """Write ``runs.csv``, ``differences.csv``, ``table.md`` and ``curves.png`` from the results of finished runs.

    Args:
        root: the study's folder.
        task: segmentation, detection or classification.
        runs: finished ones.
        floor: drawn as a line.
        num_draws: of patients and seeds, for the intervals.

    Returns:
        ``table.md``.
    """
    results = [json.loads((root / "runs" / run.name / "result.json").read_text()) for run in runs]
    _write_runs(root / "runs.csv", task, results)
    names = json.loads((root / "runs" / runs[0].name / "test" / "scores.json").read_text())["classes"]
    tested: dict[Kind, dict[int, list[dict[str, Any]]]] = defaultdict(dict)
    for run in runs:
        cases = json.loads((root / "runs" / run.name / "test" / "cases.json").read_text())
        tested[(run.initialisation, run.schedule, run.num_patients)][run.seed] = cases
    differences = _differences(task, tested, names, num_draws)
    _write_differences(root / "differences.csv", differences)
    means = {kind: _seed_scores(task, cases, names) for kind, cases in tested.items()}
    (root / "table.md").write_text(_markdown(task, means, differences), encoding="utf-8")
    _draw(root, task, means, results, floor)
    return root / "table.md"


def _draw(
    root: Path,
    task: str,
    means: Mapping[Kind, Mapping[int, float]],
    results: Sequence[Mapping[str, Any]],
    floor: float | None,
) -> None:
    """Curves over the number of patients that a run really had; bands are the spread of the seeds."""
    from monai_cluster.apps.picture_fewlabel import FewLabelPoint, draw_fewlabel

    counted = {result["num_patients"]: len(result["patients"]) for result in results}
    points = []
    for (initialisation, schedule, number), by_seed in means.items():
        values = [value for value in by_seed.values() if not np.isnan(value)]
        if values:
            mean, low, high = float(np.mean(values)), min(values), max(values)
            points.append(FewLabelPoint(initialisation, schedule, counted[number], mean, low, high, values))
    subtitle = f"bands: lowest to highest of {max(len(point.runs) for point in points)} seeds" if points else ""
    floors = {"no learning": floor} if floor is not None else None
    draw_fewlabel(points, root / "curves.png", MAIN_SCORE[task], floors, subtitle)


def _seed_scores(task: str, by_seed: Mapping[int, list[dict[str, Any]]], names: Sequence[str]) -> dict[int, float]:
    """Main score of each seed."""
    return {
        seed: score_parts(task, [part_from_json(task, case["part"]) for case in cases], names)[MAIN_SCORE[task]]
        for seed, cases in by_seed.items()
    }


def _differences(
    task: str, tested: Mapping[Kind, Mapping[int, list[dict[str, Any]]]], names: Sequence[str], num_draws: int
) -> dict[Kind, PairedDifference]:
    """Every kind minus training everything from scratch with as many patients, on the seeds that both have."""
    found = {}
    for kind, by_seed in tested.items():
        reference = tested.get(("scratch", "full", kind[2]))
        if kind[0] == "scratch" or reference is None:
            continue
        seeds = sorted(set(by_seed) & set(reference))
        if not seeds:
            continue
        parts: list[list[Any]] = [[], []]
        patients, of_seed = [], []
        for seed in seeds:
            known = {case["case"]: case for case in reference[seed]}
            for case in by_seed[seed]:
                parts[0].append(part_from_json(task, case["part"]))
                parts[1].append(part_from_json(task, known[case["case"]]["part"]))
                patients.append(case["patient"])
                of_seed.append(seed)
        found[kind] = compare_cases(task, parts[0], parts[1], names, patients, of_seed, num_draws)
    return found


def _write_runs(path: Path, task: str, results: Sequence[Mapping[str, Any]]) -> None:
    scores = list(results[0]["scores"])
    plain = ["initialisation", "schedule", "num_patients", "seed", "rows", "seconds_training", "seconds_test"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow([*plain, *scores])
        for result in results:
            writer.writerow([*(result[key] for key in plain), *(result["scores"][name]["value"] for name in scores)])


def _write_differences(path: Path, differences: Mapping[Kind, PairedDifference]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["initialisation", "schedule", "num_patients", "minus_scratch", "low", "high", "test_patients", "seeds"]
        )
        for kind, found in differences.items():
            writer.writerow([*kind, found.mean, found.low, found.high, found.num_patients, found.num_seeds])


def _markdown(
    task: str, means: Mapping[Kind, Mapping[int, float]], differences: Mapping[Kind, PairedDifference]
) -> str:
    numbers = sorted({kind[2] for kind in means}, key=lambda number: number or np.inf)
    heads = [f"{number} patients" if number else "all patients" for number in numbers]
    lines = [
        f"{MAIN_SCORE[task]}: mean over seeds ± standard deviation; below it the difference to `scratch, full` with "
        "its 95 % interval over test patients and seeds.",
        "",
        "| initialisation | " + " | ".join(heads) + " |",
        "|---|" + "---|" * len(heads),
    ]
    for initialisation, schedule in dict.fromkeys(kind[:2] for kind in means):
        cells = []
        for number in numbers:
            kind = (initialisation, schedule, number)
            values = list(means.get(kind, {}).values())
            if not values:
                cells.append("")
                continue
            spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
            text = f"{np.mean(values):.3f}{spread} (n = {len(values)})"
            if kind in differences:
                text += f"<br>{_difference(differences[kind])}"
            cells.append(text)
        lines.append(f"| {initialisation}, {schedule} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _difference(one: PairedDifference) -> str:
    """``+0.020 [+0.010, +0.030]``; where there is no interval the cell says why."""
    if np.isnan(one.low) or np.isnan(one.high):
        why = "one test patient" if one.num_patients < 2 else "the score is undefined in most draws"
        return f"{one.mean:+.3f} (no interval: {why})"
    return f"{one.mean:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"

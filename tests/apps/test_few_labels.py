# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A few-label study: the same patients, steps and test for every initialisation, and a table that adds up."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from monai_cluster.apps import few_labels, fewlabel
from monai_cluster.apps.few_label_subsets import labelled_subset
from monai_cluster.apps.few_label_table import _difference
from monai_cluster.apps.few_labels import planned_runs
from monai_cluster.data import Datalist
from monai_cluster.metrics import paired_difference
from monai_cluster.metrics.bootstrap import PairedDifference

from .conftest import tiny

STUDY_KEYS = ("label_key", "iterations_per_epoch", "pictures")


def overrides(task: str, dims: int = 2, **changes: Any) -> dict[str, Any]:
    return {key: value for key, value in tiny(task, dims, **changes).items() if key not in STUDY_KEYS}


def study_of(out: Path, phantoms: Path, pretraining: Path, **options: Any) -> Path:
    """Twelve runs of two steps."""
    settings: dict[str, Any] = {
        "weights": [str(pretraining)], "names": ["ours"], "numbers": [2, 0], "seeds": 2, "steps": 2, "spatial_dims": 2,
        "label_key": "class", "floor": 0.5, "preset": "cpu", "device": "cpu",
        "overrides": overrides("classification", flip_axes=[]),
    }  # fmt: skip
    return fewlabel("classification", str(out), str(phantoms), **settings | options)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, phantoms: Path, pretraining: Path) -> Path:
    out = tmp_path_factory.mktemp("studies") / "study"
    assert study_of(out, phantoms, pretraining) == out / "table.md"
    return out


@pytest.fixture
def study(finished: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    shutil.copytree(finished, tmp_path / "study")
    return tmp_path / "study"


def results_of(root: Path) -> dict[str, dict[str, Any]]:
    return {path.parent.name: json.loads(path.read_text()) for path in (root / "runs").glob("*/result.json")}


def rows_of(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as opened:
        return list(csv.DictReader(opened))


def relisted(phantoms: Path, target: Path, change: Any) -> Path:
    """A copy of the datalist with absolute paths; ``change(split, number, row)`` gives each row."""
    content = json.loads(phantoms.read_text())
    for split in ("training", "validation", "test"):
        for row in content[split]:
            row |= {key: str(phantoms.parent / row[key]) for key in ("image", "label")}
        content[split] = [change(split, number, row) for number, row in enumerate(content[split])]
    target.write_text(json.dumps(content))
    return target


# what is planned


def test_seed_by_seed_every_combination_is_planned_once_and_scratch_is_never_frozen() -> None:
    runs = list(planned_runs(["scratch", "ours", "dynunet"], ["frozen", "full"], [4, 0], 2))
    assert [run.seed for run in runs] == [0] * 8 + [1] * 8
    assert [run.name for run in runs[:4]] == [
        "scratch_full_4_seed0", "ours_frozen_4_seed0", "ours_full_4_seed0", "dynunet_full_4_seed0",
    ]  # fmt: skip
    assert runs[4].name == "scratch_full_all_seed0"
    assert len({run.name for run in runs}) == 16
    assert list(planned_runs(["scratch", "ours"], ["frozen"], [4, 4], 1)) == list(
        planned_runs(["scratch", "ours"], ["frozen", "frozen"], [4], 1)
    ), "what is named twice is trained once, and there is always something to compare with"


def test_with_one_seed_fewer_patients_are_among_the_more_and_seeds_draw_others() -> None:
    rows = [{"image": str(n), "subject": f"p{n // 2}", "sample_index": n} for n in range(40)]
    pool = Datalist([], rows, [str(n) for n in range(40)])
    drawn: dict[int, list[set[str]]] = {}
    for seed in range(6):
        subsets = [labelled_subset(pool, number, seed) for number in (1, 4, 8, 0)]
        drawn[seed] = [{row["subject"] for row in subset} for subset in subsets]
        assert [len(one) for one in drawn[seed]] == [1, 4, 8, 20]
        assert all(fewer < more for fewer, more in zip(drawn[seed], drawn[seed][1:], strict=False))
        assert [len(subset) for subset in subsets] == [2, 8, 16, 40], "a patient comes with all rows"
        assert {row["subject"] for row in labelled_subset(pool, 3, seed, "listed")} == {"p0", "p1", "p2"}
    assert len({frozenset(one[2]) for one in drawn.values()}) == 6
    with pytest.raises(ValueError, match=r"must lie in 0\.\.20 \(0 for all\), got 21"):
        labelled_subset(pool, 21, 0)


# a finished study


def test_every_initialisation_of_a_seed_learns_from_the_same_nested_patients(finished: Path) -> None:
    results = results_of(finished)
    assert len(results) == 12
    for seed in (0, 1):
        few, whole = (
            {
                tuple(one["patients"])
                for one in results.values()
                if one["seed"] == seed and one["num_patients"] == number
            }
            for number in (2, 0)
        )
        assert len(few) == len(whole) == 1
        assert len(min(few)) == 2
        assert len(min(whole)) == 4
        assert set(min(few)) < set(min(whole))
    assert results["ours_full_2_seed0"]["patients"] != results["ours_full_2_seed1"]["patients"]


def test_runs_have_equal_steps_and_differ_in_nothing_but_what_is_compared(finished: Path) -> None:
    configs = {}
    for folder in (finished / "runs").iterdir():
        epochs = [json.loads(line) for line in (folder / "train" / "metrics.jsonl").read_text().splitlines()]
        assert epochs[-1]["iteration"] == 2, folder.name
        assert not any(name.startswith("val") for epoch in epochs for name in epoch)
        configs[folder.name] = json.loads((folder / "train" / "config.json").read_text())
    first = configs["scratch_full_2_seed0"]
    differing = {key for config in configs.values() for key in config if config[key] != first.get(key)}
    assert differing == {"schedule", "seed", "pretrained_sha256"}
    assert first["pretrained_sha256"] is None
    assert len({config["pretrained_sha256"] for config in configs.values()}) == 2


def auc_of(cases: list[dict[str, Any]]) -> Any:
    """``row numbers -> AUC``: the share of pairs in the right order (Mann, Whitney), NaN where one class is alone."""
    labels = np.array([case["part"]["label"] for case in cases], bool)
    values = np.array([case["part"]["probabilities"][1] for case in cases])

    def score(rows: Any = slice(None)) -> float:
        high, low = values[rows][labels[rows]], values[rows][~labels[rows]]
        gaps = np.sign(high[:, None] - low)
        return float((gaps.mean() + 1) / 2) if gaps.size else float("nan")

    assert score() == pytest.approx(roc_auc_score(labels, values))
    return score


def test_the_tables_are_what_the_cases_of_the_runs_give(finished: Path) -> None:
    cases = {
        name: json.loads((finished / "runs" / name / "test" / "cases.json").read_text())
        for name in results_of(finished)
    }
    auc = {name: auc_of(one)() for name, one in cases.items()}
    listed = rows_of(finished / "runs.csv")
    assert len(listed) == 12
    for row in listed:
        number = "all" if row["num_patients"] == "0" else row["num_patients"]
        name = f"{row['initialisation']}_{row['schedule']}_{number}_seed{row['seed']}"
        assert float(row["auc"]) == pytest.approx(auc[name])
        assert int(row["rows"]) == (4 if number == "all" else 2)
    table = (finished / "table.md").read_text()
    differences = {
        (row["initialisation"], row["schedule"], row["num_patients"]): row
        for row in rows_of(finished / "differences.csv")
    }
    assert set(differences) == {("ours", schedule, number) for schedule in ("full", "frozen") for number in ("2", "0")}
    for (initialisation, schedule, number), row in differences.items():
        kind = f"{initialisation}_{schedule}_{number if number != '0' else 'all'}"
        scratch = f"scratch_full_{number if number != '0' else 'all'}"
        by_seed = [auc[f"{kind}_seed{seed}"] for seed in (0, 1)]
        pairs = [auc[f"{kind}_seed{seed}"] - auc[f"{scratch}_seed{seed}"] for seed in (0, 1)]
        assert float(row["minus_scratch"]) == pytest.approx(np.mean(pairs))
        both = [[case for seed in (0, 1) for case in cases[f"{one}_seed{seed}"]] for one in (kind, scratch)]
        again = paired_difference(
            auc_of(both[0]), auc_of(both[1]), [case["patient"] for case in both[0]], [0] * 4 + [1] * 4, num_draws=1000
        )  # fmt: skip
        assert float(row["low"]) == pytest.approx(again.low)
        assert float(row["high"]) == pytest.approx(again.high)
        assert (row["test_patients"], row["seeds"]) == ("4", "2")
        cell = f"{np.mean(by_seed):.3f} ± {np.std(by_seed, ddof=1):.3f} (n = 2)"
        assert f"{cell}<br>{np.mean(pairs):+.3f} [{again.low:+.3f}, {again.high:+.3f}]" in table


def test_training_from_scratch_is_not_compared_with_itself(finished: Path) -> None:
    assert "scratch" not in {row["initialisation"] for row in rows_of(finished / "differences.csv")}
    (line,) = re.findall(r"^\| scratch, full \|.*$", (finished / "table.md").read_text(), re.M)
    assert "<br>" not in line
    assert line.count("(n = 2)") == 2
    assert not (finished / "runs" / "scratch_frozen_2_seed0").exists()


def test_what_is_left_repeats_the_study_and_holds_no_weights(finished: Path) -> None:
    said = json.loads((finished / "study.json").read_text())
    assert said["settings"]["steps"] == 2
    assert said["settings"]["classes"] == ["healthy", "lesion"]
    assert set(said["weights"]) == {"scratch", "ours"}
    assert not list(finished.rglob("*.safetensors"))
    assert not list(finished.rglob("*.pt"))
    assert (finished / "curves.png").stat().st_size > 10_000


# going on


def test_a_restart_repeats_the_unfinished_run_alone_and_finds_the_same(
    study: Path, phantoms: Path, pretraining: Path, monkeypatch
) -> None:
    again = study / "runs" / "ours_frozen_2_seed1"
    before = {name: (study / name).read_text() for name in ("differences.csv", "table.md")}
    (again / "result.json").unlink()
    (again / "train" / "half.written").touch()
    trained = []

    def noting(task: Any, out: str, *options: Any, **more: Any) -> Any:
        trained.append(Path(out).parent.name)
        return finetune(task, out, *options, **more)

    finetune = few_labels.finetune
    monkeypatch.setattr(few_labels, "finetune", noting)
    study_of(study, phantoms, pretraining, overrides=overrides("classification") | {"flip_axes": ()})
    assert trained == ["ours_frozen_2_seed1"]
    assert not (again / "train" / "half.written").exists()
    assert {name: (study / name).read_text() for name in before} == before
    trained.clear()
    study_of(study, phantoms, pretraining)
    assert trained == []


def test_more_seeds_and_numbers_may_join_a_study(study: Path, phantoms: Path, pretraining: Path, monkeypatch) -> None:
    planned = []

    def stop(task: Any, out: str, *options: Any, **more: Any) -> Any:
        planned.append(Path(out).parent.name)
        raise InterruptedError

    monkeypatch.setattr(few_labels, "finetune", stop)
    with pytest.raises(InterruptedError):
        study_of(study, phantoms, pretraining, seeds=3)
    with pytest.raises(InterruptedError):
        study_of(study, phantoms, pretraining, numbers=[2, 3, 0])
    assert planned == ["scratch_full_2_seed2", "scratch_full_3_seed0"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"steps": 4}, "steps"),
        ({"patients": "listed"}, "patients"),
        ({"overrides": overrides("classification", learning_rate=0.5)}, "overrides"),
    ],
)
def test_other_settings_are_refused(study: Path, phantoms: Path, pretraining: Path, change: Any, named: str) -> None:
    with pytest.raises(FileExistsError, match=rf"holds a study with other {named}: results would not be comparable"):
        study_of(study, phantoms, pretraining, **change)


def test_other_weights_under_a_known_name_are_refused(study: Path, phantoms: Path, pretraining: Path, tmp_path) -> None:
    shutil.copytree(pretraining, tmp_path / "other")
    with (tmp_path / "other" / "exported" / "encoder.safetensors").open("ab") as file:
        file.write(b"more")
    for weights in (tmp_path / "other", tmp_path / "other" / "exported"):
        with pytest.raises(FileExistsError, match=r"holds a study with other ours: results"):
            study_of(study, phantoms, pretraining, weights=[str(weights)])


def test_corrected_labels_make_another_study(study: Path, phantoms: Path, pretraining: Path, tmp_path: Path) -> None:
    def corrected(split: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
        other = {"healthy": "lesion", "lesion": "healthy"}[row["class"]]
        return row | ({"class": other} if split == "test" and row["subject"] == "image006" else {})

    target = phantoms.parent / "corrected.json"
    content = json.loads(phantoms.read_text())
    for split in ("training", "validation", "test"):
        content[split] = [corrected(split, number, row) for number, row in enumerate(content[split])]
    target.write_text(json.dumps(content))
    with pytest.raises(FileExistsError, match=r"holds a study with other test_labels: results"):
        study_of(study, target, pretraining)


# refused before anything is trained


def without_training(monkeypatch) -> None:
    monkeypatch.setattr(few_labels, "finetune", lambda *options, **more: pytest.fail("a run was started"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"numbers": [2, 5]}, r"must lie in 0\.\.4 \(0 for all\), got \[2, 5\]"),
        ({"numbers": [4, 0]}, r"0 stands for all 4 patients"),
        ({"numbers": []}, r"must lie in 0\.\.4"),
        ({"seeds": 0}, r"at least 1, got 0"),
        ({"steps": 201}, r"shared out over ten epochs, got 201: take a multiple of 10"),
        ({"steps": 0}, r"got 0: take a multiple of 10"),
        ({"steps": 4, "schedules": ["full", "decoder_first"]}, r"decoder_first .* a fifth of the epochs, but 4 steps"),
        ({"schedules": ["full", "warm"]}, r"schedules are full, frozen, decoder_first.*'warm'"),
        ({"baseline": True}, r"only segmentation has a baseline"),
        ({"names": ["a", "b"]}, r"got 2 names for 1 files"),
        ({"names": ["scratch"]}, r"names must differ from each other, from 'scratch'"),
        ({"names": ["a/b"]}, r"hold neither slashes"),
        ({"overrides": {"max_epochs": 3}}, r"the study itself sets max_epochs"),
        ({"overrides": {"iterations_per_epoch": 3, "label_key": "x"}}, r"itself sets iterations_per_epoch, label_key"),
        ({"label_key": "grade"}, r"every row needs the column 'grade', 4 lack it"),
    ],
)
def test_what_cannot_be_compared_is_refused_first(
    tmp_path: Path, phantoms: Path, pretraining: Path, monkeypatch, options: Any, said: str
) -> None:
    without_training(monkeypatch)
    with pytest.raises(ValueError, match=said):
        study_of(tmp_path / "out", phantoms, pretraining, **options)
    assert not (tmp_path / "out").exists()


def test_missing_weights_are_named(tmp_path: Path, phantoms: Path, pretraining: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"weights .*nothing' do not exist"):
        study_of(tmp_path / "out", phantoms, pretraining, weights=[str(tmp_path / "nothing")])


def test_patients_of_both_splits_and_rows_without_patient_are_refused(
    tmp_path: Path, phantoms: Path, pretraining: Path, monkeypatch
) -> None:
    without_training(monkeypatch)

    def shared(split: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"subject": "image000"} if split == "test" and row["subject"] == "image007" else {})

    def nameless(split: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
        return {key: value for key, value in row.items() if key != "subject" or number}

    def unheard(split: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
        return row | ({"class": "new"} if split == "test" else {})

    with pytest.raises(ValueError, match=r"1 patients stand in the training and in the test split"):
        study_of(tmp_path / "out", relisted(phantoms, tmp_path / "shared.json", shared), pretraining)
    with pytest.raises(ValueError, match=r"the classes are healthy, lesion; some rows have new"):
        study_of(tmp_path / "out", relisted(phantoms, tmp_path / "unheard.json", unheard), pretraining)
    with pytest.raises(ValueError, match=r"every row needs 'subject', the patient, 2 lack it"):
        fewlabel(
            "classification", str(tmp_path / "out"), str(relisted(phantoms, tmp_path / "nameless.json", nameless)),
            numbers=[1], label_key="class", steps=2,
        )  # fmt: skip


def test_steps_are_optimiser_steps_whatever_is_accumulated(tmp_path, phantoms: Path, pretraining, monkeypatch) -> None:
    seen: dict[str, Any] = {}

    def stop(*options: Any, **more: Any) -> Any:
        seen.update(more["overrides"])
        raise InterruptedError

    monkeypatch.setattr(few_labels, "finetune", stop)
    with pytest.raises(InterruptedError):
        study_of(tmp_path, phantoms, pretraining, steps=200, overrides={"accumulation_steps": 3, "betas": [1]})
    assert (seen["max_epochs"], seen["iterations_per_epoch"]) == (10, 60)


# other tasks


def test_a_detector_that_finds_nothing_still_gets_its_table(tmp_path: Path, phantoms: Path) -> None:
    table = fewlabel(
        "detection", str(tmp_path / "out"), str(phantoms), numbers=[2], seeds=1, steps=1, spatial_dims=2, preset="cpu",
        device="cpu", overrides=overrides("detection", score_threshold=0.999),
    )  # fmt: skip
    assert "| scratch, full | 0.000 (n = 1) |" in table.read_text()
    cases = rows_of(table.parent / "runs" / "scratch_full_2_seed0" / "test" / "cases.csv")
    assert [row["detections"] for row in cases] == ["0"] * 4


def test_few_patients_without_a_class_still_give_models_of_all_classes(tmp_path: Path, phantoms: Path) -> None:
    def healthy_first(split: str, number: int, row: dict[str, Any]) -> dict[str, Any]:
        return row

    listed = relisted(phantoms, tmp_path / "list.json", healthy_first)
    content = json.loads(listed.read_text())
    content["training"].sort(key=lambda row: row["class"])
    listed.write_text(json.dumps(content))
    table = fewlabel(
        "classification", str(tmp_path / "out"), str(listed), numbers=[2], seeds=1, steps=1, spatial_dims=2,
        patients="listed", label_key="class", preset="cpu", device="cpu", overrides=overrides("classification"),
    )  # fmt: skip
    run = tmp_path / "out" / "runs" / "scratch_full_2_seed0"
    assert {row["class"] for row in json.loads((run / "datalist.json").read_text())["training"]} == {"healthy"}
    assert json.loads((run / "test" / "scores.json").read_text())["classes"] == ["healthy", "lesion"]
    assert "(n = 1)" in table.read_text()


def test_a_segmentation_study_has_a_baseline_on_request(tmp_path: Path, phantoms: Path) -> None:
    table = fewlabel(
        "segmentation", str(tmp_path / "out"), str(phantoms), numbers=[1], seeds=1, steps=1, baseline=True,
        preset="cpu", device="cpu", overrides=overrides("segmentation", 3, filters=[8, 16, 16]),
    )  # fmt: skip
    kinds = {run["initialisation"]: run for run in rows_of(table.parent / "runs.csv")}
    assert set(kinds) == {"scratch", "dynunet"}
    differences = rows_of(table.parent / "differences.csv")
    wanted = float(kinds["dynunet"]["dice"]) - float(kinds["scratch"]["dice"])
    assert [float(row["minus_scratch"]) for row in differences] == pytest.approx([wanted])
    assert differences[0]["test_patients"] == "4"


def test_one_test_patient_gives_a_difference_without_an_interval() -> None:
    alone = PairedDifference(0.02, np.nan, np.nan, 1, 3, 0)
    assert _difference(alone) == "+0.020 (no interval: one test patient)"
    assert _difference(PairedDifference(0.02, np.nan, np.nan, 2, 3, 0)).endswith("undefined in most draws)")
    assert _difference(PairedDifference(0.02, -0.01, 0.05, 9, 3, 0)) == "+0.020 [-0.010, +0.050]"

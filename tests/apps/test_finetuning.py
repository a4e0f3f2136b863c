# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A fine-tuning run: what it refuses, what stays frozen, which weights it keeps, and how it goes on after a crash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from monai_cluster.apps import finetune, load_finetuned
from monai_cluster.weights.save import sha256_of

from .conftest import tiny


def run(out: Path, phantoms: Path, task: str = "segmentation", dims: int = 2, **options: Any) -> Path:
    changes = options.pop("overrides", {})
    return finetune(
        task, str(out), str(phantoms), preset="cpu", spatial_dims=dims, num_workers=0, device="cpu",
        **{"max_epochs": 2, "overrides": tiny(task, dims, **changes)} | options,
    )  # fmt: skip


def epochs_of(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


def state_after(out: Path, epoch: int) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(
        out / "checkpoints" / f"checkpoint_epoch={epoch}.pt", weights_only=True
    )["network"]
    return state


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> set[str]:
    assert before.keys() & after.keys()
    return {name for name in before.keys() & after.keys() if not torch.equal(before[name], after[name])}


def relisted(phantoms: Path, target: Path, **splits: Any) -> Path:
    """A copy of the datalist with absolute paths, its rows changed by ``split=function(row)``."""
    content = json.loads(phantoms.read_text())
    for split in ("training", "validation", "test"):
        for row in content[split]:
            row |= {key: str(phantoms.parent / row[key]) for key in ("image", "label")}
        content[split] = [splits.get(split, dict)(row) for row in content[split]]
    target.write_text(json.dumps(content))
    return target


# refusals


def test_a_folder_with_a_run_is_refused_by_name_and_left_alone(tmp_path: Path, phantoms: Path) -> None:
    (tmp_path / "exported").mkdir()
    (tmp_path / "exported" / "model.safetensors").write_text("precious")
    with pytest.raises(FileExistsError, match=r"already holds a run .*choose another output folder, continue it with"):
        run(tmp_path, phantoms)
    assert (tmp_path / "exported" / "model.safetensors").read_text() == "precious"
    assert not (tmp_path / "config.json").exists()


def test_an_unknown_key_is_refused_with_the_nearest_one(tmp_path: Path, phantoms: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown configuration key 'learn_rate'.*did you mean 'learning_rate'"):
        run(tmp_path / "out", phantoms, overrides={"learn_rate": 0.1})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("key", "option"),
    [("seed", "seed"), ("output_dir", "out"), ("val_split", "val_split"), ("pretrained", "pretrained")],
)
def test_an_override_may_not_contradict_an_option(tmp_path: Path, phantoms: Path, key: str, option: str) -> None:
    with pytest.raises(ValueError, match=rf"must not contradict: '{key}' is {option}"):
        run(tmp_path / "out", phantoms, overrides={key: 3})


@pytest.mark.parametrize("key", ["max_epochs", "num_workers", "spatial_dims", "schedule", "device"])
def test_what_an_option_said_is_not_said_again_in_overrides(tmp_path: Path, phantoms: Path, key: str) -> None:
    with pytest.raises(ValueError, match=rf"must not contradict: '{key}' is {key}"):
        run(tmp_path / "out", phantoms, overrides={key: 1})
    assert not (tmp_path / "out").exists()


def test_missing_data_and_missing_weights_are_named(tmp_path: Path, phantoms: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"data .*nowhere\.json' does not exist"):
        run(tmp_path / "out", tmp_path / "nowhere.json")
    with pytest.raises(FileNotFoundError, match=r"pretrained .*nothing' does not exist"):
        run(tmp_path / "out", phantoms, pretrained=str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"nothing to resume: no checkpoint"):
        run(tmp_path / "out", phantoms, resume=True)


@pytest.mark.parametrize("fault", ["mirrored", "shifted", "of another shape"])
def test_a_label_off_the_images_grid_is_refused_with_the_samples_name(tmp_path, phantoms: Path, fault: str) -> None:
    wrong = tmp_path / "wrong.nii.gz"
    spoilt: list[str] = []

    def spoil(row: dict[str, Any]) -> dict[str, Any]:
        if row["kind"] == "image" or spoilt:
            return row
        label = nib.load(row["label"])
        ids, affine = np.asarray(label.dataobj), label.affine.copy()
        if fault == "mirrored":
            affine = affine @ nib.orientations.inv_ornt_aff([[0, -1], [1, 1], [2, 1]], ids.shape)
        if fault == "shifted":
            affine[2, 3] += 2
        nib.Nifti1Image(ids[1:] if fault == "of another shape" else ids, affine).to_filename(wrong)
        spoilt.append(Path(row["image"]).name)
        return row | {"label": str(wrong)}

    listed = relisted(phantoms, tmp_path / "list.json", training=spoil)
    said = "must have the image's shape" if fault == "of another shape" else "must lie on one grid"
    with pytest.raises(RuntimeError, match=said) as failure:
        run(tmp_path / "out", listed, dims=3)
    assert spoilt[0] in str(failure.value)


def test_a_class_that_only_validation_has_is_refused(tmp_path: Path, phantoms: Path) -> None:
    listed = relisted(phantoms, tmp_path / "list.json", validation=lambda row: row | {"class": "new"})
    with pytest.raises(ValueError, match=r"the classes are healthy, lesion; some rows have new in 'class'"):
        run(tmp_path / "out", listed, "classification")


def test_a_label_map_with_a_class_that_training_lacks_is_refused(tmp_path: Path, phantoms: Path) -> None:
    def without_names(row: dict[str, Any]) -> dict[str, Any]:
        if row["kind"] == "volume":
            label = nib.load(row["label"])
            ids = np.asarray(label.dataobj).copy()
            ids[0, 0, 0] = 7
            nib.Nifti1Image(ids, label.affine).to_filename(tmp_path / f"{row['subject']}.nii.gz")
            row |= {"label": str(tmp_path / f"{row['subject']}.nii.gz")}
        return row

    listed = relisted(phantoms, tmp_path / "list.json", validation=without_names)
    with pytest.raises(RuntimeError, match=r"class ids must lie below 4 .*got 7"):
        run(tmp_path / "out", listed, dims=3)


# schedules


@pytest.mark.parametrize(("task", "dims"), [("segmentation", 3), ("detection", 2), ("classification", 3)])
def test_a_frozen_encoder_and_aggregator_stay_the_files_to_the_last_bit(
    tmp_path: Path, phantoms: Path, pretraining: Path, task: str, dims: int
) -> None:
    file = pretraining / "exported" / "encoder.safetensors"
    options = {"pretrained": str(pretraining), "schedule": "frozen", "val_split": "none"}
    model = run(tmp_path / "out", phantoms, task, dims, **options)
    given, learned = load_file(file), load_file(model)
    at = {name: next((one for one in learned if one.endswith(name)), None) for name in given}
    # A 2D network has no aggregator, and detectors and U-Nets with a pyramid no use for the encoder's own head.
    parts = ("slice_encoder.backbone", *(["slice_aggregator"] if dims == 3 else []))
    there = {name for name in given if name.startswith(parts) and at[name] is not None}
    assert any("running_mean" in name for name in there)
    assert all(any(name.startswith(part) for name in there) for part in parts)
    assert [name for name in there if not torch.equal(given[name], learned[at[name]])] == []
    new = moved(state_after(tmp_path / "out", 1), state_after(tmp_path / "out", 2))
    assert new, "nothing learned at all"
    assert not new & set(at.values())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["pretrained_sha256"] == sha256_of(file)


def test_decoder_first_leaves_the_encoder_alone_and_then_moves_it(tmp_path, phantoms: Path, pretraining: Path) -> None:
    options = {"pretrained": str(pretraining), "val_split": None, "overrides": {"decoder_epochs": 1}}
    run(tmp_path / "out", phantoms, **options)
    given = load_file(pretraining / "exported" / "encoder.safetensors")
    first, second = state_after(tmp_path / "out", 1), state_after(tmp_path / "out", 2)
    inside = {name for name in given if name in first and "backbone" in name}
    assert len(inside) > 50
    assert moved({name: given[name] for name in inside}, first) == set()
    later = moved(first, second)
    assert {name for name in inside if name.endswith("weight")} <= later
    assert later - inside, "the decoder goes on learning"


def test_full_training_moves_the_encoder_from_the_first_epoch(tmp_path, phantoms: Path, pretraining: Path) -> None:
    run(tmp_path / "out", phantoms, pretrained=str(pretraining), schedule="full", val_split=None, max_epochs=1)
    given = load_file(pretraining / "exported" / "encoder.safetensors")
    assert "slice_encoder.backbone.conv1.weight" in moved(given, state_after(tmp_path / "out", 1))


# which weights are kept


def test_the_weights_that_validated_best_are_saved(tmp_path: Path, phantoms: Path, monkeypatch) -> None:
    scores = iter([0.2, 0.9, 0.4])
    monkeypatch.setattr("monai_cluster.metrics.mean_dice", lambda counts: {"val_dice": next(scores)}, raising=False)
    model = run(tmp_path / "out", phantoms, max_epochs=3)
    assert [epoch["val_dice"] for epoch in epochs_of(tmp_path / "out")] == [0.2, 0.9, 0.4]
    saved = load_file(model)
    assert moved(saved, state_after(tmp_path / "out", 2)) == set()
    assert moved(saved, state_after(tmp_path / "out", 3))


@pytest.mark.parametrize("split", ["none", None])
def test_without_validation_the_last_weights_are_saved(tmp_path: Path, phantoms: Path, split: str | None) -> None:
    model = run(tmp_path / "out", phantoms, val_split=split, overrides={"pictures": True})
    epochs = epochs_of(tmp_path / "out")
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    assert not any(name.startswith("val") for epoch in epochs for name in epoch)
    assert moved(load_file(model), state_after(tmp_path / "out", 2)) == set()
    assert (tmp_path / "out" / "pictures" / "training.png").stat().st_size > 10_000
    assert not (tmp_path / "out" / "validation").exists()


def test_validation_rows_are_scored_and_drawn_with_the_kept_weights(tmp_path: Path, phantoms: Path) -> None:
    run(tmp_path / "out", phantoms, "classification", overrides={"pictures": True})
    scores = json.loads((tmp_path / "out" / "validation" / "scores.json").read_text())
    assert scores["num_cases"] == 2
    assert scores["model_sha256"] == sha256_of(tmp_path / "out" / "exported" / "model.safetensors")
    assert (tmp_path / "out" / "validation" / "pictures" / "confusion.png").is_file()


def test_what_is_passed_on_says_nothing_about_where_it_was_made(tmp_path: Path, phantoms: Path, pretraining) -> None:
    run(tmp_path / "out", phantoms, val_split=None, max_epochs=1, pretrained=str(pretraining))
    model = load_finetuned(tmp_path / "out")
    assert model.class_names == ("background", "liver", "spleen", "kidney")
    for file in ("config.json", "exported/model.json"):
        text = (tmp_path / "out" / file).read_text()
        assert not any(str(place) in text for place in (tmp_path, phantoms.parent, pretraining)), file


# resuming


def test_a_run_that_was_cut_off_ends_as_if_it_had_not_been(tmp_path: Path, phantoms: Path, monkeypatch) -> None:
    options: dict[str, Any] = {"max_epochs": 3, "overrides": {"decoder_epochs": 1, "iterations_per_epoch": 2}}
    run(tmp_path / "whole", phantoms, **options)
    from monai_cluster.engines import finetune_trainer

    step, steps = finetune_trainer.accumulate_and_step, []

    def failing(trainer: Any, loss: torch.Tensor) -> None:
        steps.append(trainer.state.iteration)
        if len(steps) == 4:
            raise OSError("power cut")
        step(trainer, loss)

    monkeypatch.setattr(finetune_trainer, "accumulate_and_step", failing)
    with pytest.raises(OSError, match="power cut"):
        run(tmp_path / "cut", phantoms, **options)
    assert [epoch["epoch"] for epoch in epochs_of(tmp_path / "cut")] == [1]
    monkeypatch.setattr(finetune_trainer, "accumulate_and_step", step)
    run(tmp_path / "cut", phantoms, resume=True, **options)
    assert moved(state_after(tmp_path / "whole", 3), state_after(tmp_path / "cut", 3)) == set()
    assert moved(state_after(tmp_path / "whole", 2), state_after(tmp_path / "cut", 3))
    both = [epochs_of(tmp_path / name) for name in ("whole", "cut")]
    assert [[epoch["epoch"] for epoch in epochs] for epochs in both] == [[1, 2, 3]] * 2
    for one, other in zip(*both, strict=True):
        clock = {name for name in one if name == "time" or "second" in name}
        assert {name: one[name] for name in set(one) - clock} == {name: other[name] for name in set(other) - clock}
    before = (tmp_path / "cut" / "exported" / "model.safetensors").read_bytes()
    run(tmp_path / "cut", phantoms, resume=True, **options)
    assert [epoch["epoch"] for epoch in epochs_of(tmp_path / "cut")] == [1, 2, 3], "a finished run goes no further"
    assert (tmp_path / "cut" / "exported" / "model.safetensors").read_bytes() == before

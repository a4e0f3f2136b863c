# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The fine-tuning bundles: what MONAI checks of them, and tiny runs of every configuration on labelled phantoms."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser, ConfigWorkflow, ckpt_export, verify_net_in_out
from monai.data import MetaTensor
from monai.utils import set_determinism
from PIL import Image
from safetensors.torch import load_file

from monai_cluster.apps import evaluate, load_finetuned, predict
from monai_cluster.apps.bundle_files import bundle_root
from monai_cluster.apps.finetuned import save_finetuned
from monai_cluster.data.task_phantoms import write_task_phantoms
from monai_cluster.handlers import FreezePretrained
from monai_cluster.networks import ContextSliceUNet, SliceEncoder
from monai_cluster.weights import build_network

from . import bundle_checks as checks
from .bundle_checks import cause_of, epochs_of, finished

TASKS = ("segmentation", "detection", "classification")
SCRIPTED = ("segmentation", "classification")
TINY: dict[str, Any] = {
    "embedding_dim": 16, "iterations_per_epoch": 2, "max_epochs": 2, "decoder_epochs": 1, "warmup_epochs": 0,
    "batch_size": 2, "val_interval": 1, "cache_workers": 1, "num_workers": 0, "amp": False, "pictures": False,
    "device": "$torch.device('cpu')",
}  # fmt: skip
TINY_OF: dict[str, dict[str, Any]] = {
    "segmentation": {"decoder_channels": [16, 16, 8, 8, 8], "patch_size": [32, 32, 8]},
    "detection": {"channels": 16, "patch_size": [32, 32, 8], "score_threshold": 0.0, "max_detections": 3},
    "classification": {"image_size": 32, "num_slices": 4, "label_key": "class"},
}
SCORE = {"segmentation": "dice", "detection": "ap_10_50", "classification": "auc"}


def bundle_of(task: str) -> Path:
    return bundle_root(f"{task}_finetuning")


def override_files(task: str) -> list[str]:
    whole = ("train", "inference", "evaluate")
    return [name for name in checks.config_names(bundle_of(task)) if name not in whole]


CONFIGS = [(task, name) for task in TASKS for name in checks.config_names(bundle_of(task))]
OVERRIDES = [(task, name) for task in TASKS for name in override_files(task)]


@pytest.fixture(autouse=True)
def _determinism_as_before() -> Iterator[None]:
    """The bundles set MONAI's determinism, which is global."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    yield
    set_determinism(None)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory) -> Path:
    """Four volumes and images to learn from, three to validate with, two to test with."""
    return write_task_phantoms(
        tmp_path_factory.mktemp("data") / "phantoms",
        num_volumes=9, num_images=9, size=32, validation_share=0.34, test_share=0.23,
    )  # fmt: skip


def workflow(task: str, config: str | list[str], workflow_type: str, **settings: Any) -> ConfigWorkflow:
    bundle = bundle_of(task)
    return ConfigWorkflow(
        config_file=checks.files(bundle, *([config] if isinstance(config, str) else config)),
        meta_file=checks.meta_file(bundle),
        logging_file=False,
        workflow_type=workflow_type,
        **{"bundle_root": str(bundle), "device": "$torch.device('cpu')"} | settings,
    )


def training(task: str, out: Path, phantoms: Path, *configs: str, **changes: Any) -> ConfigWorkflow:
    settings = {"output_dir": str(out), "datalist": str(phantoms)} | TINY | TINY_OF[task] | changes
    return workflow(task, ["train", "cpu", *configs], "train", **settings)


def inference(task: str, out: Path, phantoms: Path, models: Path, **changes: Any) -> ConfigWorkflow:
    places = {"ckpt_path": str(models / "model.pt"), "model_json": str(models / "model.json")}
    return workflow(
        task, "inference", "infer", **{"output_dir": str(out), "datalist": str(phantoms)} | places | changes
    )


def as_bundle_model(run: Path, models: Path) -> Path:
    """The run's model as ``models/model.pt`` and ``models/model.json``."""
    model = load_finetuned(run)
    said = model.description
    save_finetuned(
        models / "model.pt", model.network, model.task, model.class_names, model.preprocessing, model.prediction,
        said["recipe"],
    )  # fmt: skip
    return models


# files


@pytest.mark.parametrize("task", TASKS)
def test_every_bundle_has_the_canonical_files(task: str) -> None:
    root = bundle_of(task)
    assert {"train", "evaluate", "inference", "multi_gpu_train"} <= set(checks.config_names(root))
    for name in ("LICENSE", "docs/README.md", "docs/data_license.txt"):
        assert (root / name).is_file(), name


@pytest.mark.parametrize("task", TASKS)
def test_no_configuration_has_a_key_twice(task: str) -> None:
    checks.check_that_no_key_is_given_twice(bundle_of(task))


@pytest.mark.parametrize(("task", "name"), CONFIGS)
def test_targets_are_full_names_in_four_packages_and_exist(task: str, name: str) -> None:
    checks.check_targets(checks.read(bundle_of(task), name))


@pytest.mark.parametrize("task", TASKS)
def test_expressions_import_nothing_but_the_four_packages_and_the_standard_library(task: str) -> None:
    checks.check_imports(bundle_of(task))


@pytest.mark.parametrize(("task", "name"), [*OVERRIDES, *[(task, "") for task in TASKS]])
def test_override_files_override_and_add_nothing_that_nobody_reads(task: str, name: str, monkeypatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "0")
    checks.check_overrides(bundle_of(task), "train", [name] if name else [])


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("name", ["inference", "evaluate"])
def test_whole_configurations_define_every_reference(task: str, name: str) -> None:
    checks.check_overrides(bundle_of(task), name, [])


@pytest.mark.parametrize("task", TASKS)
def test_several_processes_prepare_everything_that_one_process_prepares(task: str) -> None:
    checks.check_that_several_processes_prepare_what_one_does(bundle_of(task))


# MONAI's checks


@pytest.mark.parametrize("task", TASKS)
def test_metadata_has_what_the_schema_requires_and_pins_the_constraints(task: str, tmp_path: Path) -> None:
    checks.check_metadata(bundle_of(task))
    checks.check_pins(bundle_of(task))
    checks.check_schema(bundle_of(task), tmp_path)


@pytest.mark.parametrize("task", SCRIPTED)
def test_the_network_takes_and_gives_what_the_metadata_says(task: str, tmp_path: Path) -> None:
    small = {"network_description#slice_encoder#model": "resnet18"}  # the same code, a fifth of the time
    common = {"net_id": "network_def", "config_file": checks.files(bundle_of(task), "inference"), "device": "cpu"}
    verify_net_in_out(meta_file=checks.meta_file(bundle_of(task)), **common, **small)
    wrong = checks.read(bundle_of(task), "metadata")
    wrong["network_data_format"]["outputs"]["pred"]["num_channels"] = 3
    (tmp_path / "metadata.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="3"):
        verify_net_in_out(meta_file=str(tmp_path / "metadata.json"), **common, **small)


@pytest.mark.parametrize("task", TASKS)
def test_inference_describes_the_network_that_training_builds_by_default(task: str, phantoms: Path) -> None:
    parser = ConfigParser()
    parser.read_config(checks.files(bundle_of(task), "train"))
    labels = {"label_key": "class"} if task == "classification" else {}
    parser.update({"bundle_root": str(bundle_of(task)), "datalist": str(phantoms), **labels})
    built = parser.get_parsed_content("network_def")
    description = checks.read(bundle_of(task), "inference")["network_description"]
    # What the data say.
    description["out_channels" if task == "segmentation" else "num_classes"] = parser.get_parsed_content("num_classes")
    description["slice_spacing"] = parser.get_parsed_content("slice_spacing")
    if task == "detection":
        fitted = built.architecture()["anchor_shapes"]
        assert fitted == parser.get_parsed_content("anchor_shapes")
        description["anchor_shapes"] = fitted
    assert build_network(description).architecture() == built.architecture() | (
        {"model": "resnet18"} if task == "detection" else {}
    )


# runs


@pytest.fixture(scope="module", params=TASKS)
def run(request, tmp_path_factory, phantoms: Path) -> tuple[str, Path, ConfigWorkflow]:
    """One finished run of every task on volumes: an epoch with the encoder frozen, an epoch without."""
    out = tmp_path_factory.mktemp("runs") / request.param
    made = finished(training(request.param, out, phantoms))
    as_bundle_model(out, out / "models")
    return request.param, out, made


def test_the_train_workflow_has_all_properties_that_monai_asks_for(run) -> None:
    assert run[2].check_properties() == []


def test_a_run_validates_every_epoch_and_exports_its_best_weights(run) -> None:
    task, out, _ = run
    epochs = epochs_of(out)
    assert [epoch["epoch"] for epoch in epochs] == [1, 2]
    terms = {"classification", "box_regression"} if task == "detection" else set()
    assert all({"loss", "val_score"} | terms <= set(epoch) for epoch in epochs)
    best = torch.load(out / "checkpoints" / "best.pt", weights_only=True)
    exported = load_file(out / "exported" / "model.safetensors")
    assert set(best) == set(exported)
    assert [name for name in best if not torch.equal(best[name], exported[name])] == []


def test_the_first_epoch_leaves_the_pretrained_parts_alone_and_the_second_does_not(run) -> None:
    _, out, made = run
    network = made.parser.get_parsed_content("network_def")
    inside = {id(value) for level in network.pretrained_modules() for part in level for value in part.parameters()}
    frozen = [name for name, value in network.named_parameters() if id(value) in inside]
    others = [name for name, value in network.named_parameters() if id(value) not in inside]
    first, second = (
        torch.load(out / "checkpoints" / f"checkpoint_epoch={epoch}.pt", weights_only=True)["network"]
        for epoch in (1, 2)
    )
    fresh = made.parser.get_parsed_content("start_weights") is None
    assert fresh, "nothing was loaded: the encoder began random"
    assert any(not torch.equal(first[name], second[name]) for name in frozen)
    assert any(not torch.equal(first[name], second[name]) for name in others)
    running = [name for name in first if name.endswith("bn1.num_batches_tracked")]
    assert running
    assert all((int(first[name]), int(second[name])) == (0, TINY["iterations_per_epoch"]) for name in running)


def test_a_run_refuses_a_folder_that_holds_one(run, phantoms: Path) -> None:
    task, out, _ = run
    before = (out / "exported" / "model.safetensors").read_bytes()
    with pytest.raises(Exception) as failure:
        training(task, out, phantoms).initialize()
    assert isinstance(cause_of(failure), FileExistsError)
    assert "already holds a run" in str(cause_of(failure))
    assert (out / "exported" / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("task", TASKS)
def test_a_mistyped_key_stops_the_bundle_with_the_right_one(task: str, tmp_path: Path, phantoms: Path) -> None:
    with pytest.raises(Exception) as failure:
        training(task, tmp_path / "out", phantoms, max_epoch=1).initialize()
    assert "unknown configuration key 'max_epoch': did you mean 'max_epochs'?" in str(cause_of(failure))
    with pytest.raises(Exception) as failure:
        inference(task, tmp_path / "out", phantoms, tmp_path, ckpt_file="model.pt").initialize()
    assert "unknown configuration key 'ckpt_file'" in str(cause_of(failure))
    assert not (tmp_path / "out").exists()


def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(run, tmp_path: Path, phantoms: Path) -> None:
    task, out, _ = run
    # the schedule is that of two epochs, the run stops after one
    finished(training(task, tmp_path / "out", phantoms, **{"train#trainer#max_epochs": 1}))
    assert [epoch["epoch"] for epoch in epochs_of(tmp_path / "out")] == [1]
    finished(training(task, tmp_path / "out", phantoms, resume=True))
    assert [epoch["epoch"] for epoch in epochs_of(tmp_path / "out")] == [1, 2]
    last = "checkpoints/checkpoint_epoch=2.pt"
    straight, resumed = (torch.load(root / last, weights_only=True)["network"] for root in (out, tmp_path / "out"))
    assert [name for name in straight if not torch.equal(straight[name], resumed[name])] == []
    assert (out / "exported/model.safetensors").read_bytes() == (
        tmp_path / "out/exported/model.safetensors"
    ).read_bytes()
    ours, theirs = epochs_of(tmp_path / "out")[1], epochs_of(out)[1]
    assert (ours["loss"], ours["val_score"], ours["lr"]) == (theirs["loss"], theirs["val_score"], theirs["lr"])


def test_resuming_where_nothing_lies_says_so(tmp_path: Path, phantoms: Path) -> None:
    with pytest.raises(Exception) as failure:
        training("segmentation", tmp_path / "out", phantoms, resume=True).initialize()
    assert isinstance(cause_of(failure), FileNotFoundError)
    assert "nothing to resume" in str(cause_of(failure))


def predictions_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "predictions.json").read_text())
    return found


def check_same_predictions(ours: Path, theirs: Path) -> None:
    first, second = predictions_of(ours), predictions_of(theirs)
    first.pop("model_sha256"), second.pop("model_sha256")  # of model.pt, and of model.safetensors
    assert first == second
    maps = sorted(path.relative_to(theirs) for path in theirs.rglob("*") if path.suffix in (".gz", ".png"))
    assert maps == sorted(path.relative_to(ours) for path in ours.rglob("*") if path.suffix in (".gz", ".png"))
    for path in maps:
        if path.suffix == ".png":
            assert np.array_equal(Image.open(ours / path), Image.open(theirs / path))
            continue
        mine, other = nib.load(ours / path), nib.load(theirs / path)
        assert np.array_equal(np.asarray(mine.dataobj), np.asarray(other.dataobj))
        assert np.array_equal(mine.affine, other.affine)


def test_inference_has_monais_properties_and_writes_what_predict_writes(run, phantoms: Path, tmp_path: Path) -> None:
    task, out, _ = run
    made = finished(inference(task, tmp_path / "bundle", phantoms, out / "models"))
    assert made.check_properties() == []
    predict(str(out), str(phantoms), str(tmp_path / "predict"), device="cpu")
    check_same_predictions(tmp_path / "bundle", tmp_path / "predict")
    found = predictions_of(tmp_path / "bundle")
    assert found["task"] == task
    assert found["model_sha256"] == load_finetuned(out / "models").description["sha256"]
    test_rows = [row for row in json.loads(phantoms.read_text())["test"] if row["kind"] == "volume"]
    assert [one["image"] for one in found["predictions"]] == [row["image"] for row in test_rows]
    for row, one in zip(test_rows, found["predictions"], strict=True):
        if task == "segmentation":
            source, written = (
                nib.load(phantoms.parent / row["image"]),
                nib.load(tmp_path / "bundle" / one["prediction"]),
            )
            assert written.shape == source.shape
            np.testing.assert_allclose(written.affine, source.affine, atol=1e-4)
        elif task == "detection":
            assert len(one["detections"]) == TINY_OF[task]["max_detections"]
            assert {"box_mm", "center_mm", "size_mm", "score", "class"} <= set(one["detections"][0])
        else:
            assert sum(one["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_a_reader_gets_along_with_the_canonical_parts_alone(run, phantoms: Path) -> None:
    """As MONAI Label does: preprocessing, inferer on a batch of one, postprocessing; no datalist, no evaluator."""
    task, out, _ = run
    parser = ConfigParser()
    parser.read_config(checks.files(bundle_of(task), "inference"))
    parser.update({"bundle_root": str(out)})  # its models folder is found by itself
    row = next(row for row in json.loads(phantoms.read_text())["test"] if row["kind"] == "volume")
    network = parser.get_parsed_content("network_def")
    network.load_state_dict(torch.load(out / "models" / "model.pt", weights_only=True))
    data = parser.get_parsed_content("preprocessing")(
        {"image": str(phantoms.parent / row["image"]), "modality": row["modality"]}
    )
    with torch.no_grad():
        batch = parser.get_parsed_content("inferer")(data["image"].as_tensor()[None], network.eval())
    data["pred"] = batch[0]
    found = parser.get_parsed_content("postprocessing")(data)["pred"]
    wanted = out / "reader"
    predict(str(out), str(phantoms), str(wanted), device="cpu")
    one = next(one for one in predictions_of(wanted)["predictions"] if one["image"] == row["image"])
    if task == "segmentation":
        written = nib.load(wanted / one["prediction"])
        assert isinstance(found, MetaTensor)
        assert np.array_equal(found.as_tensor().numpy()[0], np.asarray(written.dataobj))
        np.testing.assert_allclose(found.affine.numpy(), written.affine, atol=1e-4)
    else:
        assert found == one["detections" if task == "detection" else "probabilities"]


def test_inference_refuses_another_tasks_model_and_a_folder_with_files(run, phantoms: Path, tmp_path: Path) -> None:
    task, out, _ = run
    other = TASKS[TASKS.index(task) - 1]
    with pytest.raises(Exception) as failure:
        finished(inference(other, tmp_path / "out", phantoms, out / "models"))
    assert f"must describe a model for {other}" in str(cause_of(failure))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    with pytest.raises(Exception) as failure:
        finished(inference(task, tmp_path / "out", phantoms, out / "models"))
    assert "is not empty" in str(cause_of(failure))
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["notes.txt"]


def test_inference_takes_the_architecture_from_keys_as_well(run, phantoms: Path, tmp_path: Path) -> None:
    task, out, _ = run
    described = f"%{out / 'exported' / 'model.json'}"  # MONAI's macro: the content of another file
    keys = {
        "network_description": f"{described}#network", "class_names": f"{described}#class_names",
        "preprocessing_settings": f"{described}#preprocessing", "prediction_settings": f"{described}#prediction",
    }  # fmt: skip
    changes = {"model_json": str(tmp_path / "none.json"), **keys}
    finished(inference(task, tmp_path / "keys", phantoms, out / "models", **changes))
    finished(inference(task, tmp_path / "file", phantoms, out / "models"))
    check_same_predictions(tmp_path / "keys", tmp_path / "file")


def test_evaluate_scores_a_bundles_model_as_it_scores_the_run(run, phantoms: Path, tmp_path: Path) -> None:
    task, out, _ = run
    label = "class" if task == "classification" else "label"
    settings = {} if task == "detection" else {"label_key": label}
    places = {"output_dir": str(tmp_path / "bundle"), "datalist": str(phantoms)}
    finished(workflow(task, "evaluate", "train", weights=str(out / "models"), **places, **settings))
    scores = evaluate(str(out), str(phantoms), label=label, out=str(tmp_path / "run"), device="cpu")
    written = json.loads((tmp_path / "bundle" / "scores.json").read_text())
    assert written["scores"] == json.loads((tmp_path / "run" / "scores.json").read_text())["scores"]
    assert SCORE[task] in scores
    assert written["num_cases"] == 2
    assert (tmp_path / "bundle" / "cases.csv").read_text().count("\n") == 3
    assert list((tmp_path / "bundle" / "pictures").glob("*.png"))


def test_the_model_exports_by_scripting_and_predicts_the_same(run, tmp_path: Path) -> None:
    task, out, _ = run
    if task not in SCRIPTED:
        pytest.skip("detectors take lists of images and give dictionaries: TorchScript has no part in them")
    ckpt_export(
        net_id="network_def", filepath=str(tmp_path / "model.ts"), ckpt_file=str(out / "models" / "model.pt"),
        meta_file=checks.meta_file(bundle_of(task)), config_file=checks.files(bundle_of(task), "inference"),
        model_json=str(out / "models" / "model.json"),
    )  # fmt: skip
    scripted = torch.jit.load(tmp_path / "model.ts").eval()
    network = load_finetuned(out).network
    for shape in ((1, 1, 40, 33, 5), (2, 1, 64, 64)):
        image = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(scripted(image), network(image))


def test_a_changed_model_file_is_noticed(run, tmp_path: Path) -> None:
    _, out, _ = run
    shutil.copytree(out / "models", tmp_path / "models")
    weights = torch.load(tmp_path / "models" / "model.pt", weights_only=True)
    name = next(iter(weights))
    torch.save(weights | {name: weights[name] + 1}, tmp_path / "models" / "model.pt")
    with pytest.raises(ValueError, match=r"model\.pt is not the file that model\.json describes"):
        load_finetuned(tmp_path / "models")


@pytest.mark.parametrize(
    ("task", "configs", "changes"),
    [
        ("segmentation", ("images", "cpu_images"), {"patch_size": [32, 32]}),
        ("detection", ("images", "cpu_images"), {"patch_size": [32, 32]}),
        ("classification", (), {"spatial_dims": 2, "tta_axes": [1]}),
        ("segmentation", ("inflated",), {}),
        ("segmentation", ("dynunet",), {"filters": [8, 16, 16]}),
        ("detection", ("inflated",), {"patch_size": [32, 32, 32]}),
    ],
    ids=["segment images", "detect in images", "classify images", "inflated", "dynunet", "detect, inflated"],
)
def test_every_other_configuration_trains_and_predicts(
    task: str, configs: tuple[str, ...], changes: dict[str, Any], tmp_path: Path, phantoms: Path
) -> None:
    short = {"max_epochs": 1, "iterations_per_epoch": 1, "decoder_epochs": 0, "val_split": "$None"}
    made = training(task, tmp_path / "out", phantoms, *configs, **short | changes)
    finished(made)
    assert [epoch["epoch"] for epoch in epochs_of(tmp_path / "out")] == [1]
    models = as_bundle_model(tmp_path / "out", tmp_path / "models")
    finished(inference(task, tmp_path / "bundle", phantoms, models))
    predict(str(tmp_path / "out"), str(phantoms), str(tmp_path / "predict"), device="cpu")
    check_same_predictions(tmp_path / "bundle", tmp_path / "predict")


def test_a_label_map_may_stand_in_any_column(tmp_path: Path, phantoms: Path) -> None:
    listed = json.loads(phantoms.read_text())
    for split in ("training", "validation", "test"):
        for row in listed[split]:
            row["image"], row["organs"] = (str(phantoms.parent / row[key]) for key in ("image", "label"))
            row["label"] = row["class"]  # what stood there is something else
    (tmp_path / "list.json").write_text(json.dumps(listed))
    made = finished(
        training("segmentation", tmp_path / "out", tmp_path / "list.json", label_key="organs", max_epochs=1)
    )
    assert "val_dice" in epochs_of(tmp_path / "out")[0]
    sample = made.parser.get_parsed_content("train#samples")[0]
    assert sample["label"].shape == sample["image"].shape


@pytest.mark.slow
def test_two_processes_train_through_torchrun_and_write_once(tmp_path: Path, phantoms: Path) -> None:
    """Frozen parameters in the first epoch, three validation cases for two ranks, one folder."""
    settings = tmp_path / "tiny.json"
    changes = {"output_dir": str(tmp_path / "out"), "datalist": str(phantoms)}
    settings.write_text(json.dumps({**TINY, **TINY_OF["segmentation"], **changes}))
    bundle = bundle_of("segmentation")
    configs = [*checks.files(bundle, "train", "cpu", "multi_gpu_train"), str(settings)]
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nnodes=1", "--nproc_per_node=2",
        "-m", "monai.bundle", "run", "--config_file", str(configs),
        "--meta_file", checks.meta_file(bundle), "--bundle_root", str(bundle),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert [epoch["epoch"] for epoch in epochs_of(tmp_path / "out")] == [1, 2]
    state = torch.load(tmp_path / "out/checkpoints/checkpoint_epoch=2.pt", weights_only=True)
    assert not any(name.startswith("module.") for name in state["network"])
    assert load_finetuned(tmp_path / "out").task == "segmentation"


def train_on_a_rank(rank: int, task: str, out: str, phantoms: str) -> dict[str, float]:
    """The configuration for several processes, in a process group that is there already; sums of the parameters."""
    given = checks.read(bundle_of(task), "multi_gpu_train")
    steps = {step: [line for line in given[step] if "process_group" not in line] for step in ("initialize", "finalize")}
    made = training(task, Path(out), Path(phantoms), "multi_gpu_train", **steps)
    made.initialize()
    made.run()
    assert type(made.parser.get_parsed_content("network")).__name__ == "DistributedDataParallel"
    network = made.parser.get_parsed_content("network_def")
    sums = {name: float(value.detach().double().sum()) for name, value in network.named_parameters()}
    made.finalize()
    set_determinism(None)  # this process serves other tests
    return sums


@pytest.mark.parametrize("task", ["detection", "classification"])
def test_two_ranks_train_one_model(task: str, gloo_pair, tmp_path: Path, phantoms: Path) -> None:
    first, second = gloo_pair(train_on_a_rank, task, str(tmp_path / "out"), str(phantoms))
    assert first == second, "gradients were not averaged"
    assert [epoch["epoch"] for epoch in epochs_of(tmp_path / "out")] == [1, 2]
    assert "val_score" in epochs_of(tmp_path / "out")[1]
    assert load_finetuned(tmp_path / "out").task == task


def test_freezing_finds_the_batch_norms_that_several_gpus_bring() -> None:
    """Converting them replaces modules after the handler was made."""
    encoder = SliceEncoder("resnet18", embedding_dim=16)
    network = ContextSliceUNet(encoder, None, decoder_channels=(16, 16, 8, 8, 8))
    handler = FreezePretrained(network, None)
    network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    engine = SimpleNamespace(state=SimpleNamespace(epoch=1), frozen=[])
    handler(engine)
    frozen = {id(part) for module in engine.frozen for part in module.modules()}
    norms = [part for part in encoder.backbone.modules() if isinstance(part, torch.nn.SyncBatchNorm)]
    assert len(norms) == 20
    assert all(id(part) in frozen for part in norms)

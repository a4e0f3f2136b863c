# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Fine-tuning on labelled data: the three bundles ``TASK_finetuning`` behind one function."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from monai_cluster.apps.bundle_files import bundle_root
from monai_cluster.apps.check_overrides import check_override_keys
from monai_cluster.apps.output_folder import OutputFolder
from monai_cluster.apps.pretraining import plain_path
from monai_cluster.apps.training_workflow import run_training
from monai_cluster.weights.building import side_file

__all__ = ["TASKS", "finetune"]

TASKS = ("segmentation", "detection", "classification")
OPTION_OF = {
    "output_dir": "out",
    "datalist": "data",
    "dataset_dir": "data",
    "bundle_root": "set by the package",
    "train_split": "train_split",
    "val_split": "val_split",
    "seed": "seed",
    "resume": "resume",
    "pretrained": "pretrained",
    "schedule": "schedule",
    "spatial_dims": "spatial_dims",
}


def finetune(
    task: Literal["segmentation", "detection", "classification"],
    out: str,
    data: str,
    pretrained: str | None = None,
    schedule: Literal["decoder_first", "full", "frozen"] = "decoder_first",
    network: Literal["slice", "inflated", "stacked", "dynunet"] | None = None,
    preset: Literal["auto", "cpu", "gpu"] = "auto",
    spatial_dims: int = 3,
    train_split: str = "training",
    val_split: str | None = "validation",
    max_epochs: int | None = None,
    seed: int = 0,
    num_workers: int | None = None,
    device: str | None = None,
    resume: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Train a segmentation, detection or classification model from pretrained weights, or from scratch.

    Everything else is a key of ``bundles/TASK_finetuning/configs/train.json``, set through ``overrides``.

    Args:
        task: what to learn.
        out: folder of the run; refused if it already holds one.
        data: datalist JSON or CSV with labels.
        pretrained: a pretraining run's folder, its exported encoder, or other ResNet weights; none trains from scratch.
        schedule: train the new parts first and then all, all from the start, or only the new parts.
        network: ``slice`` (2D slice encoder, in 3D with context between slices), ``inflated`` (its kernels as a 3D
            network), ``stacked`` (detection: slice pyramids as a 3D network) or ``dynunet`` (segmentation: MONAI's
            DynUNet, without pretraining); the task's default otherwise.
        preset: ``cpu``, ``gpu``, or ``auto``, which is ``gpu`` where CUDA is available and ``cpu`` elsewhere.
        spatial_dims: 2 for images, 3 for volumes.
        train_split: which list of the datalist to learn from.
        val_split: which list to choose the best weights by; ``none`` keeps the last weights.
        max_epochs: length of the run; the preset's by default.
        seed: of new weights, order of samples and augmentation.
        num_workers: loader processes; the result does not depend on it.
        device: such as ``cpu`` or ``cuda:1``; CUDA by default where there is one.
        resume: continue the run that lies in ``out``.
        overrides: further configuration keys and their values.

    Returns:
        The fine-tuned model, ``out/exported/model.safetensors``.

    Raises:
        FileExistsError: if ``out`` holds a run and ``resume`` is off.
        FileNotFoundError: if ``data`` or ``pretrained`` does not exist, or nothing can be resumed.
        ValueError: for unknown override keys (with the nearest known one) or values the components refuse.
    """
    for name, path in (("data", data), ("pretrained", pretrained)):
        if path is not None and not Path(path).exists():
            raise FileNotFoundError(f"{name} {path!r} does not exist.")
    bundle = f"{task}_finetuning"
    root = bundle_root(bundle)
    named = {
        "max_epochs": max_epochs,
        "num_workers": num_workers,
        "device": None if device is None else f"$torch.device({device!r})",
    }
    said = {name: value for name, value in named.items() if value is not None}
    option_of = OPTION_OF | {name: name for name in said}
    named_anyway = sorted(option_of.keys() & dict(overrides or {}).keys())
    if named_anyway:
        options = ", ".join(f"{key!r} is {option_of[key]}" for key in named_anyway)
        raise ValueError(f"these keys have options of their own, which overrides must not contradict: {options}.")
    settings: dict[str, Any] = {"spatial_dims": spatial_dims} | said | dict(overrides or {})
    check_override_keys(settings, root)
    settings |= {
        "bundle_root": str(root),
        "output_dir": plain_path(out, "out"),
        "datalist": plain_path(data, "data"),
        "train_split": train_split,
        "val_split": "$None" if val_split in (None, "none") else val_split,
        "schedule": schedule,
        "seed": seed,
        "resume": resume,
    }
    if pretrained is not None:
        settings["pretrained"] = plain_path(str(_weights(pretrained)), "pretrained")
    known = {"pretrained_sha256": side_file(settings.get("pretrained")).get("sha256")}
    run_training(bundle, _configs(bundle, preset, network, spatial_dims), settings, OutputFolder(out), known)
    return OutputFolder(out).model


def _weights(pretrained: str) -> Path:
    """The exported encoder of a run's folder, or the file itself."""
    path = Path(pretrained)
    return OutputFolder(path).encoder if path.is_dir() and OutputFolder(path).encoder.is_file() else path


def _configs(bundle: str, preset: str, network: str | None, spatial_dims: int) -> Sequence[str]:
    """Configuration files in the order in which they override each other."""
    if preset == "auto":
        preset = "gpu" if torch.cuda.is_available() else "cpu"
    known = {path.stem for path in (bundle_root(bundle) / "configs").glob("*.json")}
    files = ["train", *(["images"] if spatial_dims == 2 and "images" in known else [])]
    if preset == "cpu":
        files.append("cpu")
        files += ["cpu_images"] if spatial_dims == 2 and "cpu_images" in known else []
    if network not in (None, "slice"):
        files.append(str(network))
    return files

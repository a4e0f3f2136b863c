# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Self-supervised pretraining: the bundle ``joint_pretraining`` behind one function."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from monai_cluster.apps.bundle_files import bundle_root
from monai_cluster.apps.check_overrides import check_override_keys
from monai_cluster.apps.output_folder import OutputFolder
from monai_cluster.apps.training_workflow import run_training

__all__ = ["plain_path", "pretrain"]

BUNDLE = "joint_pretraining"
OPTION_OF = {
    "output_dir": "out",
    "datalist": "data",
    "dataset_dir": "data",
    "bundle_root": "set by the package",
    "split": "split",
    "seed": "seed",
    "resume": "resume",
}


def pretrain(
    out: str,
    data: str,
    preset: Literal["auto", "cpu", "gpu", "paper"] = "auto",
    method: Literal["swav", "deepcluster"] = "swav",
    schedule: Literal["joint", "stages"] = "joint",
    split: str = "training",
    max_epochs: int | None = None,
    seed: int = 0,
    num_workers: int | None = None,
    device: str | None = None,
    pretrained: str | None = None,
    resume: bool = False,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """Pretrain a slice encoder and a slice aggregator without labels.

    Everything else is a key of ``bundles/joint_pretraining/configs/train.json``, set through ``overrides``.

    Args:
        out: folder of the run; refused if it already holds one.
        data: folder of scans, datalist JSON or CSV.
        preset: ``cpu``, ``gpu``, ``paper`` or ``auto``, which is ``gpu`` where CUDA is available and ``cpu`` elsewhere.
        method: ``swav`` or ``deepcluster`` for the image and the volume loss.
        schedule: ``joint``, all losses in each step, or ``stages``, the paper's image, mask and volume stages.
        split: which list of the datalist to learn from.
        max_epochs: length of the run; the preset's by default. With ``stages`` it is the length of each stage.
        seed: of initial weights, order of samples and augmentation.
        num_workers: loader processes; the preset's by default. The result does not depend on it.
        device: such as ``cpu`` or ``cuda:1``; CUDA by default where there is one.
        pretrained: weights to start the slice encoder from (ImageNet, SwAV, MoCo, VISSL, MONAI or ours).
        resume: continue the run that lies in ``out``.
        overrides: further configuration keys and their values.

    Returns:
        The exported encoder, ``out/exported/encoder.safetensors``.

    Raises:
        FileExistsError: if ``out`` holds a run and ``resume`` is off.
        FileNotFoundError: if ``data`` does not exist, or nothing can be resumed.
        ValueError: for unknown override keys (with the nearest known one) or values the components refuse.
    """
    if not Path(data).exists():
        raise FileNotFoundError(f"data {data!r} does not exist: give a folder, a datalist JSON or a CSV file.")
    named = {
        "max_epochs": max_epochs,
        "num_workers": num_workers,
        "device": None if device is None else f"$torch.device({device!r})",
        "pretrained": pretrained,
    }
    settings = {name: value for name, value in named.items() if value is not None} | dict(overrides or {})
    named_anyway = sorted(OPTION_OF.keys() & dict(overrides or {}).keys())
    if named_anyway:
        options = ", ".join(f"{key!r} is {OPTION_OF[key]}" for key in named_anyway)
        raise ValueError(f"these keys have options of their own, which overrides must not contradict: {options}.")
    root = bundle_root(BUNDLE)
    check_override_keys(settings, root)
    settings |= {
        "bundle_root": str(root),
        "output_dir": plain_path(out, "out"),
        "datalist": plain_path(data, "data"),
        "split": split,
        "seed": seed,
        "resume": resume,
    }
    run_training(BUNDLE, _configs(preset, method, schedule), settings, OutputFolder(out))
    return OutputFolder(out).encoder


def _configs(preset: str, method: str, schedule: str) -> list[str]:
    """Configuration files in the order in which they override each other."""
    if preset == "auto":
        preset = "gpu" if torch.cuda.is_available() else "cpu"
    return [
        "train",
        preset,
        *(["deepcluster"] if method == "deepcluster" else []),
        *(["stages"] if schedule == "stages" else []),
    ]


def plain_path(path: str, name: str) -> str:
    """A path that MONAI's configuration leaves as it is."""
    text = str(Path(path).absolute())
    if "#" in text or text.startswith(("$", "@", "%")):
        raise ValueError(
            f"{name}: MONAI's configurations rewrite paths with '#' in them, got {text}: rename the folder, or name it "
            "in a datalist JSON that lies elsewhere."
        )
    return text

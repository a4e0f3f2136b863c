# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A fine-tuned model with all that using it needs: architecture, classes, preprocessing, how to predict."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import monai
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from monai_cluster.apps.output_folder import OutputFolder
from monai_cluster.engines import ClassificationPredictor, DetectionPredictor, SegmentationPredictor
from monai_cluster.version import __version__
from monai_cluster.weights import build_network
from monai_cluster.weights.save import _check_metadata, _replace, sha256_of

__all__ = ["FinetunedModel", "is_finetuned", "load_finetuned", "model_file", "save_finetuned"]

FORMAT = "monai_cluster model 1"
PREDICTORS: dict[str, type] = {
    "segmentation": SegmentationPredictor,
    "detection": DetectionPredictor,
    "classification": ClassificationPredictor,
}


@dataclass(frozen=True)
class FinetunedModel:
    """A fine-tuned network and its description.

    Attributes:
        network: in evaluation mode, on the CPU.
        task: segmentation, detection or classification.
        class_names: by number; a segmentation's begins with the background.
        preprocessing: arguments of :func:`~monai_cluster.data.labelled_preprocessing`.
        prediction: arguments of the task's predictor.
        description: all of the JSON file.
    """

    network: nn.Module
    task: str
    class_names: tuple[str, ...]
    preprocessing: dict[str, Any]
    prediction: dict[str, Any]
    description: dict[str, Any]

    def predictor(self, **changes: Any) -> Any:
        """The task's predictor with this model's settings, some of them changed."""
        return PREDICTORS[self.task](**{**self.prediction, **changes})


def model_file(path: str | Path) -> Path:
    """``exported/model.safetensors`` of a run's folder, ``model.pt`` of a bundle's ``models``, or the file itself."""
    path = Path(path)
    if path.is_dir():
        run = OutputFolder(path).model
        in_bundle = path / "model.pt"
        if run.parent.is_dir():
            return run
        return in_bundle if in_bundle.is_file() else path / run.name
    return path


def is_finetuned(path: str | Path) -> bool:
    """Whether a run's folder or a file holds a fine-tuned model."""
    file = model_file(path)
    return file.is_file() and _format(file) == FORMAT


def _format(file: Path) -> Any:
    try:
        return json.loads(file.with_suffix(".json").read_text(encoding="utf-8")).get("format")
    except (OSError, ValueError, AttributeError):
        return None


def save_finetuned(
    path: str | Path,
    network: nn.Module,
    task: str,
    class_names: Sequence[str],
    preprocessing: Mapping[str, Any],
    prediction: Mapping[str, Any],
    recipe: Mapping[str, Any],
) -> Path:
    """Write ``model.safetensors`` and ``model.json`` beside it, each as a whole or not at all.

    Args:
        path: the safetensors file; one that ends in ``.pt`` becomes a PyTorch state dict, as MONAI's bundles hold it.
        network: has ``architecture()``.
        task: segmentation, detection or classification.
        class_names: by number.
        preprocessing: how images were prepared.
        prediction: arguments of the task's predictor.
        recipe: how it was trained.

    Returns:
        the file's path.

    Raises:
        ValueError: if weights are not finite, or the description holds a path or what JSON cannot hold.
    """
    described = {
        "network": {"type": type(network).__name__} | network.architecture(),  # type: ignore[operator]
        "task": task,
        "class_names": list(class_names),
        "preprocessing": dict(preprocessing),
        "prediction": dict(prediction),
        "recipe": dict(recipe),
    }
    _check_metadata(described, "description")
    # Copies: MONAI's DynUNet lists its blocks under two names each, and safetensors refuses shared memory.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in network.state_dict().items()}
    broken = [name for name, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(f"{broken[0]} and {len(broken) - 1} more hold NaN or infinite weights: training broke down.")
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    write = (
        partial(torch.save, tensors)
        if target.suffix == ".pt"
        else partial(save_file, tensors, metadata={"format": "pt"})
    )
    _replace(target, write)
    side = {
        "format": FORMAT,
        **described,
        "versions": {"monai_cluster": __version__, "monai": monai.__version__, "torch": torch.__version__},
        "sha256": sha256_of(target),
    }
    text = json.dumps(side, indent=2, sort_keys=True, allow_nan=False)
    _replace(target.with_suffix(".json"), lambda unfinished: unfinished.write_text(text + "\n", encoding="utf-8"))
    return target


def load_finetuned(path: str | Path) -> FinetunedModel:
    """Rebuild a fine-tuned model, after checking that it is whole.

    Args:
        path: a run's folder, its ``exported`` folder, or ``model.safetensors``; a bundle's ``models`` folder with
            ``model.pt`` and ``model.json``.

    Raises:
        FileNotFoundError: if the weights or the JSON file are missing.
        ValueError: if the two do not belong together, or the file is of another format.
    """
    file = model_file(path)
    side = file.with_suffix(".json")
    for wanted, what in ((file, "weights"), (side, "description")):
        if not wanted.is_file():
            raise FileNotFoundError(
                f"the {what} {wanted} of a fine-tuned model are missing: give the folder of a finished `finetune` run; "
                "a pretrained encoder must be fine-tuned first."
            )
    if _format(file) != FORMAT:
        raise ValueError(f"{side.name} is of format {_format(file)!r}, this version reads {FORMAT!r}.")
    description = json.loads(side.read_text(encoding="utf-8"))
    if sha256_of(file) != description["sha256"]:
        raise ValueError(
            f"{file.name} is not the file that {side.name} describes (their sha256 differ): one of them was changed, "
            "cut off or replaced; copy both again."
        )
    network = build_network(description["network"])
    network.load_state_dict(torch.load(file, weights_only=True) if file.suffix == ".pt" else load_file(file))
    return FinetunedModel(
        network.eval(),
        description["task"],
        tuple(description["class_names"]),
        description["preprocessing"],
        description["prediction"],
        description,
    )

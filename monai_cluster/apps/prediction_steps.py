# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The steps of a bundle's ``inference.json``: predictions onto the sources' grids, and into files."""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from torch import Tensor

from monai_cluster.apps.prediction_folder import PredictionFolder, case_names
from monai_cluster.data import Datalist, class_ids_on_source_grid
from monai_cluster.data.boxes import detections_to_json
from monai_cluster.data.labelled_samples import SOURCE_AFFINE, SOURCE_SHAPE
from monai_cluster.keys import ClusterKeys as Keys
from monai_cluster.weights.save import sha256_of

__all__ = ["PredictionToSourced", "PredictionWriter", "model_description", "value_on_source"]

logger = logging.getLogger(__name__)
DESCRIBED = ("network", "class_names", "preprocessing", "prediction")


def model_description(path: str | Path, task: str, default: Mapping[str, Any]) -> dict[str, Any]:
    """What ``models/model.json`` says about the model beside it, or a default where there is no such file.

    Args:
        path: as written by a fine-tuning run (``exported/model.json``) or by an export.
        task: segmentation, detection or classification.
        default: ``network``, ``class_names``, ``preprocessing`` and ``prediction``.

    Returns:
        the same four entries.

    Raises:
        ValueError: if the file describes a model of another task, or lacks an entry.
    """
    file = Path(path)
    if not file.is_file():
        return {name: default[name] for name in DESCRIBED}
    found = json.loads(file.read_text(encoding="utf-8"))
    if found.get("task") != task or any(name not in found for name in DESCRIBED):
        raise ValueError(
            f"{file.name} must describe a model for {task}, with {', '.join(DESCRIBED)}, got task "
            f"{found.get('task')!r} and {', '.join(sorted(found))}: copy a fine-tuned model's model.json there."
        )
    logger.info("architecture, classes and preprocessing from %s", file)
    return {name: found[name] for name in DESCRIBED}


def value_on_source(
    task: str, class_names: Sequence[str], found: Any, affine: Tensor, source: Tensor, shape: Sequence[int]
) -> Any:
    """A prediction in terms of the source file.

    Args:
        task: segmentation, detection or classification.
        class_names: by number.
        found: what the task's predictor returned: probabilities ``K …``, boxes, or probabilities ``K``.
        affine: ``4 4`` of the preprocessed image, index to RAS mm.
        source: ``4 4`` of the file.
        shape: of the file.

    Returns:
        Class ids on the file's grid; a list of detections, see :func:`~monai_cluster.data.boxes.detections_to_json`,
        each with its ``class``; or probabilities by class name.
    """
    if task == "segmentation":
        return class_ids_on_source_grid(found.cpu(), affine, source, shape)
    if task == "classification":
        return {name: round(float(value), 6) for name, value in zip(class_names, found, strict=True)}
    boxes = {name: value.float().cpu() for name, value in found.items()}
    listed: list[dict[str, Any]] = detections_to_json(
        boxes[Keys.BOX], boxes[Keys.BOX_LABEL].long(), boxes[Keys.SCORE], affine, source, shape
    )
    for entry in listed:
        entry["class"] = class_names[entry["label"]]
    return listed


class PredictionToSourced(MapTransform):
    """Put ``pred`` on the grid of the file that :func:`labelled_preprocessing` loaded.

    A segmentation becomes class ids ``1 …`` as a MetaTensor with the file's affine, boxes become a list of detections
    in world millimetres, class probabilities a dictionary by name.

    Args:
        keys: the prediction; the preprocessed image with its source's grid lies beside it.
        task: segmentation, detection or classification.
        class_names: by number.
        image_key: the preprocessed image.
    """

    def __init__(
        self, keys: KeysCollection, task: str, class_names: Sequence[str], image_key: str = Keys.IMAGE
    ) -> None:
        super().__init__(keys)
        self.task, self.class_names, self.image_key = task, list(class_names), image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Convert every key."""
        output = dict(data)
        affine = torch.as_tensor(output[self.image_key].affine, dtype=torch.float64)
        source, shape = output[SOURCE_AFFINE], tuple(int(length) for length in output[SOURCE_SHAPE])
        for key in self.key_iterator(output):
            value = value_on_source(self.task, self.class_names, output[key], affine, source, shape)
            output[key] = MetaTensor(value[None], affine=source) if self.task == "segmentation" else value
        return output


class PredictionWriter:
    """Write an evaluator's predictions as :func:`monai_cluster.apps.predict` does.

    Args:
        output_dir: folder of label maps and ``predictions.json``; refused if it is not empty.
        task: segmentation, detection or classification.
        class_names: by number.
        rows: that the evaluator goes through.
        weights: the file that the network's weights come from; its sha256 is noted.
    """

    def __init__(
        self, output_dir: str, task: str, class_names: Sequence[str], rows: Datalist, weights: str | Path
    ) -> None:
        self.output_dir, self.task, self.class_names, self.weights = output_dir, task, list(class_names), Path(weights)
        self.rows = {row[Keys.SAMPLE_INDEX]: row for row in rows.rows}
        self.names = dict(zip(self.rows, case_names(rows), strict=True))
        self.folder: PredictionFolder | None = None

    def attach(self, engine: Engine) -> None:
        """Register on the evaluator."""
        engine.add_event_handler(Events.STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)
        engine.add_event_handler(Events.COMPLETED, self._finish)

    def _start(self, engine: Any) -> None:
        self.folder = PredictionFolder(self.output_dir, self.task, self.class_names, list(self.names.values()))

    def __call__(self, engine: Any) -> None:
        assert self.folder is not None
        for sample in engine.state.output:
            index = int(sample[Keys.SAMPLE_INDEX])
            value = sample[Keys.PRED]
            value = value.as_tensor()[0] if isinstance(value, MetaTensor) else value
            self.folder.add(self.names[index], value, sample[SOURCE_AFFINE], self.rows[index][Keys.IMAGE])

    def _finish(self, engine: Any) -> None:
        assert self.folder is not None
        logger.info("%d predictions in %s", len(self.folder.entries), self.folder.finish(sha256_of(self.weights)))

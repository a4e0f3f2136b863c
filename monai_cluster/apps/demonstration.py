# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The whole job on phantoms: make them, pretrain, embed, probe, fine-tune, draw."""

from __future__ import annotations

import json
import logging
import time
from typing import Any, Literal

from monai_cluster.apps.demonstration_labels import demonstrate_finetuning
from monai_cluster.apps.evaluation import evaluate
from monai_cluster.apps.output_folder import OutputFolder
from monai_cluster.apps.pretraining import pretrain
from monai_cluster.data.phantoms import write_phantoms

__all__ = ["demo"]

logger = logging.getLogger(__name__)


def demo(
    out: str = "demo_out",
    seed: int = 0,
    max_epochs: int | None = None,
    method: Literal["swav", "deepcluster"] = "swav",
    num_volumes_per_class: int = 20,
    num_images_per_class: int = 80,
    labels: bool = True,
) -> dict[str, Any]:
    """Pretrain on procedurally generated phantoms without labels, probe the embeddings, then fine-tune with labels.

    Args:
        out: folder of the run; refused if it already holds one. The phantoms go to its subfolder ``data``.
        seed: of phantoms, weights and augmentation.
        max_epochs: length of the pretraining; the demo's own by default.
        method: clustering of the image and the volume loss.
        num_volumes_per_class: phantoms of each class, 35 % to learn from and the rest to test with.
        num_images_per_class: the same for 2D images.
        labels: go on to a segmentation and a detection on labelled phantoms.

    Returns:
        Probe results of the pretrained and the untrained encoder for images and volumes, as written to ``probe.json``,
        and the scores of the segmentation and the detection.

    Raises:
        FileExistsError: if ``out`` holds a run.
    """
    folder, started = OutputFolder(out), time.monotonic()
    if folder.root.exists() and any(folder.root.iterdir()):
        raise FileExistsError(f"{folder.root} is not empty: choose another folder with --out, or delete it yourself.")
    datalist = write_phantoms(
        folder.root / "data",
        num_volumes_per_class=num_volumes_per_class,
        num_images_per_class=num_images_per_class,
        seed=seed,
        test_share=0.65,
    )
    pretrain(str(folder.root), str(datalist), preset="cpu", method=method, max_epochs=max_epochs, seed=seed)
    results: dict[str, Any] = {
        level: evaluate(str(folder.root), str(datalist), level=level, seed=seed) for level in ("image", "volume")
    }
    (folder.root / "probe.json").write_text(json.dumps(results, indent=2) + "\n")
    logger.info("\n%s", probe_table(results))
    if labels:
        results |= demonstrate_finetuning(folder.root, str(folder.root), seed)
    logger.info(
        "finished in %.0f s; encoder, models, curves, pictures and scores are in %s",
        time.monotonic() - started,
        folder.root,
    )
    return results


def probe_table(results: dict[str, Any]) -> str:
    """The probes as text: one line per level and representation, pretrained beside untrained."""
    lines = [
        f"{'':34}{'kNN accuracy':>26}{'linear accuracy':>26}",
        f"{'':34}" + f"{'untrained':>13}{'pretrained':>13}" * 2,
    ]
    for level, found in results.items():
        names = [name.removeprefix("pretrained: ") for name in found if name.startswith("pretrained: ")]
        for name in names:
            cells = [
                f"{found[f'{state}: {name}'][metric]:13.3f}"
                for metric in ("knn_accuracy", "linear_accuracy")
                for state in ("untrained", "pretrained")
            ]
            lines.append(f"{level + ': ' + name:34}" + "".join(cells))
    chance = ", ".join(
        f"{level} {next(iter(found.values()))['chance_accuracy']:.3f}" for level, found in results.items()
    )
    return "\n".join([*lines, f"largest class among the test rows: {chance}"])

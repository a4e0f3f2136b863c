# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Is the pretraining worth it on real labels: ``python -m tests.benchmarks.real_finetune SET OUT --weights NAME=PATH``.

One few-label study (``monai_cluster.apps.fewlabel``) for each set beside the checkout; an interrupted one goes on where
it stopped. ``--weights`` may be given several times; ``--numbers``, ``--seeds``, ``--steps`` and ``--schedules``
override the set's own. Sets: see ``STUDIES``.
"""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from PIL import Image

from monai_cluster.apps import fewlabel
from tests.benchmarks.real_datalist import SHARED

Row = dict[str, Any]
Lists = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What to compare on one set."""

    task: str
    make: Callable[[Path], Lists]
    numbers: tuple[int, ...]
    floor: float | None = None
    spatial_dims: int = 3
    steps: int = 200
    label_key: str = "label"
    network: str | None = None
    baseline: bool = False
    patients: str = "listed"
    overrides: dict[str, Any] = field(default_factory=dict)


def listed(folder: str, file: str = "datalist.json", modality: str | None = None, dims: int = 3) -> Lists:
    """A set's own datalist with absolute paths and without what the studies do not use."""
    content = json.loads((SHARED / folder / file).read_text())
    lists: Lists = {key: content[key] for key in ("labels", "box_labels") if key in content}
    for split in ("training", "validation", "test"):
        rows = []
        for row in content.get(split, []):
            images = row["image"] if isinstance(row["image"], list) else [row["image"]]
            paths = [str(SHARED / folder / image) for image in images]
            kept = {**row, "image": paths if isinstance(row["image"], list) else paths[0]}
            kept["kind"] = "volume" if dims == 3 else "image"
            if isinstance(row.get("label"), str):
                kept["label"] = str(SHARED / folder / row["label"])
            rows.append(kept | ({"modality": modality} if modality else {}))
        lists[split] = rows
    return lists


def hippocampus(folder: Path) -> Lists:
    """Head and tail of the hippocampus: label maps and their boxes, 73 people to learn from."""
    return listed("hippocampus_msd", modality="MR")


def acdc(folder: Path) -> Lists:
    """Three parts of the heart at two times of 25 people."""
    return listed("acdc_mini", modality="MR")


def acdc_diagnosis(folder: Path) -> Lists:
    """Five diagnoses from the end of diastole and of systole as two channels."""
    return listed("acdc_mini", "datalist_classification.json", "MR")


def brain_tumours(folder: Path) -> Lists:
    """Tumours on single slices; patients without a number join the training list under one name each."""
    return listed("brain_tumor_det2d", dims=2)


def lung_boxes(folder: Path) -> Lists:
    """Right and left lung on radiographs."""
    return listed("cxr_lung_boxes", dims=2)


def lesions(folder: Path, swap: bool = False) -> Lists:
    """Lesions of two people, one to learn from and one to test on."""
    content = listed("ms_lesions", modality="MR")
    rows = [content["training"], content["validation"]]
    return {"training": rows[swap], "test": rows[not swap], "validation": []}


def _arrays(name: str, file: str) -> Any:
    return np.load(SHARED / name / file)


def pneumonia(folder: Path) -> Lists:
    """Children's chest radiographs of 28 × 28 px, written as PNG; without patient numbers, an image counts as one."""
    content = _arrays("pneumonia_mnist", "pneumoniamnist_dev.npz")
    return _written(folder, content, "png")


def adrenal(folder: Path) -> Lists:
    """Masks of adrenal glands, 64³, written as NIfTI."""
    content = _arrays("adrenal_mnist3d", "adrenalmnist3d_64_dev.npz")
    return _written(folder, content, "nii.gz")


def _written(folder: Path, content: Any, suffix: str) -> Lists:
    folder.mkdir(parents=True, exist_ok=True)
    lists: Lists = {}
    for split, short in (("training", "train"), ("validation", "val"), ("test", "test")):
        rows = []
        for place, (image, label) in enumerate(
            zip(content[f"{short}_images"], np.ravel(content[f"{short}_labels"]), strict=True)
        ):
            path = folder / f"{short}_{place:04d}.{suffix}"
            if not path.is_file():
                if suffix == "png":
                    Image.fromarray(image).save(path)
                else:
                    nib.Nifti1Image(np.asarray(image, np.uint8), np.eye(4)).to_filename(path)
            kind = "image" if suffix == "png" else "volume"
            rows.append({"image": str(path), "label": int(label), "subject": path.name.split(".")[0], "kind": kind})
        # Classes are sorted in the file: the first few of a shuffled list hold both.
        lists[split] = [rows[one] for one in np.random.default_rng(0).permutation(len(rows))]
    return lists


SMALL: dict[str, Any] = {"cache_workers": 1}
STUDIES: dict[str, Study] = {
    "hippocampus": Study(
        "segmentation", hippocampus, (4, 8, 16, 32, 0), floor=0.65, baseline=True,
        overrides=SMALL | {"patch_size": [64, 64, 16], "spacing": [0.75, 0.75, 1.0], "flip_axes": [1], "overlap": 0.25},
    ),
    "acdc": Study(
        "segmentation", acdc, (5, 10, 0), baseline=True,
        overrides=SMALL | {"patch_size": [96, 96, 8], "spacing": [2.0, 2.0, -1.0]},
    ),
    "hippocampus_boxes": Study(
        "detection", hippocampus, (8, 0), steps=200,
        overrides=SMALL | {"patch_size": [64, 64, 32], "spacing": [0.75, 0.75, 1.0]},
    ),
    "brain_tumours": Study(
        "detection", brain_tumours, (8, 0), spatial_dims=2, steps=300,
        overrides=SMALL | {"image_size": 192, "patch_size": [192, 192], "batch_size": 4, "flip_axes": [1]},
    ),
    "lung_boxes": Study(
        "detection", lung_boxes, (8, 0), spatial_dims=2, steps=200,
        overrides=SMALL | {"image_size": 192, "patch_size": [192, 192], "batch_size": 4},
    ),
    "lesions": Study(
        "detection", lesions, (0,), steps=200,
        overrides=SMALL | {"patch_size": [64, 64, 32], "in_channels": 2},
    ),
    "lesions_swapped": Study(
        "detection", lambda folder: lesions(folder, True), (0,), steps=200,
        overrides=SMALL | {"patch_size": [64, 64, 32], "in_channels": 2},
    ),
    "pneumonia": Study(
        "classification", pneumonia, (32, 256, 0), floor=0.911, spatial_dims=2, steps=200,
        overrides=SMALL | {"image_size": 64, "batch_size": 32, "level": "features"},
    ),
    "adrenal": Study(
        "classification", adrenal, (64, 0), floor=0.660, steps=200,
        overrides=SMALL | {"image_size": 64, "num_slices": 16, "batch_size": 8},
    ),
    "acdc_diagnosis": Study(
        "classification", acdc_diagnosis, (0,), label_key="class", steps=200,
        overrides=SMALL | {"image_size": 96, "num_slices": 8, "batch_size": 8, "in_channels": 2},
    ),
}  # fmt: skip


def main() -> None:
    """Run one study."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("set", choices=STUDIES)
    parser.add_argument("out", type=Path)
    parser.add_argument("--weights", action="append", default=[], metavar="NAME=PATH")
    parser.add_argument("--numbers", nargs="+", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--schedules", nargs="+", default=["full", "frozen"])
    parser.add_argument("--network")
    parser.add_argument("--no-baseline", action="store_true")
    parser.add_argument("--set-key", action="append", default=[], metavar="KEY=JSON")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    study = STUDIES[options.set]
    options.out.mkdir(parents=True, exist_ok=True)
    datalist = options.out / "datalist.json"
    datalist.write_text(json.dumps(study.make(options.out / "files")))
    named = dict(text.split("=", 1) for text in options.weights)
    changes = {key: json.loads(value) for key, value in (text.split("=", 1) for text in options.set_key)}
    table = fewlabel(
        study.task, str(options.out), str(datalist), weights=list(named.values()), names=list(named),  # type: ignore[arg-type]
        schedules=options.schedules, numbers=options.numbers or study.numbers, seeds=options.seeds,
        steps=options.steps or study.steps, network=options.network or study.network,  # type: ignore[arg-type]
        baseline=study.baseline and not options.no_baseline, patients=study.patients,  # type: ignore[arg-type]
        spatial_dims=study.spatial_dims, label_key=study.label_key, floor=study.floor, preset="cpu",
        overrides=study.overrides | changes,
    )  # fmt: skip
    print(table.read_text())


if __name__ == "__main__":
    main()

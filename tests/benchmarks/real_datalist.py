# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""One pretraining list over the real sets beside the checkout: ``python -m tests.benchmarks.real_datalist OUT.json``.

Training splits only, no labels: mixed CT and MR volumes, hippocampus, cardiac cine MRI, the three DICOM series, 2D
images.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

SHARED = Path(os.environ.get("MONAI_CLUSTER_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"))
VOLUMES = (
    "unlabeled_volumes",
    "hippocampus_msd",
    "acdc_mini",
    "dicom_t1_studyforrest",
    "dicom_pet_seg_qin",
    "dicom_ct_lidc0314",
)
MODALITY = {
    "hippocampus_msd": "MR",
    "acdc_mini": "MR",
    "dicom_t1_studyforrest": "MR",
    "dicom_pet_seg_qin": "PT",
    "dicom_ct_lidc0314": "CT",
}


def rows_of(folder: str, split: str = "training") -> list[dict[str, Any]]:
    """The rows of one set, with absolute paths, its name as ``dataset`` and no label."""
    rows = []
    for row in json.loads((SHARED / folder / "datalist.json").read_text())[split]:
        kept = {"image": str(SHARED / folder / row["image"]), "subject": f"{folder}/{row.get('subject', row['image'])}"}
        kept["dataset"] = row.get("dataset", folder)
        modality = row.get("modality", MODALITY.get(folder))
        rows.append(kept | ({"modality": modality} if modality else {}))
    return rows


def write(target: Path, split: str = "training", volumes: tuple[str, ...] = VOLUMES) -> dict[str, int]:
    """Write the joint list and say how many rows each set gave."""
    parts = {folder: rows_of(folder, split) for folder in volumes}
    images = rows_of("unlabeled_images", split)
    everything = {"volumes": [row for rows in parts.values() for row in rows], "images": images}
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps({split: everything}, indent=1))
    return {folder: len(rows) for folder, rows in parts.items()} | {"unlabeled_images": len(images)}


if __name__ == "__main__":
    print(write(Path(sys.argv[1]), *sys.argv[2:3]))

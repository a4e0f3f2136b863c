# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The text of a transform: stable between processes, other with every argument, refused where it cannot be."""

from __future__ import annotations

import functools
import hashlib
import json
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Flipd, LoadImaged, Resized, ScaleIntensityRanged, Spacingd

from monai_cluster.data import image_preprocessing, labelled_preprocessing, volume_preprocessing
from monai_cluster.data.store_description import DescriptionError, describe, describe_transform

DIGEST = "import hashlib; print(hashlib.sha256(describe_transform(t).encode()).hexdigest())"


def text(value: Any) -> str:
    return json.dumps(describe(value))


VOLUME_ARGUMENTS: dict[str, Any] = {
    "size": 64,
    "plane": "coronal",
    "upright": True,
    "max_slices": 7,
    "spacing": (1.0, 1.0, 2.0),
    "window": "soft",
    "percentiles": (1, 99),
    "crop_foreground": True,
    "keep_aspect": False,
    "channel": 0,
    "frame": 1,
}
IMAGE_ARGUMENTS: dict[str, Any] = {
    "size": 64,
    "pad": True,
    "window": (0, 80),
    "percentiles": (1, 99),
    "crop_foreground": True,
    "keep_aspect": False,
    "channel": 1,
    "frame": 2,
}
LABELLED_ARGUMENTS: dict[str, Any] = {
    "num_classes": 4,
    "label_key": "mask",
    "with_labels": False,
    "spacing": (1, 1, 1),
    "image_size": 32,
    "plane": "sagittal",
    "window": "bone",
    "percentiles": (2, 98),
    "channel": 0,
}


@pytest.mark.parametrize(
    ("make", "arguments"),
    [
        (volume_preprocessing, VOLUME_ARGUMENTS),
        (image_preprocessing, IMAGE_ARGUMENTS),
        (functools.partial(labelled_preprocessing, "segmentation"), LABELLED_ARGUMENTS),
    ],
)
def test_every_argument_changes_the_text_and_equal_arguments_do_not(make: Any, arguments: dict[str, Any]) -> None:
    texts = [describe_transform(make(**{name: value})) for name, value in arguments.items()] + [
        describe_transform(make())
    ]
    assert len(set(texts)) == len(arguments) + 1
    assert texts == [describe_transform(make(**{name: value})) for name, value in arguments.items()] + [
        describe_transform(make())
    ]


def test_another_process_with_another_hash_seed_writes_the_same_text() -> None:
    setup = (
        "from monai_cluster.data import volume_preprocessing\n"
        "from monai_cluster.data.store_description import describe_transform\n"
        "t = volume_preprocessing(32, crop_foreground=True, spacing=(1, 1, 3), max_slices=4)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", setup + DIGEST],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
        env={"PYTHONHASHSEED": "12345", "PATH": "/usr/bin:/bin"},
    )
    ours = describe_transform(volume_preprocessing(32, crop_foreground=True, spacing=(1, 1, 3), max_slices=4))
    assert done.stdout.split() == [hashlib.sha256(ours.encode()).hexdigest()]


def test_running_a_transform_does_not_change_its_text(tmp_path: Path) -> None:
    transforms = [
        volume_preprocessing(16, spacing=(2, 2, 2), crop_foreground=True, max_slices=3, channel=0),
        labelled_preprocessing("segmentation", label_key="mask", spacing=(2, 2, 2), image_size=8),
        labelled_preprocessing("classification", num_slices=3),
        Compose([LoadImaged("image", ensure_channel_first=True), Resized("image", (4, 4, 4)), Flipd("image", 0)]),
    ]
    path = str(tmp_path / "v.nii.gz")
    nib.save(nib.Nifti1Image(np.arange(400, dtype=np.int16).reshape(10, 8, 5), np.eye(4)), path)
    before = [describe_transform(transform) for transform in transforms]
    for transform in transforms:
        transform.set_random_state(5)
        with pytest.warns(UserWarning, match="Hounsfield") if transform is transforms[0] else nullcontext():
            transform({"image": path, "mask": path, "modality": "CT" if transform is transforms[0] else "MR"})
    assert [describe_transform(transform) for transform in transforms] == before


def test_plain_monai_transforms_are_told_apart_by_order_and_values() -> None:
    load, scale = LoadImaged("image"), ScaleIntensityRanged("image", 0, 1, 0, 1)
    texts = [
        describe_transform(Compose(steps))
        for steps in (
            [load, scale],
            [scale, load],
            [load],
            [load, ScaleIntensityRanged("image", 0, 1, 0, 1, clip=True)],
            [load, ScaleIntensityRanged("image", 0, 1.0000001, 0, 1)],
            [load, ScaleIntensityRanged("image", 0, 1, 0, 1, dtype=np.float64)],
            [load, Spacingd("image", (1, 1, 1))],
            [load, Spacingd("image", (1, 1, 1), mode="nearest")],
        )
    ]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (1, 1.0),
        (1, True),
        (1, "1"),
        ([1], (1,)),
        (0.0, -0.0),
        (None, "None"),
        ("ab", ["a", "b"]),
        ({"a": 1}, {"a": 2}),
        ({1, 2}, {1, 3}),
        (np.zeros(2), np.zeros((1, 2))),
        (np.zeros(2, np.float32), np.zeros(2)),
        (torch.zeros(2), torch.ones(2)),
        (torch.zeros(2), np.zeros(2)),
        (torch.float32, "torch.float32"),
        (functools.partial(max, 1), functools.partial(max, 2)),
        (functools.partial(max, 1), functools.partial(min, 1)),
        (Path("a"), "a"),
        ([["a"], "b"], [["a", "b"]]),
        (np.float32, np.float64),
    ],
)
def test_different_values_have_different_texts(one: Any, other: Any) -> None:
    assert text(one) != text(other)


def test_the_order_of_a_set_does_not_matter() -> None:
    orders: list[set[int]] = [set(), set()]
    for number in (0, 8):  # both fall into one place of a small table
        orders[0].add(number)
        orders[1].add(8 - number)
    assert list(orders[0]) != list(orders[1])
    assert text(orders[0]) == text(orders[1])


def test_a_changed_module_changes_the_text_of_its_functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    module = tmp_path / "my_steps_of_a_test.py"
    module.write_text("def halve(row):\n    return row\n")
    import my_steps_of_a_test  # type: ignore[import-not-found]

    before = describe_transform(my_steps_of_a_test.halve)
    assert describe_transform(my_steps_of_a_test.halve) == before
    module.write_text("def halve(row):\n    return dict(row, half=0.5)\n")
    assert describe_transform(my_steps_of_a_test.halve) != before


class _Holder:
    def __init__(self, held: Any) -> None:
        self.held = held


def _inner() -> Any:
    def local(row: Any) -> Any:
        return row

    return local


def test_what_has_no_stable_text_is_refused_with_its_place() -> None:
    with pytest.raises(DescriptionError, match=r"transforms\[0\].*holds .*<lambda>.* give it a name"):
        describe_transform(Compose([lambda row: row]))
    with pytest.raises(DescriptionError, match=r"held holds _inner\.<locals>\.local"):
        describe_transform(_Holder(_inner()))
    for held in (np.random.default_rng(0), torch.Generator(), sys.stdout, np.array([object()]), object()):
        with pytest.raises(DescriptionError, match=r"\.held holds a .* no stable description"):
            describe_transform(_Holder(held))
    circle = _Holder(None)
    circle.held = circle
    with pytest.raises(DescriptionError, match="contains itself"):
        describe_transform(circle)
    namespace: dict[str, Any] = {"__name__": "nowhere"}
    exec("def made(row): return row", namespace)
    with pytest.raises(DescriptionError, match=r"nowhere\.made, whose source cannot be read"):
        describe_transform(namespace["made"])

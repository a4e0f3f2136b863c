# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Label maps find their image in the layouts in use, and are left alone where it could be a guess."""

from __future__ import annotations

import pytest

from monai_cluster.integrity.label_pairing import (
    bids_subject,
    channel_of,
    is_bids_derivative,
    is_label_folder,
    label_base,
    pair_labels,
)


@pytest.mark.parametrize(
    ("image", "label"),
    [
        ("imagesTr/a.nii.gz", "labelsTr/a.nii.gz"),
        ("site/imagesTs/a.nii.gz", "site/labelsTs/a.nii"),
        ("images/x/a.png", "masks/x/a.png"),
        ("images/a.png", "masks/a_mask.png"),
        ("a.nii.gz", "labels/a.nii.gz"),
        ("p1/scan.nii.gz", "p1/scan_seg.nii.gz"),
        ("p1/patient001_frame01.nii.gz", "p1/patient001_frame01_gt.nii.gz"),
        ("sub-01/anat/sub-01_T1w.nii.gz", "derivatives/manual/sub-01/anat/sub-01_desc-lesion_mask.nii.gz"),
        ("sub-01/ses-2/sub-01_ses-2_FLAIR.nii.gz", "derivatives/m/sub-01/ses-2/sub-01_ses-2_dseg.nii.gz"),
    ],
)
def test_usual_layouts_are_paired(image: str, label: str) -> None:
    others = ["imagesTr/b.nii.gz", "sub-02/anat/sub-02_T1w.nii.gz", "sub-01/ses-1/sub-01_ses-1_FLAIR.nii.gz"]
    if "ses" not in image:
        others.pop()
    assert pair_labels([image, *others], [label]) == {label: image}


def test_training_labels_are_not_given_to_test_images() -> None:
    assert pair_labels(["imagesTs/a.nii.gz"], ["labelsTr/a.nii.gz"]) == {}


def test_several_images_or_several_labels_are_no_pair() -> None:
    modalities = ["sub-01/sub-01_T1w.nii.gz", "sub-01/sub-01_FLAIR.nii.gz"]
    assert pair_labels(modalities, ["derivatives/sub-01/sub-01_dseg.nii.gz"]) == {}
    raters = ["scan_seg.nii.gz", "scan_mask.nii.gz"]
    assert pair_labels(["scan.nii.gz"], raters) == {}


def test_names_say_what_is_a_label_a_patient_a_channel_and_a_copy() -> None:
    assert [label_base(one) for one in ("a/x_SEG.nii.gz", "mask.png", "a.png")] == ["x", None, None]
    assert [is_label_folder(one) for one in ("Masks/a.png", "masks.png", "x/labelsTr/y/a.nii")] == [True, False, True]
    assert [bids_subject(one) for one in ("sub-A7/x.nii", "x/sub-3_T1w.nii", "subject-1/x")] == ["A7", "3", None]
    assert [is_bids_derivative(one) for one in ("derivatives/x/a.nii", "sub-1/derivatives.nii")] == [True, False]
    assert channel_of("imagesTr/case_7_0001.nii.gz") == "imagesTr/case_7"
    assert channel_of("frames/case_0001.nii.gz") is None

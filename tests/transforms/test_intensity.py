# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Intensities to 0..1 by modality."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from monai_cluster.transforms import ModalityIntensity, ModalityIntensityd
from monai_cluster.transforms.intensity import is_ct


def hu() -> torch.Tensor:
    return torch.tensor([[-1024.0, -1000.0, -500.0, 0.0, 40.0, 1000.0, 3000.0]])


def test_ct_is_linear_in_the_window_and_clipped() -> None:
    expected = torch.tensor([[0, 0, 0.25, 0.5, 0.52, 1, 1]])
    torch.testing.assert_close(ModalityIntensity()(hu(), "CT chest"), expected)
    torch.testing.assert_close(ModalityIntensity((-1000, 1000))(hu(), "ct"), expected)
    torch.testing.assert_close(ModalityIntensity("soft")(hu(), "CT")[0, 3:5], torch.tensor([0.4, 0.5]))


@pytest.mark.parametrize("modality", [None, "", "MR FLAIR", "MRI T1", "CR", "DX", "XR", "PT", "US", "CBCT", "cine MRI"])
def test_all_else_is_linear_between_percentiles(modality: str | None) -> None:
    data = torch.rand(1, 30, 30, 5, generator=torch.Generator().manual_seed(0)) * 700 - 50
    low, high = np.percentile(data.numpy(), [0.5, 99.5])
    expected = np.clip((data.numpy() - low) / (high - low), 0, 1)
    np.testing.assert_allclose(ModalityIntensity()(data, modality).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CT", True),
        ("ct chest", True),
        (" CTA-head", True),
        ("CBCT", False),
        ("MR", False),
        ("octagon", False),
        (None, False),
    ],
)
def test_the_modality_is_read_from_the_first_word(text: str | None, expected: bool) -> None:
    assert is_ct(text) is expected


def test_a_ct_without_air_cannot_be_hounsfield_and_falls_back_with_one_warning() -> None:
    eight_bit = torch.arange(256.0).reshape(1, 16, 16)
    scaler = ModalityIntensity()
    with pytest.warns(UserWarning, match="convert to HU"):
        result = scaler(eight_bit, "CT")
    torch.testing.assert_close(result, ModalityIntensity()(eight_bit, "MR"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scaler(eight_bit, "CT")


@pytest.mark.parametrize("modality", ["CT", "MR"])
@pytest.mark.parametrize("value", [-1024.0, 0.0, 7.0])
def test_a_constant_image_gives_zeros(modality: str, value: float) -> None:
    assert torch.equal(ModalityIntensity()(torch.full((1, 4, 4), value), modality), torch.zeros(1, 4, 4))


def test_a_few_bright_pixels_on_black_do_not_give_nan() -> None:
    sparse = torch.zeros(1, 100, 100)
    sparse[0, 0, :3] = 5
    assert torch.equal(ModalityIntensity()(sparse, "MR"), sparse / 5)


def test_the_dictionary_form_takes_the_rows_modality_and_else_the_headers() -> None:
    image = MetaTensor(hu(), meta={"modality": "CT"})
    scale = ModalityIntensityd("image")
    as_ct, as_mr = ModalityIntensity()(hu(), "CT"), ModalityIntensity()(hu(), "MR")
    torch.testing.assert_close(scale({"image": image})["image"].as_tensor(), as_ct)
    torch.testing.assert_close(scale({"image": image, "modality": "MR"})["image"].as_tensor(), as_mr)
    torch.testing.assert_close(scale({"image": hu()})["image"], as_mr)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_are_refused_with_their_number(bad: float) -> None:
    data = torch.ones(1, 4, 4)
    data[0, 0, :2] = bad
    with pytest.raises(ValueError, match="got 2 NaN or infinite of 16 values; replace"):
        ModalityIntensity()(data, "MR")


def test_wrong_arguments_are_refused_with_the_fix() -> None:
    with pytest.raises(ValueError, match="name one of these"):
        ModalityIntensity("brain")
    with pytest.raises(ValueError, match="low < high"):
        ModalityIntensity((100, -100))
    with pytest.raises(ValueError, match="ascend within"):
        ModalityIntensity(percentiles=(99, 1))

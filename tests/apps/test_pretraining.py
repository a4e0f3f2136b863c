# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Pretraining as a function: what a component refuses arrives as the component said it."""

from __future__ import annotations

from pathlib import Path

import pytest

from monai_cluster.apps import pretrain
from monai_cluster.data import write_phantoms


def test_a_refused_value_is_not_wrapped_in_words_about_the_configuration(tmp_path: Path) -> None:
    write_phantoms(tmp_path / "data", 1, 2, size=32)
    with pytest.raises(ValueError, match="resnet9") as failure:
        pretrain(str(tmp_path / "out"), str(tmp_path / "data"), preset="cpu", overrides={"model": "resnet9"})
    assert "Failed to" not in str(failure.value)

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Bundles are judged without running them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from monai_cluster.integrity.bundle_configs import inspect_bundle


def _codes(folder: Path, config: Any, overrides: tuple[str, ...] = (), trusted: bool = False) -> set[str]:
    (folder / "configs").mkdir(exist_ok=True)
    (folder / "configs" / "metadata.json").write_text("{}")
    (folder / "configs" / "a.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return {one.code for one in inspect_bundle(folder, "configs/a.json", overrides, trusted).findings}


@pytest.mark.parametrize(
    "target", ["torch.nn.Linear", "monai.networks.nets.UNet", "monai.transforms.io.array.LoadImage"]
)
def test_known_classes_are_accepted(tmp_path: Path, target: str) -> None:
    assert _codes(tmp_path, {"net": {"_target_": target}}) == set()


@pytest.mark.parametrize(
    "target", ["os.system", "torch.load", "monai.utils.misc.run_cmd", "torch.nn.subprocess.Popen", "@x", "Popen"]
)
def test_other_targets_are_refused_unless_trusted(tmp_path: Path, target: str) -> None:
    assert "TARGET" in _codes(tmp_path, {"net": {"_target_": target}})
    assert _codes(tmp_path, {"net": {"_target_": target}}, trusted=True) == set()


def test_expressions_are_refused_unless_trusted(tmp_path: Path) -> None:
    assert _codes(tmp_path, {"run": ["$print(1)"]}) == {"EVAL"}
    assert _codes(tmp_path, {"run": ["$print(1)"]}, trusted=True) == set()


@pytest.mark.parametrize("words", [("--max_epoch", "1"), ("--trainer#step", "1"), ("--max_epochs", "ten")])
def test_a_wrong_override_is_refused(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert _codes(tmp_path, {"max_epochs": 2, "trainer": {"steps": 1}}, words) == {"OVERRIDE"}


@pytest.mark.parametrize("words", [("--max-epochs", "1"), ("--trainer::steps=3",), ("--lr", "1")])
def test_a_right_override_is_accepted(tmp_path: Path, words: tuple[str, ...]) -> None:
    assert _codes(tmp_path, {"max_epochs": 2, "lr": 0.5, "trainer": {"steps": 1}}, words) == set()


@pytest.mark.parametrize(
    ("line", "codes"),
    [("args=(sys.stdout,)", set()), ("args=(print(1),)", {"LOGGING"}), ("class=subprocess.Popen", {"LOGGING"})],
)
def test_logging_may_hold_plain_literals_only(tmp_path: Path, line: str, codes: set[str]) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "logging.conf").write_text(f"[handler_h]\n{line}\n")
    assert _codes(tmp_path, {}) == codes


def test_a_macro_out_of_the_bundle_and_a_key_twice_are_refused(tmp_path: Path) -> None:
    assert _codes(tmp_path, {"a": "%../other.json::x"}, trusted=True) == {"PATH"}
    assert _codes(tmp_path, '{"a": 1, "a": 2}') == {"CONFIG"}


def test_yaml_aliases_that_multiply_are_refused(tmp_path: Path) -> None:
    pytest.importorskip("yaml")
    lines = ["a0: &a0 [x,x,x,x,x,x,x,x,x]"] + [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (tmp_path / "a.yaml").write_text("\n".join(lines))
    assert "TOO_LARGE" in {one.code for one in inspect_bundle(tmp_path, "a.yaml").findings}

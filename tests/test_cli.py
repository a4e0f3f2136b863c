# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The command says what the functions say."""

from __future__ import annotations

import inspect
import json

import numpy as np
import pytest
from PIL import Image

import monai_cluster.apps
from monai_cluster import __version__
from monai_cluster.cli import VERBS, build_parser, main


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_parameter_of_a_function_is_an_option_with_its_default_and_help(verb: str) -> None:
    function = getattr(monai_cluster.apps, verb)
    command = build_parser(verb)._subparsers._group_actions[0].choices[verb]
    options = {action.dest: action for action in command._actions}
    for name, parameter in inspect.signature(function).parameters.items():
        assert name in options, f"--{name} is missing"
        assert options[name].help, f"--{name} has no help: describe it in the docstring"
        if parameter.default is inspect.Parameter.empty:
            assert options[name].required
        elif name != "overrides":
            assert options[name].default == parameter.default


def test_options_arrive_as_the_types_of_the_function(monkeypatch) -> None:
    seen = {}

    def fake(
        out: str, max_epochs: int | None = None, rate: float = 0.5, resume: bool = False, overrides: dict | None = None
    ) -> None:
        seen.update(locals())

    monkeypatch.setattr("monai_cluster.cli._verb", lambda name: fake)
    words = [
        "pretrain",
        "--out",
        "o",
        "--max-epochs",
        "3",
        "--rate",
        "2",
        "--resume",
        "--set",
        "a=[1, 2]",
        "--set",
        "b=x",
    ]
    assert main(words) == 0
    assert {k: v for k, v in seen.items() if k != "seen"} == {
        "out": "o", "max_epochs": 3, "rate": 2.0, "resume": True, "overrides": {"a": [1, 2], "b": "x"},
    }  # fmt: skip


def test_a_mistyped_option_is_refused_with_the_right_one(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["pretrain", "--out", "o", "--data", "d", "--max-epoch", "1"])
    assert stop.value.code == 2
    assert "did you mean '--max-epochs'?" in capsys.readouterr().err


def test_failures_are_one_line_and_exit_code_one(capsys, tmp_path) -> None:
    assert main(["pretrain", "--out", str(tmp_path / "o"), "--data", str(tmp_path / "nothing")]) == 1
    said = capsys.readouterr().err.strip()
    assert said.startswith("monai-cluster pretrain: FileNotFoundError: data ")
    assert "\n" not in said
    with pytest.raises(FileNotFoundError):
        main(["pretrain", "--out", str(tmp_path / "o"), "--data", str(tmp_path / "nothing"), "--debug"])


def test_the_version_is_the_packages(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--version"])
    assert stop.value.code == 0
    assert capsys.readouterr().out.strip() == f"monai-cluster {__version__}"


def test_a_pair_without_equals_sign_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        main(["pretrain", "--out", "o", "--data", "d", "--set", "epochs"])
    assert "expected KEY=VALUE, got 'epochs'" in capsys.readouterr().err


def test_an_override_may_not_contradict_an_option(capsys, tmp_path) -> None:
    words = ["pretrain", "--out", str(tmp_path / "o"), "--data", str(tmp_path), "--set", "seed=3"]
    assert main(words) == 1
    assert "these keys have options of their own" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_an_error_in_a_bundle_is_told_without_monais_words_about_it(capsys, tmp_path) -> None:
    """And with all of ours: the sample's name stands in the error, the reason alone in its cause."""
    for name, pixels in (("image", np.eye(40)), ("label", np.eye(40)[:-1])):
        Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / f"{name}.png")
    rows = [{"image": "image.png", "label": "label.png"}]
    (tmp_path / "list.json").write_text(json.dumps({"training": rows, "labels": ["none", "line"]}))
    words = ["finetune", "segmentation", "--out", str(tmp_path / "out"), "--data", str(tmp_path / "list.json")]
    words += ["--spatial-dims", "2", "--preset", "cpu", "--val-split", "none", "--num-workers", "0"]
    assert main(words) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("monai-cluster finetune: SampleError: labelled sample of sample_index 0 (image.png) cannot")
    assert "a label map must have the image's shape" in said
    (tmp_path / "out" / "exported" / "model.safetensors").touch()
    assert main(words) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("monai-cluster finetune: FileExistsError:")
    assert "already holds a run (model.safetensors)" in said.replace("checkpoints, ", "")
    assert "Failed to evaluate" not in said


def test_lists_of_numbers_and_words_arrive_as_such() -> None:
    words = ["fewlabel", "detection", "--out", "o", "--data", "d", "--weights", "a", "b", "--numbers", "4", "0"]
    words += ["--names", "ours", "theirs", "--no-baseline", "--floor", ".5"]
    seen = vars(build_parser("fewlabel").parse_args(words))
    assert seen["task"] == "detection"
    assert (seen["weights"], seen["names"], seen["numbers"]) == (["a", "b"], ["ours", "theirs"], [4, 0])
    assert (seen["baseline"], seen["floor"], seen["schedules"]) == (False, 0.5, ("full", "frozen"))


def test_a_task_that_does_not_exist_is_refused(capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["finetune", "regression", "--out", "o", "--data", "d"])
    assert stop.value.code == 2
    assert "choose from segmentation, detection, classification" in capsys.readouterr().err.replace("'", "")

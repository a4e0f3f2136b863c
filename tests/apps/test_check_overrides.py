# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A mistyped override is an error that names the right key, in our command and in plain monai.bundle."""

from __future__ import annotations

import json

import pytest
from monai.bundle import ConfigWorkflow

from monai_cluster.apps.bundle_files import bundle_root, config_files
from monai_cluster.apps.check_overrides import check_override_keys, known_keys, refuse_unknown_overrides
from monai_cluster.apps.suggestions import did_you_mean


@pytest.fixture
def toy_bundle(tmp_path):
    configs = tmp_path / "configs"
    configs.mkdir()
    (configs / "metadata.json").write_text(json.dumps({"version": "0"}))
    (configs / "train.json").write_text(
        json.dumps(
            {
                "imports": ["$import monai_cluster"],
                "bundle_root": str(tmp_path),
                "max_epochs": 100,
                "initialize": ["$monai_cluster.apps.refuse_unknown_overrides(@bundle_root)"],
                "run": ["$print(@max_epochs)"],
            }
        )
    )
    (configs / "fast.json").write_text(json.dumps({"+train#handlers": [], "speed": 2}))
    return tmp_path


def make_workflow(root, **overrides) -> ConfigWorkflow:
    return ConfigWorkflow(
        config_file=str(root / "configs" / "train.json"), meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False, workflow_type="train", **overrides,
    )  # fmt: skip


def test_plain_monai_bundle_refuses_the_mistyped_key_and_names_the_right_one(toy_bundle) -> None:
    with pytest.raises(RuntimeError) as failure:
        make_workflow(toy_bundle, max_epoch=1).initialize()
    assert "unknown configuration key 'max_epoch': did you mean 'max_epochs'?" in str(failure.value.__cause__)


def test_right_keys_pass_and_take_effect(toy_bundle, capsys) -> None:
    workflow = make_workflow(toy_bundle, max_epochs=3)
    workflow.initialize()
    workflow.run()
    assert capsys.readouterr().out.strip().endswith("3")


def test_keys_of_every_configuration_file_are_known_and_metadata_is_not(toy_bundle) -> None:
    assert {"max_epochs", "speed", "train", "run"} <= known_keys(toy_bundle)
    assert "version" not in known_keys(toy_bundle)
    check_override_keys({"speed": 1, "max_epochs": 2}, toy_bundle)
    with pytest.raises(
        ValueError, match=r"unknown configuration key 'zzz'; there are: bundle_root, max_epochs, speed, train"
    ):
        check_override_keys({"zzz": 1}, toy_bundle)


def test_the_check_outside_a_workflow_and_a_wrong_root_say_so(toy_bundle, tmp_path) -> None:
    with pytest.raises(ValueError, match="no workflow is running"):
        refuse_unknown_overrides(toy_bundle)
    with pytest.raises(FileNotFoundError, match="no configuration file in"):
        known_keys(tmp_path / "nowhere")


def test_bundles_and_their_configurations_are_found_by_name() -> None:
    assert (bundle_root("joint_pretraining") / "configs" / "train.json").is_file()
    with pytest.raises(FileNotFoundError, match="the bundle 'joint' was looked for"):
        bundle_root("joint")
    with pytest.raises(ValueError, match=r"has no configuration 'trian': did you mean 'train'\?"):
        config_files("joint_pretraining", ["trian"])


def test_suggestions_name_the_nearest_or_list_all() -> None:
    assert did_you_mean("epocs", ["epochs", "seed"]) == ": did you mean 'epochs'?"
    assert did_you_mean("x", ["b", "a"]) == "; there are: a, b."
    assert did_you_mean("x", []) == "; there is none."

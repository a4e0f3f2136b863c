# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A run's folder: never written over, resumed from its newest state, with a log of its own."""

from __future__ import annotations

import logging

import pytest

from monai_cluster.apps.output_folder import OutputFolder, find_checkpoint, prepare_output, stop_log


@pytest.fixture(autouse=True)
def closed_log():
    yield
    stop_log()


def test_a_fresh_folder_gets_its_layout_and_a_log(tmp_path) -> None:
    folder = OutputFolder(prepare_output(tmp_path / "run"))
    logging.getLogger("monai_cluster.somewhere").info("hello")
    stop_log()
    logging.getLogger("monai_cluster.somewhere").info("not in the file")
    assert {path.name for path in folder.root.iterdir()} == {"checkpoints", "exported", "pictures", "train.log"}
    assert folder.log.read_text().endswith("INFO hello\n")


@pytest.mark.parametrize("trace", ["metrics.jsonl", "checkpoints/epoch=1.pt", "exported/encoder.safetensors"])
def test_a_folder_with_a_run_is_refused(tmp_path, trace: str) -> None:
    (tmp_path / trace).parent.mkdir(exist_ok=True)
    (tmp_path / trace).write_text("x")
    with pytest.raises(FileExistsError, match=r"already holds a run .*: choose another output folder"):
        prepare_output(tmp_path)
    assert (tmp_path / trace).read_text() == "x"


def test_the_data_beside_a_run_and_an_aborted_start_do_not_stand_in_the_way(tmp_path) -> None:
    (tmp_path / "data").mkdir()
    prepare_output(tmp_path)
    assert prepare_output(tmp_path) == str(tmp_path)


def test_resuming_finds_the_newest_state_by_its_number(tmp_path) -> None:
    folder = OutputFolder(tmp_path)
    folder.checkpoints.mkdir()
    with pytest.raises(FileNotFoundError, match="nothing to resume: no checkpoint"):
        prepare_output(tmp_path, resume=True)
    for epoch in (2, 9, 10):
        (folder.checkpoints / f"checkpoint_epoch={epoch}.pt").touch()
    assert find_checkpoint(folder.checkpoints).endswith("epoch=10.pt")
    assert prepare_output(tmp_path, resume=True) == str(tmp_path)

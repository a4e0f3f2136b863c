# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The adapter that runs the checks over a corpus of hostile inputs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from monai_cluster.testing import check
from tests.integrity.voxel_files import nifti, phantom, write


def test_an_accepted_volume_comes_with_its_array(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", nifti(phantom()))
    result = check({"path": "a.nii", "mode": "3d"}, tmp_path)
    assert result["verdict"] == "accept"
    assert result["array"].shape[-3:] == (12, 14, 10)


def test_a_refused_volume_comes_with_the_reason(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", nifti(phantom())[:-100])
    result = check({"path": "a.nii", "mode": "3d"}, tmp_path)
    assert (result["verdict"], result["array"]) == ("reject", None)
    assert "TRUNCATED" in result["message"]


def test_the_rows_of_a_list_are_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.nii", nifti(phantom()))
    (tmp_path / "list.json").write_text('{"training": ["a.nii"]}')
    result = check({"path": "list.json", "mode": "datalist", "root": "."}, tmp_path)
    assert (result["verdict"], result["n"]) == ("accept", 1)


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="mode must be one of"):
        check({"path": "a", "mode": "4d"}, tmp_path)


@pytest.mark.slow
@pytest.mark.shared_data
def test_the_whole_corpus_passes(shared_data: Path, tmp_path: Path) -> None:
    hostile = shared_data.parent / "hostile"
    if not hostile.is_dir():
        pytest.skip("the generator of hostile inputs lies not beside the real data")
    corpus = tmp_path / "corpus"
    subprocess.run([sys.executable, hostile / "make.py", corpus], check=True, capture_output=True)
    command = [sys.executable, hostile / "probe.py", corpus, "--adapter", "monai_cluster.testing:check"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    failed = [line for line in done.stdout.splitlines() if not line.startswith("PASS")]
    assert done.returncode == 0, "\n".join(failed)

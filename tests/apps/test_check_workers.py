# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Workers hang, die and eat memory; each costs one item, and nobody waits for ever."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from monai_cluster.apps.check_settings import CheckSettings
from monai_cluster.apps.check_workers import Failure, Task, WorkerPool
from monai_cluster.apps.checking import PRELOAD, run_check
from monai_cluster.integrity import Limits

LIMITS = Limits(seconds=6.0, memory_bytes=512 * 2**20)
MISBEHAVE = "tests.apps.check_answers:misbehave"
LOG_READS = "tests.apps.check_answers:log_reads"


def touched(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(name.encode())
    return folder


def request(name: str) -> dict:
    return {"do": "inspect", "images": [name]}


def test_every_misbehaviour_costs_its_own_item_only() -> None:
    names = ["hang", "killed", "abort", "leave", "memory", "raise", "chatter", *(f"good{i}" for i in range(20))]
    with WorkerPool(2, LIMITS, MISBEHAVE) as pool:
        answers = dict(pool.run(Task(name, request(name), LIMITS.seconds) for name in names))
    assert {name: answer.code for name, answer in answers.items() if isinstance(answer, Failure)} == {
        "hang": "TIMEOUT",
        "killed": "MEMORY",
        "abort": "UNREADABLE",
        "leave": "UNREADABLE",
        "memory": "MEMORY",
        "raise": "UNREADABLE",
    }
    assert all(answers[f"good{i}"]["facts"]["content_hash"] == f"good{i}" for i in range(20))
    assert "PLANTED" not in str(answers)


def test_a_hanging_worker_is_stopped_at_its_time_and_not_waited_for_at_the_end() -> None:
    started = time.monotonic()
    with WorkerPool(2, LIMITS, MISBEHAVE) as pool:
        for _ in pool.run(Task(name, request(name), 60.0) for name in ("hang", *map(str, range(9)))):
            break  # closing the pool kills what still runs
        processes = [worker.process for worker in pool._workers]
    assert time.monotonic() - started < 30
    assert all(process is None or process.poll() is not None for process in processes)


def test_a_worker_killed_between_two_tasks_costs_none() -> None:
    with WorkerPool(1, LIMITS, MISBEHAVE) as pool:
        assert not isinstance(dict(pool.run([Task(0, request("a"), 9.0)]))[0], Failure)
        process = pool._workers[0].process
        assert process is not None
        process.kill()
        process.wait()
        assert not isinstance(dict(pool.run([Task(1, request("b"), 9.0)]))[1], Failure)


def test_workers_import_neither_torch_nor_monai() -> None:
    with WorkerPool(1, Limits(), "tests.apps.check_answers:list_modules", PRELOAD) as pool:
        answer = dict(pool.run([Task(0, {"do": "inspect"}, 60.0)]))[0]
    assert not isinstance(answer, Failure), answer
    assert answer["facts"]["dtype"] == ""


def test_a_pool_runs_one_set_of_tasks_at_a_time() -> None:
    with WorkerPool(1, LIMITS, MISBEHAVE) as pool:
        first = pool.run(Task(name, request(name), 9.0) for name in map(str, range(9)))
        next(first)
        with pytest.raises(RuntimeError, match="one set of tasks at a time"):
            next(pool.run([Task(0, request("a"), 9.0)]))


def test_a_worker_that_cannot_start_says_why() -> None:
    with WorkerPool(1, LIMITS, "no_such_module:answer") as pool, pytest.raises(RuntimeError, match="no_such_module"):
        list(pool.run([Task(0, {}, 9.0)]))


def test_failures_become_rejections_of_their_items(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = ["hang.png", "killed.png", "memory.png", "chatter.png", *(f"good{i}.png" for i in range(6))]
    source = touched(tmp_path / "data", *names)
    settings = CheckSettings(num_workers=2, limits=LIMITS)
    result = run_check(str(source), str(tmp_path / "out"), settings, MISBEHAVE, ())
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert result.exit_code == 3
    assert result.counts.items == {"accepted": 7, "warned": 0, "rejected": 3}
    codes = sorted(code for one in report["items"] if one["verdict"] == "reject" for code in one["codes"])
    assert codes == ["MEMORY", "MEMORY", "TIMEOUT"]
    assert "PLANTED" not in "".join(capfd.readouterr())


def test_an_item_that_timed_out_is_tried_again_with_more_time_only(tmp_path: Path) -> None:
    source = touched(tmp_path / "data", "hang.png", "good.png")
    tallies = []
    for seconds in (2.0, 2.0, 4.0):
        settings = CheckSettings(num_workers=1, limits=Limits(seconds=seconds))
        tallies.append(run_check(str(source), str(tmp_path / "out"), settings, MISBEHAVE, ()).tally.inspected)
    assert tallies == [2, 0, 1]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc to see processes")
def test_a_check_killed_in_the_middle_continues_and_leaves_no_process(tmp_path: Path) -> None:
    source = touched(tmp_path / "data", *(f"{i:03d}.png" for i in range(120)))
    (tmp_path / "pause").write_text("0.05")
    code = (
        "import sys; sys.path[:] = {path!r}\n"
        "from monai_cluster.apps.checking import run_check\n"
        "from monai_cluster.apps.check_settings import CheckSettings\n"
        "run_check({source!r}, {out!r}, CheckSettings(num_workers=2), {answer!r}, ())"
    ).format(path=sys.path, source=str(source), out=str(tmp_path / "out"), answer=LOG_READS)
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    log = tmp_path / "reads.log"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and (not log.exists() or len(log.read_text().splitlines()) < 80):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    workers = {int(line.split()[0]) for line in log.read_text().splitlines()}
    read_before = len(log.read_text().splitlines())
    assert 80 <= read_before < 120
    (tmp_path / "pause").write_text("0")
    result = run_check(str(source), str(tmp_path / "out"), CheckSettings(num_workers=2), LOG_READS, ())
    assert result.tally.reused > 0
    assert result.tally.reused + result.tally.inspected == 120
    assert result.counts.items["accepted"] == 120
    deadline = time.monotonic() + 20
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not any(map(alive, workers))


def test_unchanged_files_are_not_read_again_and_changed_ones_are(tmp_path: Path) -> None:
    source = touched(tmp_path / "data", "a.png", "b.png", "c.png")
    out, log = str(tmp_path / "out"), tmp_path / "reads.log"

    def reads() -> list[str]:
        log.unlink(missing_ok=True)
        run = run_check(str(source), out, CheckSettings(num_workers=1), LOG_READS, ())
        seen = sorted(line.split()[1] for line in log.read_text().splitlines()) if log.exists() else []
        assert run.tally.inspected == len(seen)
        return [*seen, f"{run.tally.changed} changed", f"{run.tally.removed} removed"]

    assert reads() == ["a.png", "b.png", "c.png", "0 changed", "0 removed"]
    assert reads() == ["0 changed", "0 removed"]
    (source / "b.png").write_bytes(b"longer than before")
    assert reads() == ["b.png", "1 changed", "0 removed"]
    stat = (source / "c.png").stat()
    os.utime(source / "c.png", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    (source / "a.png").unlink()
    touched(source, "d.png")
    assert reads() == ["c.png", "d.png", "1 changed", "1 removed"]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert len(report["items"]) == 3

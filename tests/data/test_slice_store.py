# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The slice store: keys by content, limits, several writers, kills and damages, privacy of its names."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from monai_cluster.data import SliceStore, StoreFullError, slice_store
from monai_cluster.data.store_entry import BrokenEntryError
from monai_cluster.data.store_values import UnstorableError

Row = Mapping[str, Any]
TEXT = "the transform"


def source(path: Path, content: str = "7") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    os.utime(path, (time.time() - 60, time.time() - 60))
    return path


def load(shown: Row, row: Row) -> dict[str, Any]:
    """A volume that depends on the file's content."""
    value = float(Path(shown["image"]).read_text())
    return {**shown, "image": torch.arange(240.0).reshape(1, 8, 6, 5) / 7 + value}


def row(path: Path, **columns: Any) -> dict[str, Any]:
    return {"image": str(path), "sample_index": 3, **columns}


def filled(store: SliceStore, *rows: Row) -> list[str]:
    keys = []
    for one in rows:
        key = store.key(one, TEXT)
        assert key is not None
        store.make(key, one, load)
        keys.append(key)
    return keys


def image(store: SliceStore, key: str, asking: Row) -> torch.Tensor:
    entry = store.get(key)
    assert entry is not None
    found: torch.Tensor = entry.sample(asking)["image"]
    return found


def leftovers(store: SliceStore) -> list[str]:
    return [path.name for path in store.folder.rglob("*") if path.name.startswith(".tmp-")]


def test_a_sample_comes_back_for_the_row_that_asks(tmp_path: Path) -> None:
    store = SliceStore(tmp_path / "store")
    first = row(source(tmp_path / "a" / "x.txt"), subject="s1", note="n")
    (key,) = filled(store, first)
    second = row(source(tmp_path / "b" / "y.txt"), subject="s2", note="n") | {"sample_index": 9}
    assert store.key(second, TEXT) == key
    entry = store.get(key)
    assert entry is not None
    sample = entry.sample(second)
    assert torch.equal(sample.pop("image"), load(second, second)["image"])
    assert sample == {"sample_index": 9, "subject": "s2", "note": "n"}


def test_keys_follow_content_transform_and_columns_but_not_path_time_number_or_patient(tmp_path: Path) -> None:
    store = SliceStore(tmp_path / "store")
    base = row(source(tmp_path / "a.txt"), modality="CT", subject="p")
    key = store.key(base, TEXT)
    moved = source(tmp_path / "other" / "b.txt")
    os.utime(moved, (5, 5))
    assert store.key(row(moved, modality="CT", subject="q") | {"sample_index": 8}, TEXT) == key
    others = [
        store.key(base, "another transform"),
        store.key(base | {"modality": "MR"}, TEXT),
        store.key(base | {"image": str(source(tmp_path / "c.txt", "8"))}, TEXT),
        store.key(base | {"image": [str(tmp_path / "a.txt")]}, TEXT),
        store.key(base | {"frame": 1}, TEXT),
        store.key({name: value for name, value in base.items() if name != "subject"}, TEXT),
        SliceStore(tmp_path / "second").key(base, TEXT),
    ]
    assert len({key, *others}) == len(others) + 1


def test_a_second_start_reads_no_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SliceStore(tmp_path / "store")
    one = row(source(tmp_path / "a.txt"))
    assert store.key(one, TEXT, known=True) is None
    (key,) = filled(store, one)
    again = SliceStore(tmp_path / "store")

    def refuse(*_: Any, **__: Any) -> Any:
        raise AssertionError("a source was read")

    monkeypatch.setattr(Path, "open", refuse)
    assert again.key(one, TEXT, known=True) == again.key(one, TEXT) == key


def test_nothing_in_the_store_names_a_patient_and_only_the_owner_may_read_it(tmp_path: Path) -> None:
    store = SliceStore(tmp_path / "store")
    (key,) = filled(store, row(source(tmp_path / "Doe_John" / "Doe_1970.txt"), subject="Doe", report="Doe is well"))
    names = [str(path.relative_to(store.folder)) for path in store.folder.rglob("*")]
    assert any(key in name for name in names)
    assert not [name for name in names if "Doe" in name or "1970" in name]
    assert not [path for path in store.folder.rglob("*") if path.is_file() and b"Doe" in path.read_bytes()]
    modes = {path.relative_to(store.folder).parts[0]: path.stat().st_mode & 0o777 for path in store.folder.rglob("*")}
    assert store.folder.stat().st_mode & 0o777 == 0o700
    assert modes["salt"] == 0o600
    assert (store.entries.stat().st_mode | (store.entries / key).stat().st_mode) & 0o077 == 0


def test_a_folder_with_other_files_is_left_alone(tmp_path: Path) -> None:
    source(tmp_path / "data" / "scan.txt")
    (tmp_path / "data").chmod(0o755)
    with pytest.raises(ValueError, match="'data' holds other files: name another folder"):
        SliceStore(tmp_path / "data")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["scan.txt"]
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o755
    store = SliceStore(tmp_path / "new" / "store")
    (store.folder / "salt").write_bytes(b"short")
    with pytest.raises(ValueError, match="salt is damaged"):
        SliceStore(store.folder)
    with pytest.raises(ValueError, match="max_bytes must be at least 1, got 0"):
        SliceStore(tmp_path / "store", max_bytes=0)


def test_a_broken_entry_is_told_apart_from_a_missing_one_and_made_anew(tmp_path: Path) -> None:
    store = SliceStore(tmp_path / "store")
    one = row(source(tmp_path / "a.txt"))
    (key,) = filled(store, one)
    file = store.entries / key / "0.npy"
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(BrokenEntryError, match="checksum"):
        store.get(key)
    filled(store, one)
    assert torch.equal(image(store, key, one), load(one, one)["image"])
    assert store.get("0" * 64) is None
    assert leftovers(store) == []


def test_the_checksum_is_compared_once_per_process(tmp_path: Path) -> None:
    store = SliceStore(tmp_path / "store")
    (key,) = filled(store, row(source(tmp_path / "a.txt")))
    file = store.entries / key / "0.npy"
    assert store.get(key, verify=False) is not None
    content = file.read_bytes()
    file.write_bytes(bytes(len(content)))
    assert store.get(key, verify=False) is not None
    with pytest.raises(BrokenEntryError, match="checksum"):
        store.get(key)
    file.write_bytes(content)
    first = store.get(key)
    file.write_bytes(bytes(len(content)))
    assert store.get(key) is first
    with pytest.raises(BrokenEntryError, match="checksum"):
        pickle.loads(pickle.dumps(store)).get(key)


def test_an_intact_entry_of_another_process_stays(tmp_path: Path) -> None:
    store, other = SliceStore(tmp_path / "store"), SliceStore(tmp_path / "store")
    one = row(source(tmp_path / "a.txt"))
    (key,) = filled(other, one)
    before = (store.entries / key).stat().st_ino
    assert filled(store, one) == [key]
    assert (store.entries / key).stat().st_ino == before


def test_the_limit_names_needed_and_available_bytes_and_leaves_nothing_half(tmp_path: Path) -> None:
    rows = [row(source(tmp_path / f"{n}.txt", str(n))) for n in range(4)]
    store = SliceStore(tmp_path / "store")
    filled(store, rows[0])
    size = store.num_bytes()
    tight = SliceStore(tmp_path / "store", max_bytes=3 * size + size // 2)
    filled(tight, rows[1], rows[2])
    for reopened in (tight, SliceStore(tmp_path / "store", max_bytes=3 * size + size // 2)):
        with pytest.raises(
            StoreFullError, match=rf"needs {size} bytes .* but {size // 2} are available \(max_bytes is"
        ):
            filled(reopened, rows[3])
    assert tight.num_bytes() == 3 * size
    assert leftovers(tight) == []
    filled(tight, rows[0])  # an entry that is there already needs no room


def test_prune_lists_the_least_recently_used_first_and_removes_only_when_told(tmp_path: Path) -> None:
    rows = [row(source(tmp_path / f"{n}.txt", str(n))) for n in range(4)]
    store = SliceStore(tmp_path / "store")
    keys = filled(store, *rows)
    for age, number in enumerate((2, 0, 3, 1)):
        os.utime(store.entries / keys[number], (1000 + age, 1000 + age))
    assert [old.key for old in store.prune()] == [keys[2], keys[0], keys[3], keys[1]]
    assert store.get(keys[2]) is not None  # used now
    assert [old.key for old in store.prune(keep=[keys[3]])] == [keys[0], keys[1], keys[2]]
    size = store.num_bytes() // 4
    assert [old.key for old in store.prune(free_bytes=size + 1, remove=True)] == [keys[0], keys[3]]
    assert [store.get(key) is None for key in keys] == [True, False, False, True]
    assert store.num_bytes() == 2 * size
    filled(SliceStore(tmp_path / "store", max_bytes=4 * size), rows[0], rows[3])


def test_a_file_size_limit_of_the_system_leaves_no_half_entry(tmp_path: Path) -> None:
    code = (
        "import resource, sys, torch\n"
        "from monai_cluster.data import SliceStore, StoreFullError\n"
        "store = SliceStore(sys.argv[1])\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000))\n"
        "def load(shown, row):\n"
        "    return {'image': torch.rand(1, 50, 50, row['slices'])}\n"
        "for slices in (2, 4):\n"
        "    row = {'slices': slices, 'sample_index': 0}\n"
        "    try:\n"
        "        store.make(store.key(row, 't'), row, load)\n"
        "    except StoreFullError as error:\n"
        "        print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, str(tmp_path / "store")],
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    assert "the slice store needs 40" in done.stdout
    assert "are available" in done.stdout
    assert done.stdout.count("\n") == 1
    store = SliceStore(tmp_path / "store")
    assert len(store.prune()) == 1
    assert store.get(store.prune()[0].key) is not None
    assert leftovers(store) == []


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SliceStore(tmp_path / "store")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(slice_store.shutil, "disk_usage", lambda path: usage._replace(free=100))
    with pytest.raises(StoreFullError, match=r"but 100 are available: raise the limit or free the disk"):
        filled(store, row(source(tmp_path / "a.txt")))
    assert store.prune() == []


def test_other_errors_of_the_disk_are_not_called_a_full_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SliceStore(tmp_path / "store")

    def fail(folder: Path, files: Any) -> None:
        folder.mkdir()
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(slice_store, "write_files", fail)
    with pytest.raises(OSError, match="Input/output") as caught:
        filled(store, row(source(tmp_path / "a.txt")))
    assert not isinstance(caught.value, StoreFullError)
    assert leftovers(store) == []


def _in_a_child(work: Callable[[], None]) -> int:
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join(60)
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.parametrize("place", range(1, 6))
def test_a_process_killed_while_it_writes_leaves_no_entry_that_is_believed(tmp_path: Path, place: int) -> None:
    store = SliceStore(tmp_path / "store")
    good, one = row(source(tmp_path / "b.txt", "8")), row(source(tmp_path / "a.txt"))
    filled(store, good)
    key = store.key(one, TEXT)
    assert key is not None

    def killed() -> None:
        calls, fsync = 0, os.fsync

        def dying(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls == place:
                os.kill(os.getpid(), signal.SIGKILL)
            fsync(descriptor)

        os.fsync = dying  # type: ignore[assignment]
        store.make(key, one, load)

    killed_at_all = _in_a_child(killed) == -signal.SIGKILL
    assert killed_at_all == (place <= 4)  # two files, their folder, the folder of entries
    again = SliceStore(tmp_path / "store")
    assert leftovers(again) == []
    found = again.get(key)
    assert (found is None) == (place <= 3)
    if found is None:
        filled(again, one)
    assert torch.equal(image(again, key, one), load(one, one)["image"])
    with sqlite3.connect(again.folder / "entries.sqlite") as database:
        assert database.execute("SELECT COUNT(*) FROM entries").fetchone() == (2,)


def test_many_writers_of_the_same_entries_do_no_harm(tmp_path: Path) -> None:
    rows = [row(source(tmp_path / f"{n}.txt", str(n))) for n in range(6)]
    folder = tmp_path / "store"

    def work() -> None:
        mine = SliceStore(folder)
        filled(mine, *rows)
        for one in rows:
            key = mine.key(one, TEXT)
            assert key is not None
            assert torch.equal(image(mine, key, one), load(one, one)["image"])

    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=work) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * 4
    store = SliceStore(folder)
    assert len(store.prune()) == 6
    assert leftovers(store) == []
    with sqlite3.connect(folder / "entries.sqlite") as database:
        assert database.execute("SELECT SUM(bytes) FROM entries").fetchone() == (store.num_bytes(),)


def test_a_damaged_count_starts_anew(tmp_path: Path) -> None:
    store = SliceStore(tmp_path / "store")
    filled(store, row(source(tmp_path / "a.txt")))
    (store.folder / "entries.sqlite").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreFullError, match="but 50 are available"):
        filled(SliceStore(store.folder, max_bytes=store.num_bytes() + 50), row(source(tmp_path / "b.txt", "8")))


def test_a_foreign_file_among_the_entries_harms_nobody(tmp_path: Path) -> None:
    store = SliceStore(tmp_path / "store")
    one = row(source(tmp_path / "a.txt"))
    key = store.key(one, TEXT)
    assert key is not None
    (store.entries / key).write_text("not an entry")
    (store.entries / "stray").write_text("not an entry")
    again = SliceStore(tmp_path / "store")
    assert again.get(key) is None
    filled(again, one)
    assert torch.equal(image(again, key, one), load(one, one)["image"])
    assert len(again.prune()) == 2


def test_a_preprocessing_that_reads_the_sample_number_is_refused(tmp_path: Path) -> None:
    def by_number(shown: Row, row: Row) -> dict[str, Any]:
        return {"image": torch.full((1, 2, 2, 2), float(shown["sample_index"]))}

    store = SliceStore(tmp_path / "store")
    with pytest.raises(UnstorableError, match="reads 'sample_index' cannot use the slice store"):
        store.make("0" * 64, row(source(tmp_path / "a.txt")), by_number)

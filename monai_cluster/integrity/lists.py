# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Judge a datalist before training believes it: its form, its paths, its boxes, and what its splits share."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from .findings import Inspection
from .guarding import guarded
from .limits import Limits
from .list_boxes import check_row_boxes
from .list_rows import FIX, SPLITS, ListRow, Tally, closest, read_rows, real_path
from .list_splits import check_bytes, check_items, check_patients, without_subsets

__all__ = ["inspect_datalist"]

KNOWN = ("image", "label", "subject", "patient", "box", "box_label", "kind", "modality", "frame")
SUFFIXES = (
    ".nii", ".nii.gz", ".nrrd", ".mha", ".mhd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".dcm",
)  # fmt: skip
PATH_RULE = "a path must stay inside the data root"
PATH_FIX = "move the file into the root, or name the root that holds it"
CASES = {"segmentation": "label", "classification": "label"}


def inspect_datalist(
    path: str | os.PathLike[str],
    root: Path | None = None,
    task: str | None = None,
    limits: Limits | None = None,
    *,
    read_items: bool = True,
) -> Inspection:
    """Judge a JSON or CSV list. Never raises for what the list holds.

    Findings: JSON, KEY, TYPE, EMPTY (form); PATH, MISSING, NOT_A_FILE (paths); DUPLICATE, LEAK (splits); BOX; and
    those of ``open_regular``. The number of rows is in ``facts.num_files``.

    Args:
        path: the list; the forms that :func:`monai_cluster.data.load_datalist` reads.
        root: folder that relative paths start from and that none should leave; the list's own folder by default.
        task: ``segmentation`` and ``classification`` need ``label`` in every row of training, ``detection`` needs
            ``box``.
        limits: size of the list, and the time that comparing files may take.
        read_items: compare the files' bytes and read the headers of images with boxes.
    """
    limits, inspection, tally = limits or Limits(), Inspection(), Tally()
    inspection.facts.kind = "datalist"
    with guarded(inspection):
        rows = read_rows(os.fspath(path), limits, tally)
        inspection.facts.num_files = len(rows)
        inspection.facts.num_bytes = os.path.getsize(path)
        base = os.path.realpath(root if root is not None else os.path.dirname(os.path.abspath(path)))
        for row in rows:
            _check_row(row, base, root is not None, task, tally)
        for row in rows:
            check_row_boxes(row, task == "detection" and row.split in (None, "training"), read_items, tally)
        # other splits are often subsets of training (few-label curves): they share items on purpose
        rows = [row for row in rows if row.split in (None, *SPLITS)]
        apart = without_subsets(rows)
        check_items(apart, tally)
        check_patients(apart, tally)
        if read_items:
            check_bytes(apart, limits, tally)
        if not rows and not tally.found("EMPTY", "KEY", "TYPE"):
            tally.add("reject", "EMPTY", "a list must hold rows", "an empty list (0 items)")
    tally.report(inspection)
    return inspection


def _check_row(row: ListRow, base: str, strict: bool, task: str | None, tally: Tally) -> None:
    needed = CASES.get(task or "")
    if needed and needed not in row.columns and row.split in (None, "training"):
        tally.add("reject", "KEY", f"every row must have {needed!r}", "a row without the key")
    others = [name for name in row.columns if name not in KNOWN]
    meant = closest((one for one in others if len(str(one)) > 3), KNOWN, 0.8)
    if meant and meant not in row.columns and "image" in row.columns:
        tally.add(
            "warn", "KEY", "columns must be spelt as the loader reads them", "another", f"did you mean {meant!r}?"
        )
    if "image" not in row.columns:
        hint = "did you mean 'image'?" if closest(others, ("image", "img")) else FIX
        tally.add("reject", "KEY", "every row must have 'image'", "a row where the key is missing", hint)
    else:
        _check_images(row, base, strict, tally)
    for name, value in row.columns.items():
        if name != "image" and isinstance(value, str) and value.lower().endswith(SUFFIXES):
            _check_path(value, base, strict, tally, "reject" if name == "label" else "warn")


def _check_images(row: ListRow, base: str, strict: bool, tally: Tally) -> None:
    image = row.columns["image"]
    names = [image] if isinstance(image, str) else image
    if not isinstance(names, list) or not names or not all(isinstance(one, str) and one for one in names):
        rule = "'image' must be a path (a string) or a list of paths"
        tally.add("reject", "TYPE", rule, f"a {type(image).__name__} of another type or empty")
        return
    files = [_check_path(one, base, strict, tally, "reject") for one in names]
    row.files = tuple(one for one in files if one is not None)


def _check_path(name: str, base: str, strict: bool, tally: Tally, missing: str) -> str | None:
    """The path where it is usable; otherwise None, and what is wrong is counted."""
    if "\0" in name:
        tally.add("reject", "PATH", "a path must not hold a null character", "one that does (invalid)")
        return None
    path = real_path(base, name)
    if not _is_inside(path, base):
        absolute = os.path.isabs(os.path.expanduser(name))
        what = "an absolute path outside the root" if absolute else "a path that leads outside the root with .."
        tally.add("warn" if absolute or not strict else "reject", "PATH", PATH_RULE, what, PATH_FIX)
        if strict and not absolute:
            return None
    elif not _is_inside(os.path.realpath(path), base):
        tally.add("warn", "PATH", PATH_RULE, "a symbolic link (symlink) that leads outside the root", PATH_FIX)
    return path if _is_usable(path, tally, missing) else None


def _is_inside(path: str, base: str) -> bool:
    return path == base or path.startswith(base.rstrip(os.sep) + os.sep)


def _is_usable(path: str, tally: Tally, missing: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        tally.add(missing, "MISSING", "every file of a list must be there", "a missing file (not found)")
        return False
    except ValueError:
        tally.add("reject", "PATH", "a path must be one that the system can hold", "characters that no path has")
        return False
    except OSError as error:
        tally.add(missing, "UNREADABLE", "every file of a list must be readable", type(error).__name__)
        return False
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        tally.add("reject", "NOT_A_FILE", "a path must name a file or a folder", "a pipe, socket or device")
        return False
    return True

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Find the samples: from a JSON or CSV list or a folder to rows of images and volumes with stable global indices."""

from __future__ import annotations

import csv
import difflib
import hashlib
import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from monai_cluster.keys import ClusterKeys

from .dicom import dicom_header, is_dicom, is_image_storage
from .folder import scan_folder
from .readers import PICTURE_SUFFIXES, READABLE_SUFFIXES, file_suffix, spatial_shape

__all__ = ["Datalist", "load_datalist"]

Row = dict[str, Any]
log = logging.getLogger(__name__)
SHOWN = 5  # how many names an error lists


@dataclass(frozen=True)
class Datalist:
    """Rows of images and volumes.

    Every row has ``image`` (absolute path, or list of paths that become channels), ``kind`` and ``sample_index``
    beside its own columns. Indices are global: volumes 0..Nv-1, images Nv..Nv+Ni-1; slices of volumes follow both.

    Attributes:
        images: rows of 2D images.
        volumes: rows of volumes.
        names: path of each sample relative to its list or folder, by ``sample_index``.
        ignored: files of a scanned folder that are no images.
    """

    images: list[Row]
    volumes: list[Row]
    names: list[str]
    ignored: list[str] = field(default_factory=list)

    @property
    def rows(self) -> list[Row]:
        """All rows in the order of their index."""
        return [*self.volumes, *self.images]

    def __len__(self) -> int:
        return len(self.images) + len(self.volumes)

    def digest(self) -> str:
        """SHA-256 over the sorted kinds, relative names and sizes: the same data on another disk agree."""
        lines = sorted(
            f"{row[ClusterKeys.KIND]}\t{name}\t{_size(row[ClusterKeys.IMAGE])}"
            for row, name in zip(self.rows, self.names, strict=True)
        )
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def load_datalist(
    source: str | Path | Sequence[str | Path],
    base_dir: str | Path | None = None,
    split: str = "training",
    require: Sequence[str] = (),
    paths: Sequence[str] = (),
    kind: str | None = None,
) -> Datalist:
    """Read one list, folder, or several of them.

    * JSON: MONAI's decathlon form ``{"training": [{"image": ...}, ...]}``, or ``{"images": [...], "volumes": [...]}``
      at the top or inside a split. Rows are dictionaries or paths.
    * CSV: a column ``image``; other columns are kept; with a column ``split`` only the rows of the split are taken.
    * Folder: searched for NIfTI, NRRD, MHA, PNG, JPEG, TIFF, BMP and DICOM series, sorted by name. Folders of labels
      (``labelsTr``, ``labels``, ``masks``) are left out; what is ignored is counted in the log.

    Whether a row is an image or a volume is told by its column ``kind``, by the list it stands in, or by suffix and
    header.

    Args:
        source: path of a list or folder, or several, whose rows are joined in order.
        base_dir: folder that relative paths start from; the list's own folder by default.
        split: which split of the list.
        require: columns that every row must have (for example ``("label",)``).
        paths: further columns that hold paths, relative ones from the same folder as images (for example the label maps
            of a segmentation); where a row has one, the file must exist.
        kind: take only the ``"image"`` or only the ``"volume"`` rows; the log counts the others.

    Raises:
        FileNotFoundError: when the list or any sample is missing; names the first few and counts them.
        ValueError: for an unknown split, a malformed list, a row without ``image``, an unknown kind or suffix, the same
            path twice, a missing required column, or no sample at all.
    """
    sources = [source] if isinstance(source, (str, Path)) else list(source)
    rows: list[tuple[Row, str]] = []
    ignored: list[str] = []
    for one in sources:
        path = Path(one).expanduser()
        if not path.exists():
            raise FileNotFoundError(f"a datalist must be an existing JSON or CSV file or a folder, not found: {path}")
        if path.is_dir():
            found, left = scan_folder(path)
            ignored += left
            rows += [(row, _relative(row[ClusterKeys.IMAGE], path)) for row in found]
            continue
        base = (path.parent if base_dir is None else Path(base_dir).expanduser()).resolve()
        rows += [_absolute(row, base, f"{path.name} row {n}", paths) for n, row in enumerate(_read_list(path, split))]
    if not rows:
        raise ValueError(
            f"no image or volume found in {', '.join(str(one) for one in sources)}; check path and suffixes"
        )
    _check_files(rows, paths)
    for row, name in rows:
        row[ClusterKeys.KIND] = _kind(row, name)
    if kind is not None:
        rows = _only(rows, kind)
    _check_columns(rows, require)
    ordered = [item for kind in ("volume", "image") for item in rows if item[0][ClusterKeys.KIND] == kind]
    for index, (row, _) in enumerate(ordered):
        row[ClusterKeys.SAMPLE_INDEX] = index
    volumes = [row for row, _ in ordered if row[ClusterKeys.KIND] == "volume"]
    images = [row for row, _ in ordered if row[ClusterKeys.KIND] == "image"]
    if ignored:
        log.warning("ignored %d files that are no images, for example %s", len(ignored), ", ".join(ignored[:SHOWN]))
    log.info("found %d volumes and %d images", len(volumes), len(images))
    return Datalist(images, volumes, [name for _, name in ordered], ignored)


def _only(rows: list[tuple[Row, str]], kind: str) -> list[tuple[Row, str]]:
    kept = [(row, name) for row, name in rows if row[ClusterKeys.KIND] == kind]
    if not kept:
        raise ValueError(f"{kind}s are wanted, but all {len(rows)} rows are of another kind; choose other data")
    if len(kept) < len(rows):
        log.info("took the %d %ss of %d rows", len(kept), kind, len(rows))
    return kept


def _read_list(path: Path, split: str) -> list[Row]:
    if path.suffix.lower() == ".csv":
        return _read_csv(path, split)
    if path.suffix.lower() != ".json":
        raise ValueError(f"a datalist must be .json, .csv or a folder, got {path.name}; rename or convert it")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is not valid JSON: {error}; correct that line") from error
    if isinstance(content, list):
        return [_as_row(row, None) for row in content]
    if not isinstance(content, dict):
        raise ValueError(f"{path.name} must hold an object or a list, got {type(content).__name__}; see the data page")
    if split == "training" and "training" not in content and ("images" in content or "volumes" in content):
        return _by_kind(content)
    chosen = content.get(split)
    if isinstance(chosen, dict) and ("images" in chosen or "volumes" in chosen):
        return _by_kind(chosen)
    if not isinstance(chosen, list):
        splits = [name for name, value in content.items() if isinstance(value, list)]
        raise ValueError(
            f"{path.name} has no split {split!r}; it has {', '.join(splits) or 'none'}{_hint(split, splits)}"
        )
    return [_as_row(row, None) for row in chosen]


def _by_kind(content: dict[str, Any]) -> list[Row]:
    return [_as_row(row, kind) for kind in ("image", "volume") for row in content.get(f"{kind}s", [])]


def _as_row(row: Any, kind: str | None) -> Row:
    result = {ClusterKeys.IMAGE: row} if isinstance(row, str) else dict(row) if isinstance(row, dict) else {}
    if kind is not None:
        result.setdefault(ClusterKeys.KIND, kind)
    return result


def _read_csv(path: Path, split: str) -> list[Row]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        names = list(reader.fieldnames or [])
        if ClusterKeys.IMAGE not in names:
            raise ValueError(f"{path.name} needs a column 'image', it has {', '.join(names)}{_hint('image', names)}")
        rows = [{name: value for name, value in row.items() if name and value not in ("", None)} for row in reader]
    if "split" not in names:
        return rows
    splits = sorted({row.get("split", "") for row in rows})
    if split not in splits:
        raise ValueError(f"{path.name} has no split {split!r}; it has {', '.join(splits)}{_hint(split, splits)}")
    return [row for row in rows if row.get("split") == split]


def _hint(name: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


def _absolute(row: Row, base: Path, where: str, columns: Sequence[str]) -> tuple[Row, str]:
    image = row.get(ClusterKeys.IMAGE)
    paths = [image] if isinstance(image, str) else image
    if not isinstance(paths, list) or not paths or not all(isinstance(one, str) and one for one in paths):
        raise ValueError(
            f"every row needs 'image', a path or a list of paths, got {image!r} in {where}; correct the list"
        )
    joined = [os.path.normpath(base / Path(one).expanduser()) for one in paths]
    result = {**row, ClusterKeys.IMAGE: joined[0] if isinstance(image, str) else joined}
    for column in columns:
        if column in row:
            if not isinstance(row[column], str) or not row[column]:
                raise ValueError(f"{column!r} must be a path here, got {row[column]!r} in {where}; correct the list")
            result[column] = os.path.normpath(base / Path(row[column]).expanduser())
    return result, _relative(result[ClusterKeys.IMAGE], base)


def _relative(image: str | list[str], base: Path) -> str:
    paths = [image] if isinstance(image, str) else image
    return "|".join(Path(os.path.relpath(one, base.resolve())).as_posix() for one in paths)


def _paths(row: Row) -> list[str]:
    image = row[ClusterKeys.IMAGE]
    return [image] if isinstance(image, str) else list(image)


def _check_files(rows: Sequence[tuple[Row, str]], columns: Sequence[str]) -> None:
    named = [one for row, _ in rows for one in [*_paths(row), *(row[column] for column in columns if column in row)]]
    missing = [one for one in named if not os.path.exists(one)]
    if missing:
        listed = "; ".join(missing[:SHOWN])
        raise FileNotFoundError(
            f"{len(missing)} files of the datalist do not exist, the first: {listed}; correct base_dir or the list"
        )
    seen: dict[str, str] = {}
    for row, name in rows:
        key = "|".join(os.path.realpath(one) for one in _paths(row))
        # frames of one 4D file are different samples
        key += f"#{row['frame']}" if "frame" in row else ""
        if key in seen:
            raise ValueError(f"every sample must be listed once, got {name} twice (as {seen[key]}); remove one")
        seen[key] = name


def _check_columns(rows: Sequence[tuple[Row, str]], require: Sequence[str]) -> None:
    for column in require:
        lacking = [name for row, name in rows if column not in row]
        if lacking:
            raise ValueError(
                f"every row needs the column {column!r}, {len(lacking)} lack it, the first: {lacking[0]}"
                f"{_hint(column, [str(key) for key in rows[0][0]])}"
            )


def _kind(row: Row, name: str) -> str:
    known = row.get(ClusterKeys.KIND)
    if known is not None:
        if known not in ("image", "volume"):
            raise ValueError(f"kind must be 'image' or 'volume', got {known!r} for {name}; correct it or leave it out")
        return str(known)
    path = Path(_paths(row)[0])
    if path.is_dir():
        return "volume"
    if file_suffix(path) in PICTURE_SUFFIXES:
        return "image"
    if is_dicom(path):
        header = dicom_header(path)
        if header is None or not is_image_storage(header):
            raise ValueError(f"{name} is no DICOM image (segmentation, report or damaged file); take it off the list")
        return "image"
    if file_suffix(path) not in READABLE_SUFFIXES:
        raise ValueError(f"files must end in one of {', '.join(READABLE_SUFFIXES)}, got {name}; convert it")
    try:
        return "volume" if len(spatial_shape(path)) > 2 else "image"
    except Exception as error:
        raise ValueError(
            f"the header of {name} cannot be read: {error}; replace the file or take it off the list"
        ) from error


def _size(image: str | list[str]) -> int:
    total = 0
    for one in [image] if isinstance(image, str) else image:
        path = Path(one)
        files = [child for child in path.iterdir() if child.is_file()] if path.is_dir() else [path]
        total += sum(file.stat().st_size for file in files)
    return total

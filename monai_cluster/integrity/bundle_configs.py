# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A MONAI bundle from somebody else, judged before it runs: its configuration, logging, macros and overrides."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from .byte_stream import refuse
from .config_code import check_code, entries, macro_file
from .findings import InputRefusedError, Inspection
from .guarding import guarded
from .limits import Limits
from .logging_configs import check_logging
from .overrides import check_overrides, parse_overrides
from .strict_json import decode_text, read_bytes, read_json
from .yaml_scan import read_yaml

__all__ = ["inspect_bundle"]

LOGGING_SUFFIXES = (".conf", ".ini", ".cfg")
MAX_FILES = 64  # configurations that macros lead to
RULE = "a bundle's configuration must lie inside the bundle"
FIX = "refused; move the file into the bundle and name it by a relative path"


def inspect_bundle(
    folder: str | os.PathLike[str],
    config: str | Sequence[str],
    overrides: Sequence[str] = (),
    trusted: bool = False,
    limits: Limits | None = None,
) -> Inspection:
    """Judge a bundle without running any of it. Never raises for what the bundle holds.

    Findings: CONFIG (malformed, a key twice, too deep), TARGET and EVAL (code, unless trusted), LOGGING, PATH (macros
    and configurations outside the bundle), OVERRIDE, TOO_LARGE, MISSING and those of ``open_regular``.

    Args:
        folder: of the bundle.
        config: configuration inside the folder, or several, the later ones on top.
        overrides: words of the command line, such as ``["--max_epochs", "5"]``.
        trusted: the authors are trusted, so the configuration may run code.
        limits: size of a configuration.
    """
    limits, inspection = limits or Limits(), Inspection()
    inspection.facts.kind = "bundle"
    root = os.path.realpath(folder)
    contents: list[Any] = []
    with guarded(inspection):
        names = [config] if isinstance(config, str) else list(config)
        contents = _read_all(root, names, limits, inspection)
        inspection.facts.num_files = len(contents)
        values = parse_overrides(overrides)
        if not trusted:
            check_code([contents, [{name: value} for name, value in values]], inspection)
        _check_macros_of_overrides(root, values, inspection)
        merged = {key.lstrip("+"): one for content in contents[: len(names)] for key, one in content.items()}
        check_overrides(merged, values, inspection)
    with guarded(inspection):
        _check_metadata(root, limits, inspection)
    for path in _logging_files(root):
        with guarded(inspection):
            check_logging(decode_text(read_bytes(_inside(root, path), limits), "CONFIG"), inspection)
    return inspection


def _read_all(root: str, names: Sequence[str], limits: Limits, inspection: Inspection) -> list[Any]:
    """The configurations named, and all that their macros lead to."""
    contents: list[Any] = []
    waiting = [os.path.join(root, name) for name in names]
    seen: set[str] = set()
    while waiting:
        path = _inside(root, waiting.pop(0))
        if path in seen and len(contents) >= len(names):
            continue
        seen.add(path)
        if len(contents) >= MAX_FILES:
            raise refuse("TOO_LARGE", RULE, f"macros to more than {MAX_FILES} files", FIX)
        content = _read(path, limits)
        if not isinstance(content, dict):
            found = f"a {type(content).__name__} at the top"
            raise refuse("CONFIG", "a configuration must be an object", found, "write name and value of each entry")
        contents.append(content)
        for _, value in entries(content):
            linked = macro_file(value)
            if linked is not None:
                waiting += _linked(root, linked, inspection)
    return contents


def _linked(root: str, name: str, inspection: Inspection) -> list[str]:
    try:
        path = _inside(root, os.path.join(root, name))
    except InputRefusedError as error:
        inspection.findings.extend(error.findings)
        return []
    if not os.path.exists(path):
        rule = "a macro must name a file of the bundle, relative to its folder"
        inspection.warn("MISSING", rule, "a macro to a file that is not there", "correct the macro")
        return []
    return [path]


def _check_macros_of_overrides(root: str, values: Sequence[tuple[str, Any]], inspection: Inspection) -> None:
    for _, value in entries([one for _, one in values]):
        linked = macro_file(value)
        if linked is not None:
            _linked(root, linked, inspection)


def _inside(root: str, path: str) -> str:
    """The real path of a file of the bundle.

    Raises:
        InputRefusedError: PATH where it is outside, also through links.
    """
    if "\0" in path:
        raise refuse("PATH", RULE, "a path with a null character", FIX)
    real = os.path.realpath(path)
    if os.path.commonpath([root, real]) != root:
        raise refuse("PATH", RULE, "a path or macro that leads outside the bundle root", FIX)
    return real


def _read(path: str, limits: Limits) -> Any:
    if path.lower().endswith((".yaml", ".yml")):
        return read_yaml(read_bytes(path, limits))
    if path.lower().endswith(".json"):
        return read_json(path, "CONFIG", limits)
    raise refuse("CONFIG", "a configuration must be .json or .yaml", "another suffix", "rename it")


def _check_metadata(root: str, limits: Limits, inspection: Inspection) -> None:
    path = os.path.join(root, "configs", "metadata.json")
    if not os.path.lexists(path):
        rule = "a bundle should say in metadata.json what it is"
        inspection.warn("MISSING", rule, "no metadata", "ask its authors for it")
        return
    if not isinstance(read_json(_inside(root, path), "CONFIG", limits), dict):
        raise refuse("CONFIG", "metadata must be an object", "something else at the top", "correct it")


def _logging_files(root: str) -> list[str]:
    found: list[str] = []
    for folder in (root, os.path.join(root, "configs")):
        if os.path.isdir(folder):
            found += [os.path.join(folder, name) for name in sorted(os.listdir(folder))[:10_000]]
    return [path for path in found if path.lower().endswith(LOGGING_SUFFIXES)]

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Overrides on the command line of a bundle: a misspelt one must not be added in silence as a new entry."""

from __future__ import annotations

import ast
import difflib
import json
import re
from collections.abc import Sequence
from typing import Any

from .findings import Inspection

__all__ = ["check_overrides", "parse_overrides"]

OWN_ARGUMENTS = frozenset(
    [
        "run_id",
        "init_id",
        "final_id",
        "meta_file",
        "config_file",
        "logging_file",
        "tracking",
        "args_file",
        "bundle_root",
    ]
)
SEPARATOR = re.compile(r"::|#")
RULE = "an override must name an entry of the configuration"
FIX = "correct the override"
SCALARS = (bool, int, float, str)


def parse_overrides(arguments: Sequence[str]) -> list[tuple[str, Any]]:
    """Names and values of ``--name value``, ``--name=value`` and ``name=value``; dashes become underscores.

    An option without a value is ``True``, as python-fire reads it.
    """
    result: list[tuple[str, Any]] = []
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        option = word.startswith("--")
        name, equals, value = word.removeprefix("--").partition("=")
        if option and not equals:
            value = rest.pop(0) if rest and not rest[0].startswith("--") else "True"
        result.append((name.replace("-", "_"), _value(value)))
    return result


def _value(text: str) -> Any:
    if len(text) > 100_000:
        return text
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        return list(value) if isinstance(value, tuple) else value
    return text


def check_overrides(config: dict[str, Any], overrides: Sequence[tuple[str, Any]], inspection: Inspection) -> None:
    """Add OVERRIDE findings: names that the configuration does not have, and values of another type."""
    for number, (name, value) in enumerate(overrides, start=1):
        if name in OWN_ARGUMENTS:
            continue
        parts = SEPARATOR.split(name.lstrip("+"))
        parent, known = _find(config, parts[:-1])
        if not known:
            found = f"override {number}, whose outer entry is unknown"
            inspection.reject("OVERRIDE", RULE, found, FIX)
        else:
            _check_one(parent, parts[-1], value, number, inspection)


def _find(content: Any, parts: Sequence[str]) -> tuple[Any, bool]:
    for part in parts:
        if isinstance(content, dict) and part in content:
            content = content[part]
        elif isinstance(content, list) and part.isdecimal() and int(part) < len(content):
            content = content[int(part)]
        else:
            return None, False
    return content, True


def _check_one(parent: Any, name: str, value: Any, number: int, inspection: Inspection) -> None:
    if isinstance(parent, str) and parent[:1] in "$@%":
        return  # what stands there is known only once it has run
    current, known = _find(parent, [name])
    if known:
        _check_type(current, value, number, inspection)
        return
    names = [str(key) for key in parent] if isinstance(parent, dict) else []
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    if isinstance(parent, dict) and "_target_" in parent and not close:
        found = f"override {number}, which adds an argument to a component"
        inspection.warn("OVERRIDE", RULE, found, "check that the component has this argument")
        return
    # the name is the configuration's own, and the guess is worth more than silence
    plain = close and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,40}", close[0])
    hint = f"did you mean {close[0]!r}?" if plain else "see the configuration for its names"
    inspection.reject("OVERRIDE", RULE, f"override {number}, an unknown name", hint)


def _check_type(current: Any, value: Any, number: int, inspection: Inspection) -> None:
    if current is None or value is None or (isinstance(current, str) and current[:1] in ("$", "@", "%")):
        return
    if isinstance(value, str) and value[:1] in ("$", "@", "%"):
        return
    fits = type(value) is type(current)
    if isinstance(current, float) and type(value) is int:
        fits = True
    if isinstance(current, str) and isinstance(value, SCALARS):
        fits = True
    if fits:
        return
    rule = "an override must be of the type that the configuration has there"
    found = f"override {number} of type {type(value).__name__}, expected {type(current).__name__}"
    if type(current) is int and isinstance(value, float):
        inspection.warn("OVERRIDE", rule, found, "write a whole number, unless a fraction is meant")
        return
    inspection.reject("OVERRIDE", rule, found, FIX)

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Logging configurations: Python evaluates their classes and arguments, so only plain ones may stand there."""

from __future__ import annotations

import ast
import configparser
import re
from typing import Any

from .findings import Inspection

__all__ = ["check_logging"]

CLASSES = frozenset(
    [
        "StreamHandler",
        "FileHandler",
        "NullHandler",
        "handlers.RotatingFileHandler",
        "handlers.TimedRotatingFileHandler",
        "Formatter",
        "logging.StreamHandler",
        "logging.FileHandler",
        "logging.NullHandler",
        "logging.Formatter",
        "logging.handlers.RotatingFileHandler",
        "logging.handlers.TimedRotatingFileHandler",
    ]
)
STREAMS = ("sys.stdout", "sys.stderr")
RULE = "a logging configuration must not run code"
FIX = "refused; use StreamHandler with args=(sys.stdout,), or delete the file"


def check_logging(text: str, inspection: Inspection) -> None:
    """Add findings about a file that ``logging.config.fileConfig`` would read."""
    # fileConfig fills in %(name)s; here it stays as written, and is refused where code would be evaluated
    parser = configparser.RawConfigParser()
    try:
        parser.read_string(text)
    except configparser.Error:
        rule = "a logging configuration must be well-formed"
        inspection.reject("LOGGING", rule, "sections or options that cannot be read (refused)", FIX)
        return
    for section in [parser.default_section, *parser.sections()]:
        options = dict(parser.items(section)) if section != parser.default_section else dict(parser.defaults())
        _check_section(options, inspection)


def _check_section(options: dict[str, str], inspection: Inspection) -> None:
    kind = options.get("class", "").strip()
    if kind and kind not in CLASSES:
        inspection.reject("LOGGING", RULE, "a class that is not allowed", FIX)
    for name in ("args", "kwargs"):
        if name in options and not _is_plain(options[name]):
            inspection.reject("LOGGING", RULE, f"{name} that are evaluated and no plain literals", FIX)


def _is_plain(source: str) -> bool:
    if "%(" in source:
        return False
    try:
        tree = ast.parse(source.strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return _is_literal(tree.body)


def _is_literal(node: Any) -> bool:
    if isinstance(node, (ast.Tuple, ast.List)):
        return all(_is_literal(one) for one in node.elts)
    if isinstance(node, ast.Dict):
        return all(one is not None and _is_literal(one) for one in [*node.keys, *node.values])
    if isinstance(node, ast.Attribute):
        return ast.unparse(node) in STREAMS
    return isinstance(node, ast.Constant) and not (isinstance(node.value, str) and _leaves(node.value))


def _leaves(text: str) -> bool:
    """Whether a text, taken as a path, leads out of the folder: a log file must not be written over anything."""
    return bool(re.match(r"[/\\~]|[A-Za-z]:", text)) or ".." in re.split(r"[/\\]", text)

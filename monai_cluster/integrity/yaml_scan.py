# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""YAML as a stream of events: how large its aliases make it, and whether its tags ask for Python objects."""

from __future__ import annotations

import importlib
from typing import Any

from .byte_stream import refuse
from .strict_json import MAX_DEPTH, check_depth, decode_text

__all__ = ["read_yaml"]

MAX_YAML_BYTES = 4 * 2**20
MAX_NODES = 200_000  # after every alias is written out
RULE = "a configuration must be plain YAML"
FIX = "write it as JSON"


def read_yaml(data: bytes) -> Any:
    """Content of a YAML configuration, built by PyYAML's safe constructor after its events were judged.

    Raises:
        InputRefusedError: TOO_LARGE (aliases, size), EVAL (tags of Python objects), CONFIG (malformed, a key twice).
    """
    if len(data) > MAX_YAML_BYTES:
        raise refuse("TOO_LARGE", RULE, f"{len(data)} bytes, the limit is {MAX_YAML_BYTES}", FIX)
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError:
        raise refuse(
            "CONFIG", RULE, "YAML on a machine without PyYAML", "install PyYAML, or write it as JSON"
        ) from None
    text = decode_text(data, "CONFIG")
    try:
        _scan(yaml, yaml.parse(text, Loader=yaml.SafeLoader))
        loader = yaml.SafeLoader(text)
        content = loader.get_single_data()
    except RecursionError:
        raise refuse("CONFIG", RULE, f"far more than {MAX_DEPTH} levels of nesting", FIX) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"in line {mark.line + 1}" if mark is not None else "of its characters"
        raise refuse("CONFIG", RULE, f"an error {where}", "correct it") from None
    check_depth(content, "CONFIG")
    return content


class _Level:
    """A list or mapping that is open: its size with aliases written out, and the keys it has had."""

    def __init__(self, anchor: str | None, mapping: bool) -> None:
        self.anchor, self.mapping = anchor, mapping
        self.size, self.count = 1, 0
        self.keys: set[str] = set()

    def add(self, size: int, key: str | None) -> None:
        self.size += size
        self.count += 1
        if not self.mapping or self.count % 2 == 0 or key is None:
            return
        if key in self.keys:
            raise refuse("CONFIG", RULE, "duplicate keys in one mapping; readers keep the last", "keep one")
        self.keys.add(key)


def _scan(yaml: Any, events: Any) -> None:
    """Go through the events once and add up what every anchor stands for."""
    sizes: dict[str, int] = {}
    stack = [_Level(None, False)]
    documents = 0
    for event in events:
        documents += isinstance(event, yaml.DocumentStartEvent)
        size, key = 0, None
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                raise refuse("CONFIG", RULE, "an alias inside itself or without its anchor", FIX)
            size = sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            _check_tag(event.tag)
            size, key = 1, event.value
            if event.anchor:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            _check_tag(event.tag)
            sizes.pop(event.anchor, None)
            stack.append(_Level(event.anchor, isinstance(event, yaml.MappingStartEvent)))
        elif isinstance(event, yaml.CollectionEndEvent):
            closed = stack.pop()
            size = closed.size
            if closed.anchor:
                sizes[closed.anchor] = size
        if size:
            stack[-1].add(size, key)
        if stack[-1].size > MAX_NODES or len(stack) > MAX_DEPTH + 1:
            found = f"more than {MAX_NODES} entries once its aliases are written out, or too much depth"
            raise refuse("TOO_LARGE", RULE, found, FIX)
    if documents > 1:
        raise refuse("CONFIG", RULE, f"{documents} documents in one file", "keep one")


def _check_tag(tag: str | None) -> None:
    if tag is not None and not tag.startswith("tag:yaml.org,2002:") and tag != "!":
        raise refuse("CONFIG", RULE, "a tag of a type that is not known", FIX)
    if tag is not None and "python" in tag:
        raise refuse("EVAL", RULE, "a tag that builds Python objects (not allowed)", "remove the tag")

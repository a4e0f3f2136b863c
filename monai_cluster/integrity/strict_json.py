# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Read JSON that means one thing only: UTF-8, no key twice, no NaN, neither too large nor too deep."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from typing import Any

from .byte_stream import open_regular, refuse
from .limits import Limits

__all__ = ["MAX_DEPTH", "check_depth", "decode_text", "read_bytes", "read_json"]

MAX_DEPTH = 64  # the deepest of our own configurations has 9 levels
MAX_TEXT_BYTES = 256 * 2**20  # a list of a million rows
BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\x00\x00\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"
RULE = "a text must be valid JSON in UTF-8"
FIX = "correct the file with an editor that knows JSON, or write it again"


class _InvalidJSONError(ValueError):
    """What a hook of the parser found; its text is ours and quotes nothing."""


def read_json(
    source: str | os.PathLike[str] | bytes,
    code: str = "JSON",
    limits: Limits | None = None,
    *,
    allow_nonfinite: bool = False,
) -> Any:
    """Content of a JSON file or of JSON bytes.

    Args:
        source: path of a file, or the bytes themselves.
        code: code of the finding for malformed text: ``JSON`` for lists, ``CONFIG`` for configurations.
        limits: the text may not be larger than ``max_decoded_bytes`` either.
        allow_nonfinite: read NaN and infinities, for a caller that judges the numbers itself.

    Raises:
        InputRefusedError: ``code`` for malformed text, a key twice, NaN, another encoding or too many levels;
            TOO_LARGE; and what :func:`~monai_cluster.integrity.byte_stream.open_regular` raises.
    """
    data = source if isinstance(source, bytes) else read_bytes(source, limits or Limits())
    text = decode_text(data, code)
    try:
        content = json.loads(
            text,
            object_pairs_hook=_unique,
            parse_constant=None if allow_nonfinite else _no_constant,
            parse_float=None if allow_nonfinite else _finite,
        )
    except json.JSONDecodeError as error:
        cut = " (truncated?)" if error.pos >= len(text.rstrip()) - 1 else ""
        raise refuse(code, RULE, f"an error in line {error.lineno}, column {error.colno}{cut}", FIX) from None
    except _InvalidJSONError as error:
        raise refuse(code, RULE, str(error), FIX) from None
    except RecursionError:
        raise refuse(code, RULE, f"far more than {MAX_DEPTH} levels of nesting", "write it flatter") from None
    except ValueError:  # an integer of more digits than Python converts
        raise refuse(code, RULE, "a number of thousands of digits", FIX) from None
    check_depth(content, code)
    return content


def read_bytes(path: str | os.PathLike[str], limits: Limits) -> bytes:
    """All bytes of a text file.

    Raises:
        InputRefusedError: TOO_LARGE, and what ``open_regular`` raises.
    """
    limit = min(MAX_TEXT_BYTES, limits.max_decoded_bytes)
    with open_regular(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        found = f"more than {limit} bytes"
        raise refuse("TOO_LARGE", "a list or configuration must be below the limit of its size", found, "split it")
    return data


def decode_text(data: bytes, code: str) -> str:
    """Text of UTF-8 bytes; the three bytes with which some editors mark UTF-8 are dropped.

    Raises:
        InputRefusedError: ``code`` for UTF-16, UTF-32 and bytes that are no UTF-8.
    """
    fix = "save it as UTF-8"
    if data[:2] in BYTE_ORDER_MARKS or data[:4] in BYTE_ORDER_MARKS or b"\0" in data[:4]:
        raise refuse(code, RULE, "the encoding UTF-16 or UTF-32", fix)
    try:
        return data.removeprefix(UTF8_MARK).decode("utf-8")
    except UnicodeDecodeError as error:
        raise refuse(code, RULE, f"a byte at {error.start} that no UTF-8 has (another encoding?)", fix) from None


def check_depth(content: Any, code: str) -> None:
    """Refuse content of more than ``MAX_DEPTH`` levels; whoever walks it later may then recurse.

    Raises:
        InputRefusedError: ``code``.
    """
    level: list[Any] = [content]
    for _ in range(MAX_DEPTH + 1):
        level = [one for outer in level for one in _inside(outer)]
        if not level:
            return
    raise refuse(code, RULE, f"more than {MAX_DEPTH} levels of nesting", "write it flatter")


def _inside(content: Any) -> Iterable[Any]:
    inside = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    return (one for one in inside if isinstance(one, (dict, list)))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        count = len(pairs) - len(content)
        raise _InvalidJSONError(f"{count} duplicate keys in one object; readers keep the last and drop the rest")
    return content


def _no_constant(name: str) -> float:
    raise _InvalidJSONError("NaN or an infinity, which are no JSON numbers")


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise _InvalidJSONError("a number too large for any float (not finite)")
    return number

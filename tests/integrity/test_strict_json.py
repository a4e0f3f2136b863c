# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""JSON that means one thing only."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from monai_cluster.integrity.findings import InputRefusedError
from monai_cluster.integrity.limits import Limits
from monai_cluster.integrity.strict_json import MAX_DEPTH, read_json


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_plain_json_is_read(tmp_path: Path, mark: bytes) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(mark + '{"a": [1, 2.5, null, "ü"]}'.encode())
    assert read_json(path) == {"a": [1, 2.5, None, "ü"]}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"a": 1, "a": 2}', "duplicate"),
        (b'{"b": {"a": 1, "a": 1}}', "duplicate"),
        (b'{"a": NaN}', "NaN"),
        (b'{"a": -Infinity}', "infinity"),
        (b'{"a": 1e999}', "not finite"),
        (b'{"a": ', "truncated"),
        (b'{"a" 1}', "line 1"),
        ('{"a": 1}'.encode("utf-16"), "UTF-16"),
        ('{"a": 1}'.encode("utf-16-le"), "UTF-16"),
        (b'{"a": "\xe9"}', "UTF-8"),
        (b"[" * (MAX_DEPTH + 2) + b"]" * (MAX_DEPTH + 2), "levels"),
        (b"[" * 200_000, "levels"),
        (b"9" * 10_000, "digits"),
    ],
)
def test_ambiguous_or_malformed_text_is_refused(text: bytes, says: str) -> None:
    with pytest.raises(InputRefusedError, match=says) as error:
        read_json(text, "CONFIG")
    assert [one.code for one in error.value.findings] == ["CONFIG"]


def test_a_text_above_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps(["x" * 100]))
    with pytest.raises(InputRefusedError, match="TOO_LARGE"):
        read_json(path, limits=Limits(max_decoded_bytes=50))

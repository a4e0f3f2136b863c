# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""The folder of a check: whose it is, the salt of its identifiers, and files that only their owner may read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

__all__ = ["CheckOutput", "open_output", "read_salt"]

MARK = "check.json"
FORMAT = "monai_cluster check 1"


class CheckOutput:
    """Names and digests of one check.

    ``check.json`` salt and settings · ``index.sqlite`` what was read · ``report.json``, ``report.html`` findings ·
    ``quarantine.json`` rejected ids · ``datalist.json`` and ``items.csv``, which alone hold paths.

    Attributes:
        root: real path of the folder.
        salt: 32 bytes; equal salts make digests of two checks comparable.
        taken_over: whether an earlier check of the same source lies here.
    """

    def __init__(self, root: Path, salt: bytes, taken_over: bool) -> None:
        self.root, self.salt, self.taken_over = root, salt, taken_over

    @property
    def salt_id(self) -> str:
        """Tells two salts apart and gives neither away."""
        return self.digest("salt")[:16]

    def digest(self, *parts: str) -> str:
        """64 hex digits that nobody without the salt can compute; what comes first tells uses apart."""
        text = json.dumps(parts).encode()  # with escapes: names that are no UTF-8 have surrogates
        return hashlib.blake2b(text, key=self.salt, digest_size=32).hexdigest()

    @contextlib.contextmanager
    def write(self, name: str) -> Iterator[TextIO]:
        """A file that only the owner may read, in place of the earlier one once it is complete."""
        part = self.root / f".{name}.part"
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
            os.chmod(part, 0o600)
            yield file
        os.replace(part, self.root / name)

    def write_json(self, name: str, content: Any) -> None:
        """Write one JSON file."""
        with self.write(name) as file:
            json.dump(content, file, indent=1)


def open_output(out: str, source: str, salt_from: str | None = None, against: str | None = None) -> CheckOutput:
    """Open the folder of a check, or make it with the right to enter for its owner only.

    Args:
        out: the folder; a new one, an empty one, or one of an earlier check of the same source.
        source: what is checked, a path.
        salt_from: folder of another check whose salt is shared.
        against: what leaks are looked for in; where it is the folder of a check, a new folder shares its salt.

    Raises:
        FileExistsError: if ``out`` holds anything else, or a check of another source.
        FileNotFoundError, ValueError: if ``salt_from`` is no check.
        ValueError: if ``out`` has another salt already.
    """
    folder = Path(out)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{out} must be a folder, and is a file: choose another")
    shared = read_salt(salt_from) if salt_from is not None else None
    if shared is None and against is not None and (Path(against) / MARK).is_file():
        shared = read_salt(against)
    if (folder / MARK).is_file():
        return _earlier(folder, source, shared)
    if folder.is_dir() and any(not one.name.startswith(f".{MARK}") for one in folder.iterdir()):
        raise FileExistsError(f"{out} holds files that no check wrote: choose another folder, or empty it yourself")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.chmod(folder, 0o700)
    output = CheckOutput(folder.resolve(), shared or secrets.token_bytes(32), taken_over=False)
    mark = {"format": FORMAT, "salt": output.salt.hex(), "source": _source_digest(output, source)}
    output.write_json(MARK, mark)
    return output


def read_salt(folder: str) -> bytes:
    """The salt of another check.

    Raises:
        FileNotFoundError: if the folder holds no check.
        ValueError: if its mark is broken.
    """
    path = Path(folder) / MARK
    if not path.is_file():
        raise FileNotFoundError(f"salt_from must be the folder of a check, there is no {MARK} in {folder}")
    return bytes.fromhex(_mark(path)["salt"])


def _mark(path: Path) -> dict[str, Any]:
    try:
        mark = json.loads(path.read_text(encoding="utf-8"))
        if mark["format"] != FORMAT or len(bytes.fromhex(mark["salt"])) != 32 or not isinstance(mark["source"], str):
            raise ValueError("other entries")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not what this version of check writes ({error}): choose another folder") from None
    return dict(mark)


def _earlier(folder: Path, source: str, shared: bytes | None) -> CheckOutput:
    mark = _mark(folder / MARK)
    output = CheckOutput(folder.resolve(), bytes.fromhex(mark["salt"]), taken_over=True)
    if mark["source"] != _source_digest(output, source):
        raise FileExistsError(f"{folder} holds the check of another source: choose another folder")
    if shared is not None and shared != output.salt:
        raise ValueError(
            f"{folder} has a salt of its own already, and identifiers of two salts cannot be compared: "
            "check into a new folder with salt_from"
        )
    os.chmod(folder, 0o700)
    return output


def _source_digest(output: CheckOutput, source: str) -> str:
    return output.digest("source", os.path.realpath(source))


def unique_id(prefix: str, digest: str, is_taken: Callable[[str], bool]) -> str:
    """``prefix-3f9a2c``: as few of the digest's digits as tell it apart, six at least."""
    for length in range(6, len(digest) + 1, 2):
        name = f"{prefix}-{digest[:length]}"
        if not is_taken(name):
            return name
    raise ValueError("two items with the same digest; report this")

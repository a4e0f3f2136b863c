# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Keep reading libraries from talking: they quote headers and file names, and a finding says it better."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator
from typing import BinaryIO

__all__ = ["hushed", "written"]

STREAMS = (1, 2)  # ITK's JPEG library complains on stdout, other libraries on stderr


@contextlib.contextmanager
def hushed() -> Iterator[BinaryIO]:
    """Silence warnings, logging and what native libraries write to stdout and stderr; for one thread at a time.

    Yields:
        a temporary file with what was written meanwhile; see :func:`written`.
    """
    before = logging.root.manager.disable
    saved: list[tuple[int, int]] = []
    with tempfile.TemporaryFile() as heard, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.CRITICAL)
        _flush()
        try:
            for stream in STREAMS:
                with contextlib.suppress(OSError):  # a process without this stream has nothing to silence
                    saved.append((stream, os.dup(stream)))
                    os.dup2(heard.fileno(), stream)
            yield heard
        finally:
            logging.disable(before)
            _flush()
            for stream, copy in saved:
                os.dup2(copy, stream)
                os.close(copy)


def written(heard: BinaryIO, limit: int = 4096) -> bytes:
    """The first bytes of what a silenced library wrote."""
    os.lseek(heard.fileno(), 0, os.SEEK_SET)
    return os.read(heard.fileno(), limit)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()

# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""What the structure of a picture's file says before anything decodes it, and the walk over a BMP file.

Pillow reads what it needs and stops: it does not look at the checksums of ancillary chunks, at what follows the end,
or at texts that it does not show. PNG, JPEG and TIFF have walks in modules of their own.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from typing import BinaryIO

from .byte_stream import refuse
from .findings import InputRefusedError
from .limits import Limits

__all__ = ["MAX_TEXT", "MAX_TEXTS", "Container", "broken", "check_size", "need", "walk_bmp"]

MAX_TEXT = 1 << 16  # bytes of one text that are looked at
MAX_TEXTS = 256
COPY_AGAIN = "copy the file again and compare checksums"
TIMESTAMP = re.compile(r"\d{4}-\d{2}-\d{2}[T ]\d{2}:\d{2}\S*|\d{4}:\d{2}:\d{2}\b")  # when a program wrote the file


@dataclass
class Container:
    """What the structure of a picture's file says.

    Attributes:
        rows, columns: pixels.
        bits: of one channel.
        pages: pictures in the file.
        trailing: bytes after the end.
        texts: free text, to be looked at for identifiers and never shown.
        place: whether the file says where on Earth it was made (GPS).
    """

    rows: int = 0
    columns: int = 0
    bits: int = 8
    pages: int = 1
    trailing: int = 0
    texts: list[str] = field(default_factory=list)
    place: bool = False

    def note(self, text: bytes | str) -> None:
        """Keep a text for the look at identifiers."""
        if len(self.texts) < MAX_TEXTS:
            shown = text[:MAX_TEXT] if isinstance(text, str) else text[:MAX_TEXT].decode("latin-1")
            self.texts.append(TIMESTAMP.sub(" ", shown.replace("\0", ": ", 1)))


def check_size(found: Container, limits: Limits) -> None:
    """Refuse pictures without pixels or with more than the limit, before anything is decoded.

    Raises:
        InputRefusedError: HEADER and TOO_LARGE.
    """
    listed = f"{found.columns} × {found.rows} pixels"
    if found.rows < 1 or found.columns < 1:
        raise broken("HEADER", "a picture must have pixels", f"a zero width or height ({listed}) in the header")
    if found.rows * found.columns > limits.max_picture_pixels:
        text = f"{listed}: too large, or a decompression bomb"
        rule = f"a picture must stay below the limit of {limits.max_picture_pixels} pixels"
        raise refuse("TOO_LARGE", rule, text, "take it off the list, or raise the limit")


def broken(code: str, rule: str, found: str) -> InputRefusedError:
    """The error for a container that is not whole."""
    return refuse(code, rule, found, COPY_AGAIN)


def walk_bmp(file: BinaryIO, size: int, limits: Limits) -> Container:
    """Check the header of a BMP file against its length.

    Raises:
        InputRefusedError: TRUNCATED, HEADER and TOO_LARGE.
    """
    file.seek(0)
    head = need(file.read(54), 26, "BMP header")
    (start,) = struct.unpack_from("<I", head, 10)
    (header,) = struct.unpack_from("<I", head, 14)
    if header == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", head, 18)
        packing = 0
    elif header >= 40:
        width, height, _, bits, packing = struct.unpack_from("<iiHHI", need(head, 54, "BMP header"), 18)
    else:
        raise broken("HEADER", "a BMP header must be valid", f"one of {header} bytes")
    found = Container(rows=abs(height), columns=max(0, width), bits=8)
    check_size(found, limits)
    if packing in (0, 3, 6):
        end = start + found.rows * ((found.columns * bits + 31) // 32 * 4)
        if bits not in (1, 2, 4, 8, 16, 24, 32) or start < 14 + header:
            raise broken("HEADER", "a BMP header must be valid", f"{bits} bits per pixel, pixels from byte {start}")
        if size < end:
            text = f"{size} bytes where the header needs {end} (truncated)"
            raise broken("TRUNCATED", "a BMP file must hold all pixels of its header", text)
        found.trailing = size - end if size - end > 3 else 0
    return found


def need(data: bytes, count: int, what: str) -> bytes:
    """The data, where they are as long as they must be.

    Raises:
        InputRefusedError: TRUNCATED.
    """
    if len(data) < count:
        text = f"{len(data)} bytes where {count} are expected (truncated)"
        raise broken("TRUNCATED", f"a {what} must be whole", text)
    return data

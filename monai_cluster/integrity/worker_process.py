# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""A process that answers one request after another under limits of memory and time, and may be killed at any moment.

Requests and answers are JSON with a length in front, on the standard streams: what a worker that has read a hostile
file says is parsed, never unpickled. Nothing here imports a reading library, so that limits are in force before.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import signal
import sys
from collections.abc import Callable
from typing import Any, BinaryIO

from .limits import Limits

__all__ = ["main", "receive", "send"]

MAX_MESSAGE = 256 * 2**20
Answer = Callable[[dict[str, Any], Limits], dict[str, Any]]


def send(stream: BinaryIO, message: dict[str, Any]) -> None:
    """Write one message."""
    data = json.dumps(message).encode()
    stream.write(len(data).to_bytes(8, "little") + data)
    stream.flush()


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """Read one message; None where the stream ends, within a message too.

    Raises:
        ValueError: for what is no message.
    """
    head = stream.read(8)
    size = int.from_bytes(head, "little")
    if len(head) < 8:
        return None
    if size > MAX_MESSAGE:
        raise ValueError(f"a message must have at most {MAX_MESSAGE} bytes, got {size}; the worker is broken")
    data = stream.read(size)
    if len(data) < size:
        return None
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError(f"a message must be an object, got {type(message).__name__}; the worker is broken")
    return message


def main() -> None:
    """Serve until the standard input ends.

    The first message holds ``limits``, ``answer`` (``module:function``) and ``preload`` (modules), and is answered with
    ``ready``. Every later one is handed to the function; ``retire`` in an answer says that the process ends with it.
    """
    requests, answers = _own_streams()
    first = receive(requests)
    if first is None:
        return
    limits = Limits(**first["limits"])
    answer = _load(first["answer"], first["preload"])
    started_with = _address_space()
    _limit_memory(started_with + limits.memory_bytes)
    send(answers, {"ready": True})
    with contextlib.suppress(BrokenPipeError):
        while (request := receive(requests)) is not None:
            _set_alarm(request.get("seconds", limits.seconds))
            reply = _answer(answer, request, limits)
            # what libraries keep must not count against the next item
            reply["retire"] = _address_space() > started_with + limits.memory_bytes / 2 or "failed" in reply
            _set_alarm(0)
            send(answers, reply)
            if reply["retire"]:
                return


def _own_streams() -> tuple[BinaryIO, BinaryIO]:
    """Keep the streams of the protocol, and send to nowhere what libraries print."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1):
        os.dup2(nowhere, stream)
    os.environ.update(OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1")
    os.environ["ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"] = "1"  # every worker is one thread of the whole
    return requests, answers


def _load(name: str, preload: list[str]) -> Answer:
    for module in preload:
        importlib.import_module(module)
    module, _, function = name.partition(":")
    answer: Answer = getattr(importlib.import_module(module), function)
    nowhere = os.open(os.devnull, os.O_RDWR)
    sys.stderr.flush()
    os.dup2(nowhere, 2)  # from here on, messages may quote files
    return answer


def _answer(answer: Answer, request: dict[str, Any], limits: Limits) -> dict[str, Any]:
    try:
        return {"answer": answer(request, limits)}
    except MemoryError:
        return {"failed": "MEMORY", "found": "an allocation that failed"}
    except Exception as error:  # whatever it is, it costs one item
        return {"failed": "UNREADABLE", "found": f"a failure of the check itself ({type(error).__name__})"}


def _set_alarm(seconds: float) -> None:
    """End this process if nobody else does: its parent may be gone. 0 takes the alarm off."""
    if hasattr(signal, "alarm"):
        signal.alarm(0 if seconds == 0 else math.ceil(seconds) + 10)


def _address_space() -> int:
    try:
        with open("/proc/self/statm", encoding="ascii") as file:
            return int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return 0


def _limit_memory(size: int) -> None:
    with contextlib.suppress(ImportError, ValueError, OSError):  # not every system has it
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (size if hard == resource.RLIM_INFINITY else min(size, hard), hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # a core file would hold pixels

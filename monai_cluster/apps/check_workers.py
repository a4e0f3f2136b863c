# Copyright (c) monai_cluster authors. Licensed under the Apache License, Version 2.0.
"""Worker processes that may hang, eat memory or die: each has its own pipes, and its end costs one task.

Not ``pebble`` or ``concurrent.futures``: their workers share locks and a channel, so that one killed while idle or
while holding a lock breaks or stops the pool; they import the caller's ``__main__`` again, and unpickle what workers
say.
"""

from __future__ import annotations

import contextlib
import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, cast

from monai_cluster.integrity import Limits
from monai_cluster.integrity.worker_process import receive, send

__all__ = ["Failure", "Task", "WorkerPool"]

START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from monai_cluster.integrity.worker_process import main; main()"
)
START_SECONDS = 180.0  # to import the reading libraries, on a loaded machine with a cold disk


@dataclass(frozen=True)
class Task:
    """One request; ``key`` comes back with its answer."""

    key: Any
    request: dict[str, Any]
    seconds: float


@dataclass(frozen=True)
class Failure:
    """Why there is no answer: a code of the findings, and what happened."""

    code: str
    found: str


class WorkerPool:
    """A number of worker processes, started when the first task comes.

    Args:
        num_workers: processes.
        limits: of every item; the memory limit is added to what a worker starts with.
        answer: ``module:function`` that answers requests.
        preload: modules that workers import before they are ready.
    """

    def __init__(self, num_workers: int, limits: Limits, answer: str, preload: Sequence[str] = ()) -> None:
        self.num_workers = num_workers
        self.setup = {"limits": asdict(limits), "answer": answer, "preload": list(preload)}
        self._tasks: queue.Queue[Task | None] = queue.Queue()
        self._results: queue.Queue[tuple[Any, dict[str, Any] | Failure | BaseException]] = queue.Queue()
        self._workers: list[_Worker] = []
        self._running = False

    def __enter__(self) -> WorkerPool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def run(self, tasks: Iterable[Task]) -> Iterator[tuple[Any, dict[str, Any] | Failure]]:
        """Yield key and answer of every task in the order in which they end; few tasks are held at a time.

        Raises:
            RuntimeError: if workers cannot be started, or an earlier run was not taken to its end.
        """
        if self._running:
            raise RuntimeError("a pool runs one set of tasks at a time; take all answers first")
        self._running = True
        waiting = 0
        for task in tasks:
            self._start(waiting + 1)
            self._tasks.put(task)
            waiting += 1
            if waiting >= 4 * self.num_workers:
                yield self._result()
                waiting -= 1
        for _ in range(waiting):
            yield self._result()
        self._running = False

    def close(self) -> None:
        """Kill the workers, whatever they do."""
        for worker in self._workers:
            self._tasks.put(None)
            worker.stop()
        for worker in self._workers:
            worker.join(timeout=10)
        self._workers.clear()

    def _start(self, wanted: int) -> None:
        while len(self._workers) < min(self.num_workers, wanted):
            worker = _Worker(self.setup, self._tasks, self._results)
            self._workers.append(worker)
            worker.start()

    def _result(self) -> tuple[Any, dict[str, Any] | Failure]:
        key, result = self._results.get()
        if isinstance(result, BaseException):
            raise result
        return key, result


class _Worker(threading.Thread):
    """A thread that feeds one process, and replaces it when it dies."""

    def __init__(self, setup: dict[str, Any], tasks: queue.Queue[Task | None], results: queue.Queue[Any]) -> None:
        super().__init__(daemon=True, name="monai_cluster check worker")
        self.setup, self.tasks, self.results = setup, tasks, results
        self.stopped = False
        self.process: subprocess.Popen[bytes] | None = None

    def run(self) -> None:
        while (task := self.tasks.get()) is not None and not self.stopped:
            try:
                self.results.put((task.key, self._answer(task)))
            except BaseException as error:  # handed to whoever waits for this answer
                self.results.put((task.key, error))
        self.stop()

    def stop(self) -> None:
        """End the process; the thread ends after it."""
        self.stopped = True
        self._end()

    def _answer(self, task: Task) -> dict[str, Any] | Failure:
        message = {**task.request, "seconds": task.seconds}
        reply, timed_out = self._exchange(self._living(), message, task.seconds)
        if reply is None and not timed_out and self.process is not None and self.process.poll() == 0:
            # it retired, or its pipe broke between two tasks: this one was not begun
            self._end()
            reply, timed_out = self._exchange(self._living(), message, task.seconds)
        if reply is None:
            return _why(self._end(), timed_out, task.seconds)
        if reply.get("retire"):
            self._end()
        if "failed" in reply:
            return Failure(str(reply["failed"]), str(reply["found"]))
        return cast("dict[str, Any]", reply["answer"])

    def _exchange(
        self, process: subprocess.Popen[bytes], message: dict[str, Any], seconds: float
    ) -> tuple[dict[str, Any] | None, bool]:
        """The reply, or None where the process died, and whether that was because time was over."""
        assert process.stdin is not None
        assert process.stdout is not None
        over = threading.Event()

        def kill() -> None:
            over.set()
            process.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            send(cast("Any", process.stdin), message)
            return receive(cast("Any", process.stdout)), over.is_set()
        except (OSError, ValueError):  # its end of the pipe is gone, or it speaks nonsense
            return None, over.is_set()
        finally:
            timer.cancel()

    def _living(self) -> subprocess.Popen[bytes]:
        if self.process is not None and self.process.poll() is None:
            return self.process
        self._end()
        if self.stopped:
            raise RuntimeError("the worker pool is closed; open another")
        path = [one for one in sys.path if one]  # without the current folder, which may hold anything
        with tempfile.TemporaryFile() as heard:
            command = [sys.executable, "-I", "-c", START, json.dumps(path)]
            pipe = subprocess.PIPE
            process = self.process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=heard)
            reply, timed_out = self._exchange(process, self.setup, START_SECONDS)
            if reply is None and not self.stopped:
                heard.seek(0)
                said = heard.read()[-2000:].decode(errors="replace").strip().splitlines()
                why = f"{START_SECONDS:g} s were not enough" if timed_out else said[-1] if said else "it ended"
                raise RuntimeError(f"a worker process could not be started: {why}")
        return process

    def _end(self) -> int:
        """Kill the process if there is one, and return how it ended."""
        process = self.process
        if process is None:
            return 0
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
        code = self._wait(process)
        if process.stdout is not None:
            process.stdout.close()
        self.process = None
        return code

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """How a process ended that is ending or idle; it has a moment for that."""
        try:
            return process.wait(timeout=0 if self.stopped else 5)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()


def _why(code: int, timed_out: bool, seconds: float) -> Failure:
    if timed_out or code == -getattr(signal, "SIGALRM", 14):
        return Failure("TIMEOUT", f"no end after {seconds:g} s")
    if code == -9:
        return Failure("MEMORY", "a worker process that was killed, as systems do when memory runs out")
    name = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return Failure("UNREADABLE", f"a crash of the reading library ({name})")

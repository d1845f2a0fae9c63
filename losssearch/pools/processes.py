"""How are all cores of one machine used, and none of their accidents caught?

One `python` per core, spoken to in lines of JSON over its stdin and stdout. No multiprocessing:
that would run the user's script a second time. Every worker leads a session of its own, so that
Ctrl-C reaches the driver only and killing a worker takes along whatever it started. A worker is
ready in 0.1 s plus `import torch`, all at once.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from losssearch.pools import guard
from losssearch.pools.base import ANSWER_LIMIT
from losssearch.pools.crew import CrewPool, Hand, WorkerLost, check_size
from losssearch.pools.worker import ONE_THREAD, READY

TAIL_BYTES = 4000
CHUNK = 1 << 16

# The worker sees the modules that the driver sees, in the same order, installed or not.
BOOT = """
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from losssearch.pools.worker import main
main(json.loads(sys.argv[2]))
"""


class ProcessPool(CrewPool):
    """Local processes, one per core.

    What the tasks print, on stdout or stderr, appears on this process' stderr.

    Args:
        size: Number of processes; None for one per core that this process may use.
        start_s: A worker that is not ready after this many seconds has failed to start.
        tasks: See `losssearch.pools.worker.Worker`.

    Raises:
        UsageError: `size >= 1` does not hold.
    """

    def __init__(
        self,
        size: int | None = None,
        *,
        start_s: float = 120.0,
        tasks: Mapping[str, str] | None = None,
    ) -> None:
        size = check_size(cores() if size is None else size)
        self._tasks = None if tasks is None else dict(tasks)
        self._guard = Guard()
        super().__init__(size, start_s)

    def _new_hand(self) -> Hand:
        return ProcessHand(self._tasks, self._guard)

    def close(self) -> None:
        super().close()
        self._guard.close()


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Guard:
    """Our end of `losssearch.pools.guard`. It is only needed when we are killed, so its own death
    is no error."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(Path(guard.__file__)), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            bufsize=0,
            cwd="/",
        )

    def tell(self, sign: str, pid: int) -> None:
        assert self._process.stdin is not None
        with suppress(OSError, ValueError):
            self._process.stdin.write(f"{sign}{pid}\n".encode())

    def close(self) -> None:
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._process.wait()


class ProcessHand(Hand):
    """One local process and its three pipes.

    Args:
        environment: What it finds in its environment beside ours.
    """

    def __init__(
        self, tasks: Mapping[str, str] | None, guard: Guard, environment: Mapping[str, str] | None = None
    ) -> None:
        self._tasks, self._guard = tasks, guard
        self._environment = ONE_THREAD | dict(environment or {})
        self._process: subprocess.Popen[bytes] | None = None
        self._lock = threading.Lock()
        self._tail = b""

    def start(self, deadline_s: float) -> None:
        command = [sys.executable, "-u", "-P", "-c", BOOT, _path(), json.dumps(self._tasks)]
        pipe = subprocess.PIPE
        process = subprocess.Popen(
            command,
            stdin=pipe,
            stdout=pipe,
            stderr=pipe,
            bufsize=0,
            start_new_session=True,
            env=os.environ | self._environment,
        )
        with self._lock:
            self._process = process
        self._guard.tell("+", process.pid)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        self._stdin, self._stdout = process.stdin.fileno(), process.stdout.fileno()
        self._stderr = process.stderr.fileno()
        for fd in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(fd, False)
        if (said := self._exchange(b"", deadline_s)) != READY:
            raise WorkerLost(f"It said {said[:60]!r} where it should say it is ready.")

    def fit(self) -> bool:
        # Between two jobs a worker is silent. If there is something to read, it is its end, or
        # rubbish.
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            return not selector.select(0)

    def ask(self, text: str, deadline_s: float) -> str:
        self._tail = b""
        return self._exchange(text.encode() + b"\n", deadline_s).decode(errors="replace")

    def kill(self) -> None:
        with self._lock:
            if self._process is not None:
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(self._process.pid, signal.SIGKILL)

    def dispose(self) -> None:
        self.kill()
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        self._guard.tell("-", process.pid)
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

    def _exchange(self, message: bytes, deadline_s: float) -> bytes:
        """Write a message and read one line, whichever can be done, and pass on what it prints
        meanwhile."""
        until = time.monotonic() + deadline_s
        chunks: list[bytes] = []
        total = 0
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            selector.register(self._stderr, selectors.EVENT_READ)
            if message:
                selector.register(self._stdin, selectors.EVENT_WRITE)
            while True:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError
                ready = {key.fd for key, _ in selector.select(min(left, 3600))}
                if self._stdin in ready and not (message := self._send(message)):
                    selector.unregister(self._stdin)
                if self._stderr in ready and not self._pass_on():
                    selector.unregister(self._stderr)
                if self._stdout in ready:
                    chunk = os.read(self._stdout, CHUNK)
                    chunks.append(chunk)
                    total += len(chunk)
                    if b"\n" in chunk:
                        self._pass_on()
                        return b"".join(chunks)
                    if not chunk or total > 2 * ANSWER_LIMIT:
                        raise WorkerLost(self._how_it_ended())

    def _send(self, message: bytes) -> bytes:
        """Write what the pipe takes; the rest. Nothing is left for a dead worker: its stdout will
        tell."""
        try:
            return message[os.write(self._stdin, message[:CHUNK]) :]
        except BlockingIOError:
            return message
        except BrokenPipeError:
            return b""

    def _pass_on(self) -> bool:
        """Show what the worker printed and keep its end; False when no more will come."""
        try:
            chunk = os.read(self._stderr, CHUNK)
        except BlockingIOError:
            return True
        self._tail = (self._tail + chunk)[-TAIL_BYTES:]
        with suppress(OSError, ValueError, AttributeError):  # our own stderr may be closed
            sys.stderr.write(chunk.decode(errors="replace"))
            sys.stderr.flush()
        return bool(chunk)

    def _how_it_ended(self) -> str:
        assert self._process is not None
        try:
            code = self._process.wait(1.0)
        except subprocess.TimeoutExpired:
            return "The worker closed its stdout."
        while len(before := self._tail) < TAIL_BYTES and self._pass_on() and self._tail != before:
            pass
        words = self._tail.decode(errors="replace").strip().splitlines()
        said = f" Its last words: {words[-1].strip()[:500]}" if words else ""
        if code >= 0:
            return f"The worker exited with code {code}.{said}"
        hint = " (out of memory?)" if -code == signal.SIGKILL else ""
        with suppress(ValueError):
            return f"The worker was killed by {signal.Signals(-code).name}{hint}.{said}"
        return f"The worker was killed by signal {-code}.{said}"


def _path() -> str:
    """This process' module path; an empty entry, the current folder, is written out."""
    return json.dumps([entry or os.getcwd() for entry in sys.path])

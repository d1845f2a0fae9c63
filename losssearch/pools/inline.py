"""How is a job done without any worker?

In this process, while `wait` is called: nothing to start, easy to debug. The price: a job that
exits, crashes or never ends takes the search with it. **Deadlines are not enforced**; use
`ProcessPool` for code you do not trust.
"""

from __future__ import annotations

import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from losssearch.errors import PoolError
from losssearch.pools.base import Answer, Pool, closed, read_reply, taken, write_job
from losssearch.pools.worker import Worker, sentence


class InlinePool(Pool):
    """One worker that is this very process.

    Args:
        tasks: See `losssearch.pools.worker.Worker`.

    Raises:
        PoolError: A task cannot be imported.
    """

    def __init__(self, *, tasks: Mapping[str, str] | None = None) -> None:
        try:
            self._worker = Worker(tasks, own_process=False)
        except Exception as error:
            raise PoolError(f"The worker cannot start: {sentence(error)}.") from error
        self._jobs: deque[tuple[str, str]] = deque()
        self._closed = False

    @property
    def size(self) -> int:
        return 1

    def submit(self, job_id: str, job: Mapping[str, Any], deadline_s: float) -> None:
        if self._closed:
            raise closed()
        if any(job_id == other for other, _ in self._jobs):
            raise taken(job_id)
        self._jobs.append((job_id, write_job(job_id, job, deadline_s)))

    def wait(self, timeout_s: float | None = None) -> list[Answer]:
        if self._closed:
            raise closed()
        if not self._jobs:
            return []
        job_id, text = self._jobs.popleft()
        start = time.monotonic()
        with _one_thread():
            reply = self._worker.reply(text)
        return [read_reply(job_id, reply, time.monotonic() - start)[0]]

    def close(self) -> None:
        self._closed = True
        self._jobs.clear()


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute as the other pools do, and give the user's process its threads back."""
    torch = sys.modules.get("torch")
    before = torch.get_num_threads() if torch else 0
    try:
        if torch:
            torch.set_num_threads(1)
        yield
    finally:
        if torch:
            torch.set_num_threads(before)

"""How do many workers share one queue, and what happens when one of them dies?

One thread per worker takes a job, hands it over, waits for the answer and looks at the clock. A
worker that dies, hangs or answers rubbish is killed and replaced, and the pool goes on. Whether a
worker is a local process or a Ray actor is the `Hand`'s business; a thread that waits costs
nothing.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from losssearch.errors import PoolError, UsageError
from losssearch.outcomes import Outcome
from losssearch.pools.base import Answer, Pool, closed, read_reply, taken, write_job
from losssearch.pools.worker import sentence

FAILED_STARTS = 3
"""The pool ends when no worker lives and so many starts, at least one per worker, failed in a
row."""

LONGEST_PAUSE_S = 30.0

FRESH_S = 0.5
"""A worker that has been idle for longer is looked at before it gets a job."""


class WorkerLost(Exception):
    """The worker is no more, or never was; says why, in one line."""


class Hand(ABC):
    """One worker, seen from the driver. All but `kill` is called by its own thread only."""

    @abstractmethod
    def start(self, deadline_s: float) -> None:
        """Start it and wait until it is ready. Raises `TimeoutError` or `WorkerLost`."""

    @abstractmethod
    def fit(self) -> bool:
        """Whether it can take a job: a worker that died idle must not be blamed on the next job."""

    @abstractmethod
    def ask(self, text: str, deadline_s: float) -> str:
        """Its reply. Raises `TimeoutError` or `WorkerLost`."""

    @abstractmethod
    def kill(self) -> None:
        """End it, at any time and from any thread; may be called before `start` and again after."""

    @abstractmethod
    def dispose(self) -> None:
        """End it and free what it held."""


class CrewPool(Pool):
    """A pool of equal workers; a subclass says what a worker is.

    Args:
        size: Number of workers.
        start_s: A worker that is not ready after this many seconds has failed to start.
    """

    def __init__(self, size: int, start_s: float) -> None:
        self._size, self._start_s = size, start_s
        self._unanswered: set[str] = set()
        self._jobs: queue.SimpleQueue[tuple[str, str, float] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[Answer | None] = queue.SimpleQueue()
        self._end = threading.Event()
        self._closed = False
        self._lock = threading.Lock()
        self._running = self._failures = 0
        self._broken: str | None = None
        self._hands: list[Hand | None] = [None] * size
        self._threads = [
            threading.Thread(target=self._serve, args=(i,), name=f"worker {i}", daemon=True)
            for i in range(size)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(_close, weakref.ref(self))

    @abstractmethod
    def _new_hand(self) -> Hand:
        """A worker that has not been started."""

    @property
    def size(self) -> int:
        return self._size

    def submit(self, job_id: str, job: Mapping[str, Any], deadline_s: float) -> None:
        self._check()
        if job_id in self._unanswered:
            raise taken(job_id)
        text = write_job(job_id, job, deadline_s)
        self._unanswered.add(job_id)
        self._jobs.put((job_id, text, deadline_s))

    def wait(self, timeout_s: float | None = None) -> list[Answer]:
        if self._closed:
            raise closed()
        answers: list[Answer] = []
        while len(answers) < len(self._unanswered):
            try:
                answer = self._answers.get(timeout=0 if answers else timeout_s)
            except queue.Empty:
                break
            if answer is None:  # the pool broke; once for every later call, too
                self._answers.put(None)
                if answers:
                    break
                self._check()
            else:
                answers.append(answer)
        self._unanswered.difference_update(answer.job_id for answer in answers)
        return answers

    def close(self) -> None:
        self._closed = True
        self._end.set()
        for _ in self._threads:
            self._jobs.put(None)
        until = time.monotonic() + 20
        while any(thread.is_alive() for thread in self._threads) and time.monotonic() < until:
            for hand in self._hands:  # again and again: one may just be starting
                if hand is not None:
                    hand.kill()
            for thread in self._threads:
                thread.join(0.02)

    def _check(self) -> None:
        if self._closed:
            raise closed()
        if self._broken:
            raise PoolError(self._broken)

    def _serve(self, place: int) -> None:
        """The life of one place in the crew: a worker and its successors."""
        while (hand := self._hire(place)) is not None:
            idle_since = time.monotonic()
            while (job := self._jobs.get()) is not None and not self._end.is_set():
                if time.monotonic() - idle_since > FRESH_S and not hand.fit():
                    self._jobs.put(job)
                    break
                if not self._do_job(hand, *job):
                    break
                idle_since = time.monotonic()
            hand.dispose()
            with self._lock:
                self._running -= 1

    def _hire(self, place: int) -> Hand | None:
        """A worker that is ready; None when the pool has come to its end."""
        while not self._end.is_set():
            hand = self._hands[place] = self._new_hand()
            try:
                hand.start(self._start_s)
            except Exception as error:
                hand.dispose()
                if self._end.wait(self._pause_after(error)):
                    break
            else:
                with self._lock:
                    self._running += 1
                return hand
        return None

    def _pause_after(self, error: Exception) -> float:
        """Note a failed start; the seconds until the next try."""
        with self._lock:
            self._failures += 1
            hopeless = not self._running and self._failures >= max(FAILED_STARTS, self._size)
            if hopeless and not self._end.is_set():
                late = isinstance(error, TimeoutError)
                why = f"not ready after {self._start_s:g} s" if late else _said(error)
                self._broken = f"No worker could be started: {why.rstrip('.')}."
                self._answers.put(None)
                self._end.set()
                for _ in self._threads:
                    self._jobs.put(None)
            return float(min(LONGEST_PAUSE_S, 0.1 * 2 ** min(self._failures, 20)))

    def _do_job(self, hand: Hand, job_id: str, text: str, deadline_s: float) -> bool:
        """Bring one job to its answer; False when the worker has to go."""
        start = time.monotonic()
        try:
            reply = hand.ask(text, deadline_s)
        except TimeoutError:
            outcome, detail = Outcome.TIMEOUT, f"No answer within {deadline_s:g} s."
        except Exception as error:
            outcome, detail = Outcome.DIED, _said(error)
        else:
            answer, retire = read_reply(job_id, reply, time.monotonic() - start)
            self._answers.put(answer)
            self._failures = 0
            return not retire
        self._answers.put(Answer(job_id, outcome, None, detail, time.monotonic() - start))
        return False


def check_size(size: int) -> int:
    """Called before anything is started, so that there is nothing to end again."""
    if size < 1:
        raise UsageError(f"`size >= 1` must hold, but got {size=}.")
    return size


def _said(error: Exception) -> str:
    return str(error) if isinstance(error, WorkerLost) else sentence(error)


def _close(pool: weakref.ref[CrewPool]) -> None:
    if (alive := pool()) is not None:
        alive.close()

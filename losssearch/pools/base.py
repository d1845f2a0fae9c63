"""Where is a job done, and what comes back?

A job is a plain dict; a pool hands it to a worker and brings back an `Answer`. Whatever goes wrong
on the way is an answer too, so that every submitted job is answered exactly once, in any order. A
pool never tries a job again: a job that killed its worker may kill the next one, and only the
caller can split it.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from losssearch.errors import PoolError, UsageError
from losssearch.outcomes import Outcome

ANSWER_LIMIT = 64 * 2**20
"""The longest answer in bytes; a longer one is a fault of the task and fills the driver's
memory."""


@dataclass(frozen=True)
class Answer:
    """What became of one job.

    Args:
        job_id: The name under which it was submitted.
        outcome: `ANSWERED`: the worker answered, see `result`. `FAILED`: the task raised an error or
            its answer could not be read. `TIMEOUT`: no answer before the deadline. `DIED`: the
            worker died of it, or beside it, as when a machine is lost.
        result: The worker's plain data, or None unless `outcome` is `ANSWERED`.
        detail: One line for a person; empty when all went well.
        seconds: Wall time from handing the job to a worker until its answer.
    """

    job_id: str
    outcome: Outcome
    result: dict[str, Any] | None
    detail: str
    seconds: float


class Pool(ABC):
    """Workers that answer jobs. Use it from one thread, and in a `with` block.

    Attributes:
        appetite: How many times the trainings of one core a worker takes side by side, about, where they
            are trained as a population.
    """

    appetite: int = 1

    @property
    @abstractmethod
    def size(self) -> int:
        """How many jobs run at once."""

    @abstractmethod
    def submit(self, job_id: str, job: Mapping[str, Any], deadline_s: float) -> None:
        """Queue a job and return at once.

        Args:
            job_id: A name that no unanswered job has.
            job: Plain data; `job["task"]` says what to do.
            deadline_s: Seconds from the start of the work, not from now; `inf` waits for ever.

        Raises:
            UsageError: The job is no plain data, its name is taken, or the deadline is not above 0.
            PoolError: The pool is closed, or none of its workers could be started.
        """

    @abstractmethod
    def wait(self, timeout_s: float | None = None) -> list[Answer]:
        """All answers that are there; waits for the first.

        Args:
            timeout_s: Give up after this many seconds; None waits as long as it takes.

        Returns:
            Empty when the time is over, or when no job is out.

        Raises:
            PoolError: No worker can be started, so that no answer will come.
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers at once; unanswered jobs are dropped. Twice is harmless."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def write_job(job_id: str, job: Mapping[str, Any], deadline_s: float) -> str:
    """The job as one line of JSON; nan and inf stay what they are, as in `losssearch.pools.worker`.

    Raises:
        UsageError: See `Pool.submit`.
    """
    if not deadline_s > 0:
        raise UsageError(f"`deadline_s > 0` must hold, but got {deadline_s=} for job {job_id!r}.")
    try:
        return json.dumps(dict(job))
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"Job {job_id!r} must be plain data: {error}.") from None


def read_reply(job_id: str, text: str, seconds: float) -> tuple[Answer, bool]:
    """A worker's reply as an answer, and whether the worker wants to be replaced."""
    try:
        reply = json.loads(text)
        outcome = Outcome[reply["outcome"]]
        result, detail = reply["result"], str(reply["detail"])
        if not (result is None or isinstance(result, dict)):
            raise TypeError
    except (ValueError, LookupError, TypeError, RecursionError):
        shown = text[:60] + "…" * (len(text) > 60)
        detail = f"Rubbish for an answer: {shown!r}."
        return Answer(job_id, Outcome.FAILED, None, detail, seconds), True
    return Answer(job_id, outcome, result, detail, seconds), bool(reply.get("retire"))


def closed() -> PoolError:
    """What a closed pool says."""
    return PoolError("The pool is closed; open a new one.")


def taken(job_id: str) -> UsageError:
    """What a pool says to a second job of the same name."""
    return UsageError(f"Job {job_id!r} is still waiting for its answer; choose another name.")

"""What runs inside every worker, wherever it is?

A plain class: text in, text out. Pools only carry the text, so that a local process and a machine
far away answer alike, and so that nothing but plain data crosses the border. It lives in the
library and not in `workers/`, because a Ray worker looks for modules in the user's current folder
first.

What a job may ask for is a fixed table of task names, given by whoever starts the worker; a job
only names one.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from losssearch.outcomes import Outcome
from losssearch.pools.base import ANSWER_LIMIT

Task = Callable[[dict[str, Any]], dict[str, Any]]

TASKS: Mapping[str, str] = {"train": "losssearch.proxies.training:train"}
"""Task name to `module:function`. Imported when a worker starts, so that no job pays for `import
torch`."""

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
"""A worker is one core. Read by the libraries when they are loaded, hence set before."""

INSIDE = "LOSSSEARCH_WORKER"
"""Set in a worker's environment: a user's file that is loaded there must not start a search of its own."""

DEVICE = "LOSSSEARCH_DEVICE"
"""Set in a worker's environment: where it trains populations; the CPU where it is missing."""

READY = b"ready\n"


class Worker:
    """Answers jobs, one at a time.

    Args:
        tasks: Task name to `module:function`; None for `TASKS`. `ping` is always there.
        own_process: Whether the thread settings of this process are ours to change.
    """

    def __init__(self, tasks: Mapping[str, str] | None = None, own_process: bool = True) -> None:
        if own_process:
            os.environ.update(ONE_THREAD)
            os.environ[INSIDE] = "1"
        self._tasks: dict[str, Task] = {"ping": lambda job: self.whoami()}
        for name, place in (TASKS if tasks is None else tasks).items():
            module, _, function = place.partition(":")
            self._tasks[name] = getattr(importlib.import_module(module), function)
        if own_process and (torch := sys.modules.get("torch")):
            torch.set_num_threads(1)

    def whoami(self) -> dict[str, Any]:
        """Which process this is: its number, its time of birth, and its node if it runs on Ray."""
        ray = sys.modules.get("ray")
        node = ray.get_runtime_context().get_node_id() if ray and ray.is_initialized() else ""
        return {"pid": os.getpid(), "born": born(os.getpid()), "node": node}

    def answer(self, job: dict[str, Any]) -> dict[str, Any]:
        """Do the job.

        Raises:
            LookupError: No task has that name.
            Exception: Whatever the task raises.
        """
        name = job.get("task")
        if name not in self._tasks:
            raise LookupError(f"no task is called {name!r}; known are {', '.join(self._tasks)}")
        return self._tasks[name](job)

    def reply(self, text: str) -> str:
        """`answer` with every error as an outcome: one line of JSON in, one line of JSON out.

        `{"outcome", "result", "detail", "retire"}`. nan and inf stay what they are, as Python's
        json writes them. `retire` asks for a new worker: after an error on the accelerator every
        later call fails too.
        """
        try:
            result = self.answer(json.loads(text))
            if not isinstance(result, dict):
                raise TypeError(f"the task must return a dict, but returned {type(result).__name__}")
            line = json.dumps({"outcome": Outcome.ANSWERED.name, "result": result, "detail": ""})
            if len(line) > ANSWER_LIMIT:
                raise ValueError(f"the answer has {len(line)} bytes; the limit is {ANSWER_LIMIT}")
            return line
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # sys.exit in a task is a failure of the task, not of the worker
            detail = sentence(error)
            retire = "CUDA" in detail or isinstance(error, MemoryError)
            failed = {"outcome": Outcome.FAILED.name, "result": None, "detail": detail}
            return json.dumps(failed | {"retire": retire})


def sentence(error: BaseException) -> str:
    """An error in one line: its kind, what it says, and the place where it was raised."""
    try:
        said = " ".join(str(error).split())[:500]
    except Exception:  # an error of the user's own making may fail to say what it is
        said = "(no message)"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {said}{place}"


def born(pid: int) -> str:
    """When a process began, in kernel ticks; tells it from a later one with the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def kill(pid: int, birth: str) -> bool:
    """End that very process; also one that is stopped and hears nothing else."""
    if born(pid) != birth:
        return False
    os.kill(pid, signal.SIGKILL)
    return True


def main(tasks: Mapping[str, str] | None) -> None:
    """Serve one driver over stdin and stdout until it closes stdin.

    Both are taken away from the tasks: what they print goes to stderr, and what they read is empty.
    """
    jobs, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    worker = Worker(tasks)
    answers.write(READY)
    answers.flush()
    for line in jobs:
        answers.write(worker.reply(line.decode()).encode() + b"\n")
        answers.flush()
    os._exit(0)  # a thread left behind by a task must not keep the process

"""What a pool of processes does when its workers cannot even start, and how it ends."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from losssearch.errors import PoolError, UsageError
from losssearch.outcomes import Outcome
from losssearch.pools.processes import ProcessPool, cores

Module = Callable[[str], str]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Module:
    """Writes a module of tasks that workers can import; gives the place of its function `f`."""

    def write(text: str) -> str:
        name = f"tasks_{abs(hash(tmp_path))}"
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.syspath_prepend(str(tmp_path))
        return f"{name}:f"

    return write


def children() -> set[int]:
    """Our own processes, zombies included."""
    tasks = Path("/proc/self/task").glob("*/children")
    return {int(pid) for task in tasks for pid in task.read_text().split()}


def test_workers_that_cannot_start_are_a_pool_error_with_their_last_words() -> None:
    with ProcessPool(2, tasks={"a": "no_such_module:f"}) as pool:
        pool.submit("a", {"task": "a"}, 10)
        for _ in range(2):
            with pytest.raises(PoolError, match=r"No worker could be started: .*No module named"):
                pool.wait(30)
        with pytest.raises(PoolError, match="No worker could be started"):
            pool.submit("b", {"task": "a"}, 10)


def test_a_worker_that_cannot_start_is_tried_three_times(module: Module, tmp_path: Path) -> None:
    log = tmp_path / "starts"
    place = module(f"open({str(log)!r}, 'a').write('x')\nraise OSError('no licence')")
    with ProcessPool(1, tasks={"a": place}) as pool:
        pool.submit("a", {"task": "a"}, 10)
        with pytest.raises(PoolError, match=r"exited with code 1\. Its last words: .*no licence"):
            pool.wait(30)
    assert log.read_text() == "xxx"


def test_a_worker_that_is_not_ready_in_time_has_failed_to_start(module: Module) -> None:
    place = module("import time\ntime.sleep(600)")
    with ProcessPool(3, start_s=0.5, tasks={"a": place}) as pool:
        pool.submit("a", {"task": "a"}, 10)
        with pytest.raises(PoolError, match=r"No worker could be started: not ready after 0\.5 s"):
            pool.wait(30)


def test_an_error_on_the_accelerator_replaces_the_worker(module: Module) -> None:
    place = module("def f(job): raise RuntimeError('CUDA error: an illegal memory access')")
    pids = []
    with ProcessPool(1, tasks={"a": place}) as pool:
        for _ in range(2):
            pool.submit("ping", {"task": "ping"}, 10)
            [answer] = pool.wait()
            assert answer.result is not None
            pids.append(answer.result["pid"])
            pool.submit("a", {"task": "a"}, 10)
            [answer] = pool.wait()
            assert answer.outcome is Outcome.FAILED
    assert pids[0] != pids[1]


def test_closing_ends_everything_at_once_and_twice_is_harmless(module: Module) -> None:
    before, files = children(), len(os.listdir("/proc/self/fd"))
    pool = ProcessPool(2, tasks={"f": module("import time\ndef f(job): time.sleep(600)")})
    for i in range(5):
        pool.submit(str(i), {"task": "f"}, 600)
    assert pool.wait(0.5) == []
    assert len(children() - before) == 3  # and the guard
    start = time.monotonic()
    pool.close()
    pool.close()
    assert time.monotonic() - start < 2
    assert children() == before
    assert len(os.listdir("/proc/self/fd")) == files
    for call in (lambda: pool.submit("a", {}, 1), pool.wait):
        with pytest.raises(PoolError, match="The pool is closed"):
            call()


def test_closing_while_workers_start_leaves_nothing() -> None:
    before = children()
    for pause in (0, 0.01, 0.05):
        pool = ProcessPool(2, tasks={})
        time.sleep(pause)
        pool.close()
        assert children() == before


def test_one_worker_per_core_by_default() -> None:
    with ProcessPool(tasks={}) as pool:
        assert pool.size == cores() >= 1
    with pytest.raises(UsageError, match=r"`size >= 1` must hold, but got size=0"):
        ProcessPool(0, tasks={})

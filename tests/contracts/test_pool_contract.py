"""Every pool answers every job exactly once, whatever the job does to its worker."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from losssearch.errors import PoolError, UsageError
from losssearch.outcomes import Outcome
from losssearch.pools.base import Answer, Pool
from losssearch.pools.open import open_pool

HERE = Path(__file__).parent
NAMES = (
    "echo raise_error raise_exit exit_hard segfault kill_self spin sleep stop numbers big "
    "print_a_lot read_stdin not_plain not_a_dict too_big rubbish child threads torch_threads"
)
TASKS = {name: f"pool_tasks:{name}" for name in NAMES.split()}

# What a user may do: no `if __name__` guard, and folders beside the script that are called like
# ours.
SCRIPT = """
import os, sys, time
from losssearch.__main__ import move_current_folder_last
if "last" in sys.argv:
    move_current_folder_last()
from losssearch.pools.open import open_pool
pool = open_pool(sys.argv[1], tasks={"sleep": "pool_tasks:sleep", "child": "pool_tasks:child"})
pool.submit("a", {"task": "child"}, 60)
[answer] = pool.wait()
for i in range(pool.size):
    pool.submit(str(i), {"task": "sleep", "seconds": 600}, 600)
print(answer.outcome.name, answer.result["pid"], answer.result["child"], flush=True)
try:
    pool.wait()
except KeyboardInterrupt:
    os.kill(answer.result["pid"], 0)
    print("interrupted, and the worker is alive", flush=True)
    pool.close()
"""


def do(pool: Pool, task: str, deadline_s: float = 30.0, **job: Any) -> Answer:
    """One job on its own."""
    pool.submit(task, {"task": task} | job, deadline_s)
    [answer] = pool.wait(60)
    assert answer.job_id == task
    return answer


def collect(pool: Pool, count: int) -> dict[str, Answer]:
    answers: list[Answer] = []
    while len(answers) < count:
        got = pool.wait(60)
        assert got, f"only {len(answers)} of {count} answers came"
        answers += got
    assert pool.wait(0) == []
    found = {answer.job_id: answer for answer in answers}
    assert len(found) == count
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def gone(*pids: int, within_s: float = 10.0) -> bool:
    until = time.monotonic() + within_s
    while any(alive(pid) for pid in pids):
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def descendants(pid: int) -> set[int]:
    """All processes below this one, whatever session they are in."""
    below: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            number, rest = stat.read_text().split(" ", 1)
            below.setdefault(int(rest.rpartition(")")[2].split()[1]), []).append(int(number))
    found, todo = set[int](), [pid]
    while todo:
        children = below.get(todo.pop(), [])
        found.update(children)
        todo += children
    return found


def make_decoys(folder: Path) -> Path:
    for name in ("workers", "dashboards", "search_spaces"):
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text("raise RuntimeError('a decoy was imported')\n")
    return folder


@pytest.fixture(scope="module", autouse=True)
def tasks_on_the_path() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HERE))
        patch.setenv("PYTHONPATH", str(HERE))  # for Ray, which copies the environment, not the path
        yield


class PoolContract:
    """What holds in every pool. A subclass gives its `spec`."""

    spec: str

    @pytest.fixture(scope="class")
    def pool(self) -> Iterator[Pool]:
        with open_pool(self.spec, tasks=TASKS) as pool:
            yield pool

    def test_every_job_is_answered_once(self, pool: Pool) -> None:
        for i in range(20):
            pool.submit(f"job {i}", {"task": "echo", "say": i}, 30)
        answers = collect(pool, 20)
        for i in range(20):
            answer = answers[f"job {i}"]
            assert answer.outcome is Outcome.ANSWERED
            assert answer.result is not None
            assert answer.result["said"] == i
            assert answer.detail == ""
            assert 0 <= answer.seconds < 30

    def test_no_job_no_answer_no_waiting(self, pool: Pool) -> None:
        start = time.monotonic()
        assert pool.wait(10) == []
        assert time.monotonic() - start < 5

    def test_an_error_fails_the_job_in_one_line(self, pool: Pool) -> None:
        answer = do(pool, "raise_error")
        assert answer.outcome is Outcome.FAILED
        assert answer.result is None
        assert answer.detail.startswith("ValueError: the loss is negative (pool_tasks.py, line ")

    def test_sys_exit_fails_the_job_only(self, pool: Pool) -> None:
        assert do(pool, "raise_exit").outcome is Outcome.FAILED

    def test_a_job_cannot_name_a_function(self, pool: Pool) -> None:
        pool.submit("a", {"task": "os:getcwd"}, 30)
        [answer] = pool.wait()
        assert answer.outcome is Outcome.FAILED
        assert "no task is called 'os:getcwd'; known are ping, echo" in answer.detail

    @pytest.mark.parametrize("task", ["not_plain", "not_a_dict", "too_big"])
    def test_an_answer_that_is_no_plain_data_fails(self, pool: Pool, task: str) -> None:
        assert do(pool, task).outcome is Outcome.FAILED

    def test_nan_and_inf_arrive(self, pool: Pool) -> None:
        answer = do(pool, "numbers", given=[math.inf, math.nan])
        assert answer.result is not None
        assert math.isnan(answer.result["nan"])
        assert answer.result["inf"] == math.inf
        assert answer.result["list"] == [-math.inf, 0.1]
        assert answer.result["given"][0] == math.inf
        assert math.isnan(answer.result["given"][1])

    def test_ten_megabytes_come_and_go(self, pool: Pool) -> None:
        answer = do(pool, "big", bytes=10_000_000)
        assert answer.result == {"text": "ab\n\u2028" * 2_500_000}
        assert do(pool, "echo", say="x" * 10_000_000).outcome is Outcome.ANSWERED

    def test_what_a_task_prints_is_no_answer(self, pool: Pool) -> None:
        assert do(pool, "print_a_lot").result == {"printed": True}

    def test_a_worker_computes_on_one_thread(self, pool: Pool) -> None:
        assert do(pool, "threads").result == {"OMP_NUM_THREADS": "1"}

    def test_a_job_must_be_plain_data_with_a_free_name_and_a_deadline(self, pool: Pool) -> None:
        with pytest.raises(UsageError, match=r"Job 'a' must be plain data: Object of type set"):
            pool.submit("a", {"task": "echo", "say": {1}}, 1)
        with pytest.raises(UsageError, match=r"`deadline_s > 0` must hold, but got deadline_s=0"):
            pool.submit("a", {"task": "echo"}, 0)
        pool.submit("a", {"task": "echo"}, math.inf)
        with pytest.raises(UsageError, match="Job 'a' is still waiting"):
            pool.submit("a", {"task": "echo"}, 1)
        assert set(collect(pool, 1)) == {"a"}


class WorkerPoolContract(PoolContract):
    """What holds where the workers are processes of their own."""

    @pytest.mark.parametrize("task", ["exit_hard", "segfault", "kill_self"])
    def test_a_dead_worker_is_an_outcome(self, pool: Pool, task: str) -> None:
        answer = do(pool, task)
        assert answer.outcome is Outcome.DIED
        assert answer.result is None
        assert answer.detail
        assert "\n" not in answer.detail

    @pytest.mark.parametrize("task", ["spin", "stop"])
    def test_a_job_without_end_is_a_timeout(self, pool: Pool, task: str) -> None:
        do(pool, "echo")
        start = time.monotonic()
        answer = do(pool, task, deadline_s=0.4)
        assert answer.outcome is Outcome.TIMEOUT
        assert answer.detail == "No answer within 0.4 s."
        assert time.monotonic() - start < 15

    def test_the_pool_goes_on_after_as_many_deaths_as_it_has_workers(self, pool: Pool) -> None:
        for i in range(pool.size):
            pool.submit(f"bad {i}", {"task": "kill_self"}, 30)
            pool.submit(f"good {i}", {"task": "echo"}, 30)
        for name, answer in collect(pool, 2 * pool.size).items():
            assert answer.outcome is (Outcome.DIED if name.startswith("bad") else Outcome.ANSWERED)

    def test_a_worker_that_died_idle_is_not_blamed_on_the_next_job(self, pool: Pool) -> None:
        pids: set[int] = set()
        while len(pids) < pool.size:
            for i in range(2 * pool.size):
                pool.submit(str(i), {"task": "ping"}, 30)
            answers = collect(pool, 2 * pool.size).values()
            pids |= {(answer.result or {})["pid"] for answer in answers}
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        assert gone(*pids)
        time.sleep(0.6)
        answer = do(pool, "ping")
        assert answer.outcome is Outcome.ANSWERED
        assert answer.result is not None
        assert answer.result["pid"] not in pids

    def test_the_deadline_counts_from_the_start_of_the_work(self, pool: Pool) -> None:
        for i in range(2 * pool.size):  # until all workers are there
            pool.submit(str(i), {"task": "sleep", "seconds": 0.6}, 60)
        collect(pool, 2 * pool.size)
        start = time.monotonic()
        for i in range(2 * pool.size):
            pool.submit(str(i), {"task": "sleep", "seconds": 0.6}, 1.1)
        outcomes = {answer.outcome for answer in collect(pool, 2 * pool.size).values()}
        assert outcomes == {Outcome.ANSWERED}
        assert 1.2 <= time.monotonic() - start < 0.6 * 2 * pool.size  # side by side

    def test_waiting_has_an_end(self, pool: Pool) -> None:
        pool.submit("a", {"task": "sleep", "seconds": 1.0}, 30)
        start = time.monotonic()
        assert pool.wait(0.1) == []
        assert time.monotonic() - start < 0.9
        assert set(collect(pool, 1)) == {"a"}

    def test_what_a_task_prints_is_not_on_our_stdout(
        self, pool: Pool, capfd: pytest.CaptureFixture[str]
    ) -> None:
        do(pool, "print_a_lot")
        do(pool, "kill_self")
        assert do(pool, "read_stdin").result == {"read": ""}
        assert capfd.readouterr().out == ""

    def test_a_killed_driver_leaves_no_worker_behind(self, tmp_path: Path) -> None:
        with self.start_script(make_decoys(tmp_path)) as driver:
            worker, child = self.pids(driver)
            family = descendants(driver.pid)
            assert {worker, child} <= family
            family -= self.spared(family, child)
            driver.kill()
            driver.wait()
            assert gone(*family, within_s=20)
            assert "RuntimeError" not in self.read(driver.stderr)

    def start_script(self, folder: Path) -> subprocess.Popen[str]:
        (folder / "script.py").write_text(SCRIPT)
        return subprocess.Popen(
            [sys.executable, "script.py", self.spec, "last"],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def pids(self, driver: subprocess.Popen[str]) -> tuple[int, int]:
        assert driver.stdout is not None
        outcome, *pids = driver.stdout.readline().split() or ["nothing"]
        assert outcome == "ANSWERED", self.read(driver.stderr)
        worker, child = map(int, pids)
        assert alive(worker)
        return worker, child

    def spared(self, family: set[int], child: int) -> set[int]:
        """Those that may outlive a killed driver by some time."""
        return set()

    @staticmethod
    def read(stream: Any) -> str:
        return str(stream.read())


class TestInlinePool(PoolContract):
    spec = "inline"

    def test_the_threads_of_the_users_process_are_given_back(self) -> None:
        import torch

        before = torch.get_num_threads()
        torch.set_num_threads(2)
        try:
            with open_pool("inline", tasks=TASKS) as pool:
                pool.submit("a", {"task": "torch_threads"}, 1)
                pool.wait()
            assert torch.get_num_threads() == 2
        finally:
            torch.set_num_threads(before)

    def test_a_task_that_cannot_be_imported_is_a_pool_error(self) -> None:
        with pytest.raises(PoolError, match=r"The worker cannot start: .*no_such_module"):
            open_pool("inline", tasks={"a": "no_such_module:f"})


class TestProcessPool(WorkerPoolContract):
    spec = "processes:2"

    def test_rubbish_fails_the_job_and_the_pool_goes_on(self, pool: Pool) -> None:
        answer = do(pool, "rubbish")
        assert answer.outcome is Outcome.FAILED
        assert answer.detail.startswith("Rubbish for an answer: 'Loading: 100%")
        assert do(pool, "echo").outcome is Outcome.ANSWERED

    def test_the_end_of_a_worker_is_told_in_its_own_words(self, pool: Pool) -> None:
        assert do(pool, "exit_hard").detail == ("The worker exited with code 7. Its last words: out of ideas")
        assert do(pool, "segfault").detail == "The worker was killed by SIGSEGV."

    def test_ctrl_c_reaches_the_driver_only_and_leaves_nothing(self, tmp_path: Path) -> None:
        with self.start_script(make_decoys(tmp_path)) as driver:
            worker, child = self.pids(driver)
            time.sleep(0.2)
            os.killpg(driver.pid, signal.SIGINT)
            assert self.read(driver.stdout) == "interrupted, and the worker is alive\n"
            assert driver.wait() == 0
            assert gone(worker, child)


class TestRayPool(WorkerPoolContract):
    spec = "ray:2"

    def spared(self, family: set[int], child: int) -> set[int]:
        # Ray's own two agents end within a minute. What a task leaves behind is Ray's to clean up.
        agents = {pid for pid in family if b"Agent" in Path(f"/proc/{pid}/cmdline").read_bytes()}
        return agents | {child}

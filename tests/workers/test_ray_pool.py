"""What only Ray can do to a search: lose a machine, hold a stopped process, talk on our stdout."""

from __future__ import annotations

import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from losssearch.errors import PoolError, UsageError
from losssearch.outcomes import Outcome
from losssearch.pools.base import Answer, Pool

TASKS = {name: f"time_tasks:{name}" for name in ("sleep", "stop", "die", "card")}
TIME_TASKS = """
import os, signal, time
def sleep(job):
    time.sleep(job["seconds"])
    return {"pid": os.getpid()}
def stop(job):
    os.kill(os.getpid(), signal.SIGSTOP)
def die(job):
    os.kill(os.getpid(), signal.SIGKILL)
def card(job):
    open(os.path.join(job["folder"], str(os.getpid())), "w").close()
    while len(os.listdir(job["folder"])) < 2:  # so that the other worker does the other one
        time.sleep(0.05)
    return {"card": os.environ.get("CUDA_VISIBLE_DEVICES"), "device": os.environ.get("LOSSSEARCH_DEVICE")}
"""
SCRIPT = """
import time
from workers.ray_pool import RayPool
with RayPool(size=1, tasks={"die": "time_tasks:die"}) as pool:
    for i in range(3):
        pool.submit(str(i), {"task": "die"}, 30)
    count = 0
    while count < 3:
        count += len(pool.wait())
    time.sleep(2)  # Ray tells of a death somewhat later
print("{}")
"""


@pytest.fixture(scope="module", autouse=True)
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "time_tasks.py").write_text(TIME_TASKS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(folder))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield folder


def collect(pool: Pool, count: int) -> list[Answer]:
    answers: list[Answer] = []
    while len(answers) < count:
        got = pool.wait(60)
        assert got, f"only {len(answers)} of {count} answers came"
        answers += got
    return answers


def test_a_stopped_worker_is_killed_and_its_core_is_free_again(tmp_path: Path) -> None:
    from workers.ray_pool import RayPool

    with RayPool(size=1, tasks=TASKS) as pool:
        pool.submit("who", {"task": "ping"}, 30)
        [who] = collect(pool, 1)
        assert who.result is not None
        pool.submit("stop", {"task": "stop"}, 0.5)
        pool.submit("next", {"task": "ping"}, 30)
        outcomes = {answer.job_id: answer.outcome for answer in collect(pool, 2)}
        assert outcomes == {"stop": Outcome.TIMEOUT, "next": Outcome.ANSWERED}
        with pytest.raises(ProcessLookupError):
            os.kill(who.result["pid"], 0)

        token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
        assert not token.exists() or stat.S_IMODE(token.stat().st_mode) == 0o600


def test_ray_is_silent_on_stdout() -> None:
    command = [sys.executable, "-c", SCRIPT]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout == "{}\n"


def test_a_lost_node_costs_its_jobs_and_no_more() -> None:
    from ray.cluster_utils import Cluster

    from workers.ray_pool import RayPool

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        node = cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        with RayPool(cluster.address, start_s=4, tasks=TASKS) as pool:
            assert pool.size == 2
            for name in "ab":  # until both workers are there
                pool.submit(name, {"task": "sleep", "seconds": 3}, 60)
            collect(pool, 2)
            for name in "ab":
                pool.submit(name, {"task": "sleep", "seconds": 2}, 60)
            time.sleep(0.5)
            cluster.remove_node(node, allow_graceful=False)
            outcomes = sorted(answer.outcome.name for answer in collect(pool, 2))
            assert outcomes == ["ANSWERED", "DIED"]

            for i in range(4):
                pool.submit(str(i), {"task": "ping"}, 30)
            assert {answer.outcome for answer in collect(pool, 4)} == {Outcome.ANSWERED}
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def test_every_worker_on_a_gpu_has_a_card_of_its_own(tmp_path: Path) -> None:
    """The cards are Ray's word alone: what is tried is who is given which, not the cards."""
    from ray.cluster_utils import Cluster

    from workers.ray_pool import RayGpuPool

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 4, "num_gpus": 2})
    try:
        with RayGpuPool(cluster.address, tasks=TASKS) as pool:
            assert pool.size == 2
            for name in "ab":
                pool.submit(name, {"task": "card", "folder": str(tmp_path)}, 60)
            found = [answer.result for answer in collect(pool, 2) if answer.result]
            assert sorted(result["card"] for result in found) == ["0", "1"]
            assert {result["device"] for result in found} == {"cuda"}
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]


def test_a_cluster_without_gpus_says_so() -> None:
    from workers.ray_pool import RayGpuPool

    with pytest.raises(PoolError, match="needs 1 CPU and 1 GPU, and Ray's cluster has room for 0"):
        RayGpuPool()
    with pytest.raises(PoolError, match="needs 1 CPU and 1 GPU, and Ray's cluster has room for 0"):
        RayGpuPool(size=2)
    import ray

    assert not ray.is_initialized()


def test_ray_client_is_refused() -> None:
    from workers.ray_pool import RayPool

    with pytest.raises(UsageError, match=r"Ray Client \(ray://head:10001\) is not supported"):
        RayPool("ray://head:10001")


def test_a_cluster_that_is_not_there_is_a_pool_error() -> None:
    from workers.ray_pool import RayPool

    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    with pytest.raises(PoolError, match=rf"Ray at '{address}' cannot be reached: .*refused"):
        RayPool(address)
    with pytest.raises(UsageError, match=r"is 'auto' or 'host:port', but got 'head'"):
        RayPool("head")


def test_a_process_is_killed_only_if_it_is_the_one_that_was_meant() -> None:
    from losssearch.pools.worker import born, kill

    with subprocess.Popen(["sleep", "60"]) as process:
        birth = born(process.pid)
        assert not kill(process.pid, birth + "0")
        assert process.poll() is None
        assert kill(process.pid, birth)
        assert process.wait(5) == -signal.SIGKILL

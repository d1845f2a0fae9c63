"""How are many machines used, and their accidents caught?

One Ray actor per core or GPU, around the library's plain worker. Ray restarts and retries nothing
(`max_restarts=0`, `max_task_retries=0`): the driver decides, because only it knows which jobs are
out. It keeps the deadlines too: Ray cannot cancel an actor that is stuck. A local cluster starts
in 4 s and takes 0.7 GB; a call costs 1 ms.
"""

from __future__ import annotations

import os
import socket
import stat
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from losssearch.errors import PoolError, UsageError
from losssearch.pools.crew import CrewPool, Hand, WorkerLost, check_size
from losssearch.pools.gpus import GpuPool
from losssearch.pools.processes import cores
from losssearch.pools.worker import DEVICE, Worker, kill

LOCAL = "local"  # as Ray calls a new cluster on this machine
OBJECT_STORE_BYTES = 256 * 2**20
FIT_S = 10.0
KILL_S = 10.0
KNOCK_S = 5.0


class RayPool(CrewPool):
    """Ray actors, one per CPU.

    Uses the Ray connection of this process if there is one, and leaves it open at the end. What
    the tasks print goes to Ray's log files.

    Args:
        address: `host:port` of a cluster, or `auto` for the one this machine belongs to; None for
            the one in the environment's `RAY_ADDRESS`, else for a new one on this machine that
            ends with the pool.
        size: Number of actors; None for as many as the cluster has room for.
        start_s: An actor that has not answered its first call after this many seconds has failed
            to start.
        tasks: See `losssearch.pools.worker.Worker`.

    Raises:
        PoolError: The cluster cannot be reached or started, or has room for none.
        UsageError: `size >= 1` does not hold, or the address is one of Ray Client.

    Attributes:
        needs: What every actor asks of the cluster, by Ray's names.
        environment: Variables that it finds.
    """

    needs: Mapping[str, int] = MappingProxyType({"CPU": 1})
    environment: Mapping[str, str] = MappingProxyType({})

    def __init__(
        self,
        address: str | None = None,
        size: int | None = None,
        *,
        start_s: float = 60.0,
        tasks: Mapping[str, str] | None = None,
    ) -> None:
        if size is not None:
            check_size(size)
        address = address or os.environ.get("RAY_ADDRESS") or LOCAL
        self._ours = _connect(address, size)
        options: dict[str, Any] = {f"num_{name.lower()}s": count for name, count in self.needs.items()}
        if self.environment:
            options["runtime_env"] = {"env_vars": dict(self.environment)}
        actor = ray.remote(max_restarts=0, max_task_retries=0, **options)(Worker)
        plain = None if tasks is None else dict(tasks)
        self._make: Callable[[], Any] = lambda: actor.remote(plain)
        try:
            if size is None or (self._ours and address == LOCAL):  # another cluster may grow
                size = self._room(size)
            super().__init__(size, start_s)
        except BaseException:
            self._leave()
            raise

    def _room(self, size: int | None) -> int:
        """The wanted number of actors, or as many as the cluster has room for."""
        there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        room = min(int(there.get(name, 0)) // count for name, count in self.needs.items())
        if room < (size or 1):
            needs = " and ".join(f"{count} {name}" for name, count in self.needs.items())
            raise PoolError(f"Every worker needs {needs}, and Ray's cluster has room for {room}.")
        return size or room

    def _new_hand(self) -> Hand:
        return ActorHand(self._make)

    def close(self) -> None:
        super().close()
        self._leave()

    def _leave(self) -> None:
        if self._ours:
            self._ours = False
            ray.shutdown()


class RayGpuPool(RayPool):
    """Ray actors, one per GPU of the cluster, which train on it whatever is trained as a population."""

    appetite = GpuPool.appetite
    needs = MappingProxyType({"CPU": 1, "GPU": 1})  # Ray shows each actor the card that it has
    environment = MappingProxyType({DEVICE: "cuda"})


class ActorHand(Hand):
    """One actor, its process and its node."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._actor: Any = None
        self._place: dict[str, Any] | None = None
        self._lock = threading.Lock()

    def start(self, deadline_s: float) -> None:
        actor = self._make()
        with self._lock:
            self._actor = actor
        # An actor may be bound to a node that has just died, so even the first call has a deadline.
        self._place = self._call(actor.whoami.remote(), deadline_s)

    def fit(self) -> bool:
        try:
            self._call(self._actor.whoami.remote(), FIT_S)
        except Exception:  # whatever it is, the next job had better go to another worker
            return False
        return True

    def ask(self, text: str, deadline_s: float) -> str:
        return str(self._call(self._actor.reply.remote(text), deadline_s))

    def kill(self) -> None:
        with self._lock:
            actor, self._actor = self._actor, None
        if actor is not None:
            with suppress(Exception):
                ray.kill(actor)

    def dispose(self) -> None:
        self.kill()
        place, self._place = self._place, None
        if place is None or not ray.is_initialized():
            return
        # A stopped process does not hear Ray, and would hold its CPU for ever. A task without a
        # CPU, on its node, ends it by its number; on most days the process is gone already and
        # nothing happens.
        pinned = NodeAffinitySchedulingStrategy(place["node"], soft=False)
        task: Any = ray.remote(kill).options(num_cpus=0, max_retries=0, scheduling_strategy=pinned)
        with suppress(Exception):  # the node may be gone, too
            ray.get(task.remote(place["pid"], place["born"]), timeout=KILL_S)

    @staticmethod
    def _call(reference: Any, deadline_s: float) -> Any:
        try:
            return ray.get(reference, timeout=min(deadline_s, 1e8))
        except GetTimeoutError:
            raise TimeoutError from None
        except RayError as error:
            said = " ".join(str(error).split())
            reason = said.partition("The actor is dead because ")[2]  # the rest names ids
            said = f"The actor is dead because {reason}" if reason else said
            raise WorkerLost(said[:300]) from None


def _connect(address: str, size: int | None) -> bool:
    """Join or start a cluster; whether the connection is ours to close."""
    if address.startswith("ray://"):
        raise UsageError(
            f"Ray Client ({address}) is not supported; send the search to the cluster instead: "
            "ray job submit -- losssearch …, with the pool 'ray:auto'."
        )
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address == LOCAL:
        options |= {
            "num_cpus": size or cores(),
            "include_dashboard": False,
            "object_store_memory": OBJECT_STORE_BYTES,
        }
    elif address != "auto":
        _knock(address)
    _keep_off_stdout()
    try:
        ray.init(address=address, **options)
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise PoolError(f"Ray at {address!r} cannot be reached or started: {said}.") from error
    finally:
        _close_token()
    return True


def _knock(address: str) -> None:
    """Raise unless somebody listens there; Ray itself would go on asking for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UsageError(f"A Ray cluster's address is 'auto' or 'host:port', but got {address!r}.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=KNOCK_S).close()
    except (OSError, OverflowError) as error:
        raise PoolError(f"Ray at {address!r} cannot be reached: {error}.") from error


def _keep_off_stdout() -> None:
    """Send Ray's own `(raylet)` lines to stderr.

    They go to the driver's stdout whatever `log_to_driver` says, in the middle of what a program
    reads there. The hook is a private one; without it the lines are merely back.
    """
    from ray._private import worker

    original = getattr(worker, "print_to_stdstream", None)
    if original is None or getattr(original, "losssearch", False):
        return

    def to_stderr(data: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        original(data | {"is_err": True}, *args, **kwargs)

    to_stderr.losssearch = True  # type: ignore[attr-defined]
    worker.print_to_stdstream = to_stderr


def _close_token() -> None:
    """Ray writes its token for everybody to read; whoever has it can run code on the cluster."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH") or Path.home() / ".ray" / "auth_token")
    with suppress(OSError):
        if stat.S_IMODE(token.stat().st_mode) & 0o077:
            token.chmod(0o600)

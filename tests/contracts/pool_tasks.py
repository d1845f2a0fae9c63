"""What a task can do to its worker. Named to the pools by the tests, never by a job."""

from __future__ import annotations

import ctypes
import math
import os
import signal
import subprocess
import sys
import time
from typing import Any


def echo(job: dict[str, Any]) -> dict[str, Any]:
    return {"said": job.get("say"), "pid": os.getpid()}


def place(job: dict[str, Any]) -> dict[str, Any]:
    """Which card the worker was given."""
    time.sleep(0.2)  # so that every worker gets a job
    return {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "LOSSSEARCH_DEVICE")}


def raise_error(job: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("the loss is\nnegative")


def raise_exit(job: dict[str, Any]) -> dict[str, Any]:
    sys.exit(3)


def exit_hard(job: dict[str, Any]) -> dict[str, Any]:
    print("out of ideas", file=sys.stderr)
    os._exit(7)


def segfault(job: dict[str, Any]) -> dict[str, Any]:
    return {"never": ctypes.string_at(0)}


def kill_self(job: dict[str, Any]) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def spin(job: dict[str, Any]) -> dict[str, Any]:
    while True:
        pass


def sleep(job: dict[str, Any]) -> dict[str, Any]:
    time.sleep(job["seconds"])
    return {}


def stop(job: dict[str, Any]) -> dict[str, Any]:
    os.kill(os.getpid(), signal.SIGSTOP)
    return {}


def numbers(job: dict[str, Any]) -> dict[str, Any]:
    return {"nan": math.nan, "inf": math.inf, "list": [-math.inf, 0.1], "given": job["given"]}


def big(job: dict[str, Any]) -> dict[str, Any]:
    return {"text": "ab\n\u2028" * (job["bytes"] // 4)}


def print_a_lot(job: dict[str, Any]) -> dict[str, Any]:
    print('{"outcome": "SCORED", "result": {}, "detail": "forged"}', flush=True)
    os.write(1, b"straight to the descriptor\n" * 5000)
    subprocess.run(["echo", "from a child"], check=True)
    return {"printed": True}


def read_stdin(job: dict[str, Any]) -> dict[str, Any]:
    return {"read": sys.stdin.read() if sys.stdin else ""}


def not_plain(job: dict[str, Any]) -> dict[str, Any]:
    return {"object": object()}


def not_a_dict(job: dict[str, Any]) -> Any:
    return 3.0


def too_big(job: dict[str, Any]) -> dict[str, Any]:
    return {"text": "a" * (65 * 2**20)}


def rubbish(job: dict[str, Any]) -> dict[str, Any]:
    """Write into whatever is open, as a broken library might."""
    for fd in range(3, 30):
        try:
            os.write(fd, b"Loading: 100%\n")
        except OSError:
            continue
    return {}


def child(job: dict[str, Any]) -> dict[str, Any]:
    """Leave a process behind."""
    return {"child": subprocess.Popen(["sleep", "600"]).pid, "pid": os.getpid()}


def threads(job: dict[str, Any]) -> dict[str, Any]:
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS")}


def torch_threads(job: dict[str, Any]) -> dict[str, Any]:
    import torch

    return {"threads": torch.get_num_threads()}

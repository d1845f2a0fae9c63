"""A word on the command line finds its pool, or says in one line why not."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from losssearch.__main__ import move_current_folder_last
from losssearch.errors import PoolError, UsageError
from losssearch.pools.inline import InlinePool
from losssearch.pools.open import open_pool
from losssearch.pools.processes import ProcessPool


def run(code: str, folder: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *flags, "-c", code]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)


def test_our_own_pools_are_found() -> None:
    with open_pool("inline", tasks={}) as pool:
        assert type(pool) is InlinePool
        assert pool.size == 1
    with open_pool("processes:3", tasks={}) as pool:
        assert type(pool) is ProcessPool
        assert pool.size == 3


def test_an_unknown_pool_names_the_choices() -> None:
    with pytest.raises(UsageError, match=r"No pool is called 'slurm'\. There are: inline, proc"):
        open_pool("slurm")


@pytest.mark.parametrize("spec", ["inline:2", "processes:many", "processes:-1", "gpu:all"])
def test_an_argument_that_does_not_fit_is_refused(spec: str) -> None:
    with pytest.raises(UsageError, match=f"not '{spec}'"):
        open_pool(spec)


def test_a_size_of_zero_is_refused() -> None:
    with pytest.raises(UsageError, match="size=0"):
        open_pool("processes:0")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_the_pool_says_why() -> None:
    with pytest.raises(PoolError, match=r"'gpu' needs 1 GPU, but torch .* (is a build for CPUs|sees none)"):
        open_pool("gpu")


def test_a_users_own_workers_folder_is_named_in_one_line_and_not_run(tmp_path: Path) -> None:
    (tmp_path / "workers").mkdir()
    (tmp_path / "workers" / "__init__.py").write_text("print('hidden code ran')")
    code = (
        "from importlib.metadata import EntryPoint; from losssearch.pools.open import load\n"
        "try: load(EntryPoint('ray', 'workers.ray_pool:RayPool', 'losssearch.pools'))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    assert run(code, tmp_path).stdout == (
        f"PoolError losssearch.pools: 'ray' belongs to our 'workers', which "
        f"{tmp_path.resolve() / 'workers'} hides. "
        "Rename that one, or start from another folder.\n"
    )


def test_importing_the_pools_loads_neither_torch_nor_ray(tmp_path: Path) -> None:
    code = (
        "import losssearch.pools.open, sys, json\n"
        "print(json.dumps([m for m in ('torch', 'ray', 'numpy', 'optuna') if m in sys.modules]))"
    )
    assert json.loads(run(code, tmp_path).stdout) == []


def test_the_current_folder_is_moved_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [os.getcwd(), "/a", "", "/b"])
    move_current_folder_last()
    assert sys.path == ["/a", "/b", os.getcwd(), ""]
    monkeypatch.setattr(sys, "path", ["/a"])
    move_current_folder_last()
    assert sys.path == ["/a"]  # `python -P` keeps the folder out, and so do we

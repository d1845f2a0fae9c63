"""`losssearch learn` and `losssearch learned`, as a person meets them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from losssearch.errors import UsageError
from losssearch.learned.command import learn, learned

HOUSE = Path(__file__).parents[2]


def call(command: Callable[..., None], *words: str) -> Any:
    app = typer.Typer()
    app.command()(command)
    return CliRunner().invoke(app, [*words])


def test_what_is_learned_is_listed_shown_written_and_distilled(tmp_path: Path) -> None:
    where = ["--storage", f"sqlite:///{tmp_path}/store.db"]
    done = call(learn, "sine", "--steps", "8", *where, "--json", "--quiet")
    assert done.exit_code == 0, done.output
    assert done.stderr == ""
    made = json.loads(done.stdout)
    assert made["evidence"]["learned"]["outer_steps"] == 8
    rows = json.loads(call(learned, *where, "--json").stdout)
    assert [(row["name"], row["key"]) for row in rows] == [("sine", made["key"])]
    assert made["key"] in call(learned, *where).stdout
    file = tmp_path / "sine.py"
    shown = call(learned, "sine", *where, "--to", str(file), "--distil", "--seconds", "1", "--json")
    assert shown.exit_code == 0, shown.output
    found = json.loads(shown.stdout)
    assert file.is_file()
    assert 0 <= found["gradient_r2"] <= 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cosine"], "Nothing can be learned on 'cosine'"),
        (["digits-noisy", "--steps", "3"], "--steps is for"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], message: str, tmp_path: Path) -> None:
    done = call(learn, *words, "--storage", f"sqlite:///{tmp_path}/store.db")
    assert isinstance(done.exception, UsageError)
    assert message in str(done.exception)


CODE = """
import sys, typer
from losssearch.learned.command import learn
typer.run(learn)
"""


def test_ctrl_c_keeps_what_was_learned_so_far(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    process = subprocess.Popen(
        [sys.executable, "-c", CODE, "sine", "--storage", url, "--json", "--steps", "100000"],
        cwd=HOUSE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert process.stderr is not None
    assert "of " in process.stderr.readline()  # the first line of progress
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    steps = json.loads(out)["evidence"]["learned"]["outer_steps"]
    assert 0 < steps < 100000
    assert [row["name"] for row in json.loads(call(learned, "--storage", url, "--json").stdout)] == ["sine"]

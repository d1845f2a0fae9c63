"""`losssearch dashboard` says where it is, and ends when it is told to."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from dashboards.server import listen
from losssearch.errors import UsageError

COMMAND = [sys.executable, "-m", "losssearch", "dashboard"]


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *words], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_prints_its_address_serves_and_ends_cleanly(database: str, number: int) -> None:
    words = [*COMMAND, "--storage", database, "--port", "0"]
    environment = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        try:
            match = re.search(r"http://127\.0\.0\.1:\d+/losses", server.stdout.readline())
            assert match
            with urllib.request.urlopen(match[0], timeout=30) as page:
                assert b"demo" in page.read()
            server.send_signal(number)
            out, err = server.communicate(timeout=60)
        finally:
            server.kill()
    assert server.returncode == 0
    assert "Stopped." in out
    assert err == ""


def test_a_port_in_use_is_one_clear_line(database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = run("--storage", database, "--port", str(taken.getsockname()[1]))
    assert done.returncode == 2
    assert re.fullmatch(r"losssearch: Cannot listen on .* already in use.* --port.*\n", done.stderr)


def test_a_database_that_is_not_there_is_one_clear_line(tmp_path: Path) -> None:
    done = run("--storage", f"sqlite:///{tmp_path}/no.db", "--port", "0")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "does not exist" in done.stderr
    assert not (tmp_path / "no.db").exists()


def test_a_host_that_is_none_is_an_error() -> None:
    with pytest.raises(UsageError, match="Cannot listen on no such host"):
        listen("no such host", 0)


def test_another_host_is_warned_about(database: str) -> None:
    words = [*COMMAND, "--storage", database, "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        try:
            assert "whoever reaches 0.0.0.0 can read this database" in server.stderr.readline()
        finally:
            server.terminate()
            server.communicate(timeout=60)

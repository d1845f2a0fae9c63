"""A real PostgreSQL server for the tests that need one; a fresh store on each kind of database."""

from __future__ import annotations

import glob
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from losssearch.store.store import Store


def _bin_folder() -> Path | None:
    found = [Path(path).parent for path in glob.glob("/usr/lib/postgresql/*/bin/initdb")]
    if config := shutil.which("pg_config"):
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        found.append(Path(told.stdout.strip()))
    if initdb := shutil.which("initdb"):
        found.append(Path(initdb).parent)
    found = [folder for folder in found if (folder / "initdb").exists()]
    return max(found, default=None)


def _as_postgres(*command: str | Path) -> None:
    """Run a server program; it refuses to be root."""
    words = [str(word) for word in command]
    if os.geteuid() == 0:
        words = ["runuser", "-u", "postgres", "--", *words]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=60)


@pytest.fixture(scope="session")
def postgresql_url() -> Iterator[str]:
    """The address of a server that lives as long as the tests; socket only, superuser."""
    folder = _bin_folder()
    if folder is None:
        pytest.skip("PostgreSQL is not installed (no initdb): tests on a real server are left out.")
    root = Path(tempfile.mkdtemp(prefix="ls-pg-", dir="/tmp"))  # a socket's path has <= 107 bytes
    if os.geteuid() == 0:
        shutil.chown(root, "postgres", "postgres")
    data, log = root / "data", root / "log"
    try:
        _as_postgres(folder / "initdb", "-D", data, "-U", "tester", "-A", "trust", "-E", "UTF8", "-N")
        options = f"-c listen_addresses='' -c max_connections=20 -c fsync=off -k {root}"
        _as_postgres(folder / "pg_ctl", "-D", data, "-l", log, "-o", options, "-w", "start")
        try:
            yield f"postgresql://tester@/postgres?host={root}"
        finally:
            _as_postgres(folder / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
    finally:
        shutil.rmtree(root, ignore_errors=True)


@pytest.fixture
def fresh_postgresql(postgresql_url: str) -> Iterator[str]:
    """The address of an empty database of its own."""
    name = f"t{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgresql_url, autocommit=True) as server:
        server.execute(f"CREATE DATABASE {name}")
        yield postgresql_url.replace("/postgres?", f"/{name}?")
        server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database that does not hold a store yet, once for each kind."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("fresh_postgresql"))
    return f"sqlite:///{tmp_path}/store.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    """An empty store."""
    with Store.open(url, timeout_s=5) as opened:
        yield opened

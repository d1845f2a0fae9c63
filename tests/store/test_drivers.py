"""One search has one driver, and a driver may die at any moment."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import text, update

from losssearch.errors import StoreError
from losssearch.store.reader import SEARCH
from losssearch.store.store import SearchRow, Store
from tests.store.make import begin, commit, key_of, training

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def driver(url: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has opened the search `demo` and writes rounds."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.store.driver", url],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("open")
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def kill(process: subprocess.Popen[str]) -> int:
    """How many rounds it had reported when it was killed."""
    process.kill()
    told = process.stdout.read() if process.stdout is not None else ""
    process.wait()
    whole = told.rpartition("\n")[0].splitlines()  # the last line may have been cut by the kill
    reported = [int(line.split()[1]) for line in whole if line.startswith("stored")]
    return max(reported, default=0)


def test_a_killed_driver_loses_nothing_and_its_search_goes_on(url: str) -> None:
    """Everything reported is there, whole; one more round may be."""
    moments = random.Random(0)
    known = 0
    for _ in range(3):
        with driver(url) as process:
            time.sleep(moments.uniform(0.05, 0.3))
            reported = kill(process)
        with Store.open(url, timeout_s=10) as store:
            search = _open_soon(store)
            assert search.rounds >= max(known, reported)
            known = search.rounds
            assert search.proposals == 5 * known
            assert [row.number for row in store.rounds("demo")] == list(range(known))
            numbers = [row.number for row in store.proposals("demo")]
            assert numbers == list(range(5 * known))
            assert search.state == ({"round": known - 1} if known else None)
            keys = [key_of(n) for n in numbers]
            assert store.known(keys, "digits", "quick") == set(keys)
            if known:
                search = commit(store, search, [0.1] * 5)
                store.record_evaluations(training(n) for n in range(5 * known, 5 * known + 5))
                assert search.rounds == known + 1
                known += 1
            if store.engine.dialect.name == "sqlite":
                with store.reading() as connection:
                    assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    assert known > 3


def _open_soon(store: Store) -> SearchRow:
    """A server takes a moment to notice that a client is gone."""
    for _ in range(50):
        with contextlib.suppress(StoreError):
            return begin(store)
        time.sleep(0.05)
    return begin(store)


def test_a_search_that_is_being_driven_is_refused(url: str) -> None:
    with driver(url) as process, Store.open(url, timeout_s=10) as store:
        with pytest.raises(StoreError, match="'demo' is being run by another process") as caught:
            begin(store)
        if store.engine.dialect.name == "sqlite":
            assert f"pid {process.pid} on " in str(caught.value)
        begin(store, "another")
        assert store.search("demo").name == "demo"


def test_a_search_whose_driver_is_gone_is_stopped_until_it_is_driven_again(url: str) -> None:
    with Store.open(url, timeout_s=10) as store:
        with driver(url) as process:
            assert store.status(store.search("demo")) == "running"
            kill(process)
        for _ in range(50):  # a server takes a moment to notice
            if store.status(store.search("demo")) == "stopped":
                break
            time.sleep(0.05)
        assert store.status(store.search("demo")) == "stopped"
        search = _open_soon(store)
        assert store.status(search) == "running"
        store.set_status(search, "finished")
        store.close_search(search)
        assert store.status(store.search("demo")) == "finished"


def test_a_look_at_a_search_keeps_no_driver_out(url: str) -> None:
    looking = threading.Event()

    def look() -> None:
        with Store.open(url, read_only=True) as reader:
            while not looking.is_set():
                reader.status(reader.search("demo"))

    with Store.open(url, timeout_s=10) as store:
        search = begin(store)
        thread = threading.Thread(target=look)
        thread.start()
        try:
            for _ in range(50):
                store.close_search(search)
                search = begin(store)
        finally:
            looking.set()
            thread.join()


def test_two_stores_of_one_process_are_two_drivers(url: str) -> None:
    with Store.open(url) as one, Store.open(url) as two:
        search = begin(one)
        assert begin(one) == search  # opened twice by the same store is fine
        with pytest.raises(StoreError, match="is being run by another process"):
            begin(two)
        one.close_search(search)
        assert commit(two, begin(two), [0.1]).rounds == 1


def test_closing_the_store_leaves_no_lock(url: str, tmp_path: Path) -> None:
    for _ in range(2):
        with Store.open(url) as store:
            begin(store)
    assert not list(tmp_path.glob("*search*"))


def test_a_driver_that_was_taken_over_writes_nothing(store: Store) -> None:
    search = begin(store)
    with store.engine.begin() as connection:
        connection.execute(update(SEARCH).values(driver="somebody else"))
    with pytest.raises(StoreError, match="has taken over the search 'demo'"):
        commit(store, search, [0.1])
    assert store.proposals("demo") == []


def test_a_driver_survives_the_loss_of_every_connection(fresh_postgresql: str) -> None:
    others = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with (
        Store.open(fresh_postgresql) as store,
        Store.open(fresh_postgresql) as rival,
        psycopg.connect(fresh_postgresql, autocommit=True) as server,
    ):
        search = begin(store)
        server.execute(others)
        search = commit(store, search, [0.5])
        with pytest.raises(StoreError, match="is being run by another process"):
            begin(rival)  # the lock was taken again
        attempts = []

        def cut_off_once(connection: object) -> str:
            attempts.append(1)
            if len(attempts) == 1:
                server.execute(others)
            connection.execute(text("SELECT 1"))  # type: ignore[attr-defined]
            return "done"

        assert store.write(cut_off_once) == "done"
        assert len(attempts) == 2
        server.execute(others)
        store.close()
        begin(rival)

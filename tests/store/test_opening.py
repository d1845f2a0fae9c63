"""Whatever is wrong with a database is told in one line: what, where, what to do."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event

from losssearch.errors import StoreError
from losssearch.store import address
from losssearch.store.store import Store
from tests.store.make import begin, candidate, commit


def refusal(url: str, **options: bool) -> str:
    with pytest.raises(StoreError) as caught:
        Store.open(url, timeout_s=0.2, **options).close()
    told = str(caught.value)
    assert "\n" not in told
    assert told.endswith(".")
    assert len(told) < 400
    return told


class TestAddresses:
    @pytest.mark.parametrize(
        ("url", "told"),
        [
            ("", "The address of the store is empty"),
            ("   ", "is empty"),
            ("foo", "'foo' is no database URL. Write sqlite:///foo.db"),
            (".", "Write sqlite:///"),
            ("sqlite:/x.db", "is not a database URL. Write sqlite:///FILE"),
            ("sqlite://host/x.db", "Write sqlite:///FILE with three slashes"),
            ("sqlite:///file:x.db?mode=ro&uri=true", "file: addresses are not read"),
            ("sqlite+aiosqlite:///x.db", "not a SQLite URL"),
            ("mysql://u:secret@h/d", "'mysql' databases are not supported"),
            ("http://example.org/x", "databases are not supported"),
            ("postgresql+asyncpg://u:secret@h/d", "Write postgresql://..., which uses psycopg"),
            ("://", "is not a database URL"),
            ("postgresql://u:secret@h:notaport/d", "is not a database URL"),
        ],
    )
    def test_a_wrong_address_is_explained(self, url: str, told: str) -> None:
        message = refusal(url)
        assert told in message
        assert "secret" not in message

    def test_a_bare_word_makes_no_file(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        refusal("foo")
        assert not list(tmp_path.iterdir())
        for path in ("foo.db", "./foo", "sqlite:///foo"):
            Store.open(path).close()

    def test_a_password_is_never_shown(self) -> None:
        url = address.parse("postgres://me:p%40ss@h/d?sslpassword=pa2&host=/tmp")
        assert address.shown(url) == "postgresql+psycopg://me:***@h/d?host=%2Ftmp&sslpassword=%2A%2A%2A"
        assert refusal("postgresql://me:hush@127.0.0.1:1/d").count("hush") == 0

    def test_a_missing_driver_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "psycopg", None)
        assert 'Run: pip install "psycopg[binary]"' in refusal("postgresql://h/d")

    def test_a_server_that_is_not_there_is_named(self) -> None:
        told = refusal("postgresql://u@127.0.0.1:1/d")
        assert "the server cannot be reached. Check host and port" in told

    def test_a_server_without_that_database_or_user_says_so(self, postgresql_url: str) -> None:
        assert "no such database" in refusal(postgresql_url.replace("/postgres?", "/nothing?"))
        assert "no such user" in refusal(postgresql_url.replace("tester@", "nobody@"))

    @pytest.mark.parametrize("name", ["a {b} 100%.db", "q?uery#x.db", "%41.db", "ü ☃.db", "a&b=c"])
    def test_strange_characters_in_a_path_survive(self, tmp_path: Path, name: str) -> None:
        import optuna

        path = tmp_path / name
        for url in (f"sqlite:///{path}", str(path)):
            with Store.open(url) as store:
                commit(store, begin(store, "demo" if url == str(path) else "other"), [0.1])
        assert path.exists()
        for storage in (
            optuna.storages.RDBStorage(store.optuna_url()),
            optuna.storages.RDBStorage(store.optuna_url(read_only=True), skip_table_creation=True),
        ):
            storage.engine.dispose()
        with sqlite3.connect(path) as database:
            tables = {row[0] for row in database.execute("SELECT name FROM sqlite_master")}
        database.close()
        assert {"trials", "ls_search"} <= tables
        with Store.open(str(path), read_only=True) as store:
            assert len(store.searches()) == 2

    def test_strange_characters_in_a_database_name_survive(self, postgresql_url: str) -> None:
        name = "x{0}100%y"
        with psycopg.connect(postgresql_url, autocommit=True) as server:
            server.execute(f'CREATE DATABASE "{name}"'.encode())
        url = postgresql_url.replace("/postgres?", "/x%7B0%7D100%25y?")
        with Store.open(url) as store:
            begin(store)
        import optuna

        storage = optuna.storages.RDBStorage(store.optuna_url())
        storage.remove_session()
        storage.engine.dispose()

    @given(st.text(max_size=40))
    def test_any_text_is_an_address_or_a_store_error(self, text: str) -> None:
        try:
            url = address.parse(text)
        except StoreError as error:
            told = str(error)
        else:
            told = address.shown(url)
        assert told.isprintable() or not text.isprintable()
        assert "\n" not in told


class TestFiles:
    def test_a_missing_file_folder_or_a_folder_is_named(self, tmp_path: Path) -> None:
        absent = tmp_path / "absent.db"
        assert f"{absent} does not exist" in refusal(str(absent), read_only=True)
        assert f"{absent} does not exist" in refusal(str(absent), create=False)
        assert not absent.exists()
        assert "is a folder" in refusal(str(tmp_path))
        assert f"{tmp_path}/no does not exist. Make it" in refusal(f"{tmp_path}/no/x.db")

    def test_a_file_that_is_no_database_is_left_alone(self, tmp_path: Path) -> None:
        path = tmp_path / "notes.txt"
        path.write_text("dear diary, " * 100)
        assert "is not a SQLite database" in refusal(str(path))
        assert path.read_text() == "dear diary, " * 100

    def test_a_database_that_is_refused_is_not_touched(self, tmp_path: Path) -> None:
        path = tmp_path / "x.db"
        with sqlite3.connect(path) as database:
            database.execute("CREATE TABLE ls_version (major INTEGER)")
        database.close()
        before = path.read_bytes()
        assert "were not made by losssearch" in refusal(str(path))
        assert path.read_bytes() == before
        assert [entry.name for entry in tmp_path.iterdir()] == ["x.db"]

    def test_an_empty_file_becomes_a_store(self, tmp_path: Path) -> None:
        (tmp_path / "x.db").touch()
        assert "holds no losssearch tables" in refusal(str(tmp_path / "x.db"), read_only=True)
        with Store.open(str(tmp_path / "x.db")) as store:
            assert store.searches() == []

    def test_a_damaged_file_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "x.db"
        Store.open(str(path)).close()
        path.write_bytes(path.read_bytes()[:100] + b"\xff" * 8000)
        assert "is damaged. Restore a copy" in refusal(str(path))

    def test_a_file_without_permission_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = tmp_path / "x.db"
        Store.open(str(path)).close()
        monkeypatch.setattr(os, "access", lambda *_: False)  # root may do anything
        assert "is read-only (the file or its folder)" in refusal(str(path))
        assert "is not writable" in refusal(str(tmp_path / "new.db"))
        with Store.open(str(path), read_only=True) as store:
            assert store.searches() == []

    def test_a_file_that_turns_read_only_is_told(self, tmp_path: Path) -> None:
        with Store.open(str(tmp_path / "x.db")) as store:
            event.listen(store.engine, "begin", lambda c: c.exec_driver_sql("PRAGMA query_only = 1"))
            with pytest.raises(StoreError, match=r"is read-only. Make it writable"):
                begin(store)

    def test_a_removed_file_is_told(self, tmp_path: Path) -> None:
        with Store.open(str(tmp_path / "x.db")) as store:
            (tmp_path / "x.db").unlink()
            with pytest.raises(StoreError, match="was removed while it was in use"):
                begin(store)

    def test_a_full_disk_is_told_and_the_store_goes_on_afterwards(self, tmp_path: Path) -> None:
        with Store.open(str(tmp_path / "x.db")) as store:
            search = commit(store, begin(store), [0.5])
            limit = [60]

            @event.listens_for(store.engine, "begin")
            def fill(connection: object) -> None:
                connection.exec_driver_sql(f"PRAGMA max_page_count = {limit[0]}")  # type: ignore[attr-defined]

            with pytest.raises(StoreError, match=r"the disk is full\. Free some space"):
                store.add_candidates(candidate(n, source="x" * 1000) for n in range(1000))
            limit[0] = 1_000_000
            assert store.add_candidates([candidate("after")]) == 1
            assert commit(store, search, [0.4]).rounds == 2

    def test_a_locked_file_is_told_and_free_again_afterwards(self, tmp_path: Path) -> None:
        path = tmp_path / "x.db"
        with Store.open(str(path), timeout_s=0.1) as store:
            search = begin(store)
            other = sqlite3.connect(path, isolation_level=None)
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="is locked by another program"):
                commit(store, search, [0.1])
            with Store.open(str(path), read_only=True) as reader:  # readers never wait
                assert reader.search("demo").rounds == 0
            other.execute("ROLLBACK")
            other.close()
            assert commit(store, search, [0.1]).rounds == 1

    def test_a_short_lock_is_waited_for(self, tmp_path: Path) -> None:
        path = tmp_path / "x.db"
        with Store.open(str(path), timeout_s=10) as store:
            search = begin(store)
            other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            other.execute("BEGIN IMMEDIATE")
            threading.Timer(0.3, lambda: other.execute("ROLLBACK")).start()
            assert commit(store, search, [0.1]).rounds == 1
            other.close()

    def test_every_connection_flushes_waits_and_checks(self, tmp_path: Path) -> None:
        with Store.open(str(tmp_path / "x.db"), timeout_s=7) as store, store.reading() as c:
            wanted = {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
            for name, value in {**wanted, "busy_timeout": 7000}.items():
                assert c.exec_driver_sql(f"PRAGMA {name}").scalar() == value


class TestReading:
    def test_a_reader_cannot_write(self, url: str) -> None:
        with Store.open(url) as store:
            commit(store, begin(store), [0.1])
        with Store.open(url, read_only=True) as reader:
            assert reader.read_only
            assert reader.leaderboard("demo")[0].proposal.score == 0.1
            with pytest.raises(StoreError, match="was opened read-only; nothing can be written"):
                begin(reader)
            with pytest.raises(StoreError, match="is read-only"), reader.reading() as connection:
                connection.exec_driver_sql("DELETE FROM ls_event")

    def test_a_reader_sees_new_rounds_while_the_driver_writes(self, url: str) -> None:
        with Store.open(url) as store, Store.open(url, read_only=True) as reader:
            search = begin(store)
            for n in range(3):
                search = commit(store, search, [0.1 + n])
                assert reader.search("demo").rounds == n + 1

    def test_a_file_in_a_read_only_folder_can_be_read(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with Store.open(str(tmp_path / "x.db")) as store:
            begin(store)
        monkeypatch.setattr(os, "access", lambda *_: False)
        with Store.open(str(tmp_path / "x.db"), read_only=True) as reader:
            assert [search.name for search in reader.searches()] == ["demo"]
        assert [path.name for path in tmp_path.iterdir()] == ["x.db"]

    def test_a_store_in_memory_works_alone(self) -> None:
        with Store.open("sqlite://") as store:
            commit(store, begin(store), [0.1])
            assert store.find("demo/1").candidate.size == 5
            with pytest.raises(StoreError, match="cannot be shared with Optuna"):
                store.optuna_url()


def test_importing_the_store_imports_neither_optuna_nor_alembic_nor_torch() -> None:
    code = (
        "import sys, losssearch.store.store, losssearch.store.mirror\n"
        "print([m for m in ('optuna', 'alembic', 'torch', 'optuna_dashboard') if m in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"

"""Our tables are made by migrations alone, beside anybody else's, by anyone who comes first."""

from __future__ import annotations

import threading
from pathlib import Path

import optuna
import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, text

from losssearch.errors import StoreError
from losssearch.store import address
from losssearch.store.database import Database
from losssearch.store.migrations import migrate
from losssearch.store.schema import HEAD, REVISIONS
from losssearch.store.store import ScoreUpdate, Store
from tests.store.make import begin, commit, proposal


def change(url: str, *statements: str) -> None:
    """Do something to a database behind the store's back."""
    engine = create_engine(address.parse(url))
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def optuna_tables(store: Store) -> None:
    storage = optuna.storages.RDBStorage(store.optuna_url())
    optuna.create_study(storage=storage, study_name="theirs").add_trial(optuna.trial.create_trial(value=1.0))
    storage.remove_session()
    storage.engine.dispose()


def test_the_migrations_make_exactly_the_declared_tables(store: Store) -> None:
    optuna_tables(store)
    with store.engine.connect() as connection:
        command.check(migrate.config(connection))


def test_head_is_the_last_migration(store: Store) -> None:
    with store.reading() as connection:
        scripts = ScriptDirectory.from_config(migrate.config(connection))
    assert [script.revision for script in scripts.walk_revisions()] == list(REVISIONS[::-1])
    assert scripts.get_current_head() == HEAD


@pytest.mark.parametrize("ours_first", [True, False])
def test_optuna_may_live_in_the_same_database(url: str, ours_first: bool) -> None:
    if ours_first:
        with Store.open(url) as store:
            optuna_tables(store)
    else:
        place = address.parse(url)
        optuna_tables(Store(place, address.open_engine(place, False, 5), False))
    with Store.open(url) as store:
        commit(store, begin(store), [0.5])
        storage = optuna.storages.RDBStorage(store.optuna_url())
        assert [s.study_name for s in storage.get_all_studies()] == ["theirs"]
        storage.remove_session()
        storage.engine.dispose()


def test_an_old_store_keeps_what_it_holds(url: str) -> None:
    """A store as the first version left it: a scored loss, its copy, and one that a screen rejected."""
    place = address.parse(url)
    engine = address.open_engine(place, False, 5)
    with engine.begin() as connection:
        command.upgrade(migrate.config(connection), "0001")
        assert migrate.state(connection, "x") == "0001"
    engine.dispose()
    candidate = "'multiclass', '{\"loss\":\"mean(p)\"}', 'mean(p)', '{\"c\":[1,0,2]}', 's', NULL, NULL"
    when = "'2026-01-01T00:00:00.000000+00:00'"
    change(
        url,
        *(
            f"INSERT INTO ls_candidate VALUES ('{key}', {candidate}, {size}, 1.0, '{{}}', {when})"
            for key, size in (("aa", 3), ("bb", 4), ("cc", 5))
        ),
        "INSERT INTO ls_search VALUES (1, 'old', 'multiclass', 'digits', 'random', '{}', 0, 1, 3, 'running', "
        f"'{{}}', NULL, {when}, {when})",
        *(
            f"INSERT INTO ls_proposal VALUES (1, {number}, '{key}', 'mean(p)', 'random', '[]', '{outcome}', "
            f"'', {same_as}, '{credit}', {leads}, 0, 0, {score}, '{{}}')"
            for number, key, outcome, same_as, credit, leads, score in (
                (0, "aa", "SCORED", "NULL", "aa", 1, 0.5),
                (1, "bb", "EQUIVALENT", "'aa'", "aa", 0, 0.5),
                (2, "cc", "FLAT", "NULL", "cc", 0, "NULL"),
            )
        ),
        "UPDATE ls_proposal SET rung = 3, minus_rung = -3 WHERE number = 0",  # the chosen one, as it was then
    )
    with Store.open(url) as store:
        search = store.open_search("old", "multiclass", "digits", "random", {}, 0)
        rows = store.proposals("old")
        assert [row.is_chosen for row in rows] == [True, False, False]
        assert [row.size for row in rows] == [3, 4, 5]
        assert all(row.constants == {"c": [1, 0, 2]} for row in rows)
        store.update_scores(search, [ScoreUpdate(0, "SCORED", 1, 0.25)])
        assert [row.score for row in store.proposals("old")] == [0.25, 0.25, None]
        assert [ranked.proposal.number for ranked in store.leaderboard("old")] == [0]
        with store.reading() as connection:
            credits = connection.execute(text("SELECT credit FROM ls_proposal ORDER BY number")).scalars()
            assert list(credits) == ["aa", "aa", None]
        with store.engine.connect() as connection:
            command.check(migrate.config(connection))
        search = store.commit_round(search, 1, [proposal(3, None)], {}, None, 0.0)  # its loss is not stored
        assert store.find("old@3").candidate.parts == {"loss": "mean(p * 3, 'n')"}


def test_a_database_of_others_is_not_ours_to_read(url: str) -> None:
    change(url, "CREATE TABLE experiments (id INTEGER)", "INSERT INTO experiments VALUES (7)")
    for options in ({"read_only": True}, {"create": False}):
        with pytest.raises(StoreError, match=r"holds no losssearch tables. Check the address"):
            Store.open(url, **options)
    Store.open(url).close()


@pytest.mark.parametrize(
    "statements",
    [
        ["CREATE TABLE ls_candidate (id INTEGER)"],
        ["CREATE TABLE ls_version (major INTEGER)"],
        ["CREATE TABLE ls_other (id INTEGER)", "CREATE TABLE ls_version (version_num TEXT)"],
        ["CREATE TABLE ls_version (version_num TEXT)", "INSERT INTO ls_version VALUES ('0001')"],
    ],
)
@pytest.mark.parametrize("read_only", [True, False])
def test_tables_of_our_names_that_are_not_ours_are_refused(
    url: str, statements: list[str], read_only: bool
) -> None:
    change(url, *statements)
    with pytest.raises(StoreError, match=r"were not made by losssearch. Use another database"):
        Store.open(url, read_only=read_only)


def test_a_changed_table_is_refused(url: str) -> None:
    Store.open(url).close()
    change(url, "ALTER TABLE ls_search RENAME COLUMN seed TO sead")
    with pytest.raises(StoreError, match="were not made by losssearch"):
        Store.open(url)


def test_a_newer_store_is_refused_and_left_alone(url: str) -> None:
    Store.open(url).close()
    change(url, "UPDATE ls_version SET version_num = '9999'")
    for read_only in (True, False):
        with pytest.raises(StoreError, match=r"written by a newer losssearch .*'9999'.* Upgrade"):
            Store.open(url, read_only=read_only)


def test_an_older_store_is_brought_up_to_date_only_for_writing(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Store.open(url).close()
    monkeypatch.setattr(migrate, "HEAD", "9999")
    monkeypatch.setattr("losssearch.store.database.HEAD", "9999")
    with pytest.raises(StoreError, match=r"of an older losssearch. Open it once for writing"):
        Store.open(url, read_only=True)
    Store.open(url).close()


def test_a_migration_that_fails_leaves_no_trace(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(connection: object, shown: str) -> None:
        upgrade(connection, shown)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    upgrade = migrate.upgrade
    monkeypatch.setattr(migrate, "upgrade", broken)
    with pytest.raises(KeyboardInterrupt):
        Store.open(url)
    monkeypatch.undo()
    engine = create_engine(address.parse(url))
    with engine.connect() as connection:
        assert migrate.state(connection, "x") is None
    engine.dispose()
    Store.open(url).close()


def test_many_may_open_a_new_database_at_once(url: str) -> None:
    faults: list[BaseException] = []

    def open_it() -> None:
        try:
            Store.open(url).close()
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=open_it) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def test_a_percent_sign_in_the_path_of_the_program_does_no_harm(tmp_path: Path) -> None:
    with Database.open(str(tmp_path / "100%{x}.db")) as database, database.reading() as connection:
        assert migrate.state(connection, "x") == HEAD

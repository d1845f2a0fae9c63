"""Is this database ours, and is it up to date?

`state` looks, `upgrade` runs the missing steps in the caller's transaction: a migration killed half
way leaves no trace. Looking costs one query when the database is up to date; alembic is imported
only to migrate.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, inspect, text

from losssearch.errors import StoreError
from losssearch.store.schema import HEAD, PREFIX, REVISIONS, VERSION_TABLE, Base

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATION_LOCK = 0x6C73_6D69  # any number that no other program uses


def _ours(name: str | None, kind: str, parents: Any) -> bool:
    return kind != "table" or (name or "").startswith(PREFIX)


CONFIGURATION: dict[str, Any] = {
    "version_table": VERSION_TABLE,
    "include_name": _ours,
    "compare_type": True,
    "transactional_ddl": True,
    "render_as_batch": True,
}


def state(connection: Connection, shown: str) -> str | None:
    """The revision of our tables; None when there are none yet.

    Raises:
        StoreError: Tables of our names that are not ours, or a revision newer than this program.
    """
    inspector = inspect(connection)
    present = {name for name in inspector.get_table_names() if name.startswith(PREFIX)}
    if not present:
        return None
    foreign = StoreError(
        f"{shown}: its tables {PREFIX}... were not made by losssearch. Use another database."
    )
    if VERSION_TABLE not in present:
        raise foreign
    columns = {column["name"] for column in inspector.get_columns(VERSION_TABLE)}
    if columns != {"version_num"}:
        raise foreign
    revisions = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalars().all()
    if not revisions and present == {VERSION_TABLE}:
        return None
    if len(revisions) != 1 or present == {VERSION_TABLE}:
        raise foreign
    if revisions[0] not in REVISIONS:
        raise StoreError(
            f"{shown}: written by a newer losssearch (its tables are at {revisions[0]!r}, this "
            f"program knows {HEAD!r}). Upgrade losssearch, or use another database."
        )
    if revisions[0] == HEAD:
        for table in Base.metadata.sorted_tables:
            if table.name not in present or {c.name for c in table.columns} != {
                column["name"] for column in inspector.get_columns(table.name)
            }:
                raise foreign
    return str(revisions[0])


def upgrade(connection: Connection, shown: str) -> None:
    """Bring our tables to HEAD inside the open transaction of `connection`; safe to run at once
    from several programs, which wait for each other.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
    if state(connection, shown) == HEAD:
        return
    from alembic import command

    command.upgrade(config(connection), "head")


def config(connection: Connection) -> Config:
    """The settings of alembic, for `command.upgrade` and `command.check`."""
    import logging

    from alembic.config import Config

    logging.getLogger("alembic").setLevel(logging.WARNING)
    settings = Config()
    folder = str(Path(__file__).parent)
    settings.set_main_option("script_location", folder.replace("%", "%%"))
    settings.set_main_option("path_separator", "os")
    settings.attributes["connection"] = connection
    return settings

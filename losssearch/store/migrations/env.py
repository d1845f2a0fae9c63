"""Runs the steps in `versions/` on the connection that `migrate` hands over.

Only tables called `ls_...` are ours: others in the same database, such as Optuna's, are left alone.
"""

from __future__ import annotations

from alembic import context

from losssearch.store.migrations.migrate import CONFIGURATION
from losssearch.store.schema import Base

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=Base.metadata,
    **CONFIGURATION,
)
with context.begin_transaction():
    context.run_migrations()

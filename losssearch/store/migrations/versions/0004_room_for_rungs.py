"""The chosen loss of a search stands on rung 9, since losses may now be trained on rung 3."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("UPDATE ls_proposal SET rung = 9, minus_rung = -9 WHERE rung = 3")

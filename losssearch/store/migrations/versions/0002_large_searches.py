"""Room for a million candidates: what a screen rejects is one row of its search, written in order.

A proposal holds its constants and its size, and so stands by itself; those with a result have a `credit`.
The large indices begin with `born`, which is 0 for all that is older.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

# Neither trained nor given another's result.
REJECTED = (
    "score IS NULL AND outcome NOT IN "
    "('SCORED', 'DIVERGED', 'PRUNED', 'FAILED', 'INVALID', 'TIMEOUT', 'DIED', 'POISON')"
)


def upgrade() -> None:
    born = sa.Column("born", sa.BigInteger(), nullable=False, server_default="0")
    with op.batch_alter_table("ls_candidate") as batch:
        batch.add_column(born.copy())
    with op.batch_alter_table("ls_evaluation") as batch:
        batch.add_column(born.copy())
        batch.drop_constraint("uq_ls_evaluation_candidate_key", type_="unique")
        batch.create_unique_constraint(
            "uq_ls_evaluation_born", ["born", "candidate_key", "proxy", "protocol", "run"]
        )
    op.drop_index("ix_ls_candidate_structure_key", "ls_candidate")
    op.drop_index("ix_ls_proposal_candidate_key", "ls_proposal")
    op.drop_index("ix_ls_proposal_credit", "ls_proposal")
    with op.batch_alter_table("ls_proposal") as batch:
        batch.drop_constraint("fk_ls_proposal_candidate_key", type_="foreignkey")
        batch.alter_column("credit", existing_type=sa.String(length=64), nullable=True)
        batch.add_column(sa.Column("constants", sa.Text(), nullable=False, server_default="{}"))
        batch.add_column(born.copy())
        batch.add_column(sa.Column("size", sa.Integer(), nullable=False, server_default="0"))
    for name in ("constants", "size"):
        op.execute(
            f"UPDATE ls_proposal SET {name} = (SELECT c.{name} FROM ls_candidate c "
            "WHERE c.key = ls_proposal.candidate_key)"
        )
    op.execute(f"UPDATE ls_proposal SET credit = NULL WHERE {REJECTED}")
    op.create_index(
        "ix_ls_proposal_credit",
        "ls_proposal",
        ["search_id", "born", "credit", "leads"],
        unique=False,
        sqlite_where=sa.text("credit IS NOT NULL"),
        postgresql_where=sa.text("credit IS NOT NULL"),
    )

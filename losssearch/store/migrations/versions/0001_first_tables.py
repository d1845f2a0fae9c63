"""The first tables: losses, trainings, searches with their proposals, rounds, audits and events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

COUNTER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite counts INTEGER only


def upgrade() -> None:
    op.create_table(
        "ls_candidate",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("space", sa.Text(), nullable=False),
        sa.Column("parts", sa.Text(), nullable=False),
        sa.Column("canonical", sa.Text(), nullable=False),
        sa.Column("constants", sa.Text(), nullable=False),
        sa.Column("structure_key", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("scale", sa.Double(), nullable=True),
        sa.Column("facts", sa.Text(), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("key", name="pk_ls_candidate"),
    )
    op.create_index("ix_ls_candidate_name", "ls_candidate", ["name"], unique=False)
    op.create_index("ix_ls_candidate_structure_key", "ls_candidate", ["structure_key"], unique=False)

    op.create_table(
        "ls_search",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=200), nullable=False),
        sa.Column("space", sa.Text(), nullable=False),
        sa.Column("proxy", sa.Text(), nullable=False),
        sa.Column("controller", sa.Text(), nullable=False),
        sa.Column("config", sa.Text(), nullable=False),
        sa.Column("seed", sa.BigInteger(), nullable=False),
        sa.Column("rounds", sa.Integer(), nullable=False),
        sa.Column("proposals", sa.Integer(), nullable=False),
        sa.Column("status", sa.String(length=200), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("driver", sa.String(length=200), nullable=True),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("updated_at", sa.String(length=32), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_ls_search"),
        sa.UniqueConstraint("name", name="uq_ls_search_name"),
    )
    op.create_table(
        "ls_audit",
        sa.Column("search_id", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("rows", sa.Text(), nullable=False),
        sa.Column("summary", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["search_id"], ["ls_search.id"], name="fk_ls_audit_search_id"),
        sa.PrimaryKeyConstraint("search_id", "created_at", name="pk_ls_audit"),
    )
    op.create_table(
        "ls_evaluation",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("candidate_key", sa.String(length=64), nullable=False),
        sa.Column("proxy", sa.Text(), nullable=False),
        sa.Column("protocol", sa.Text(), nullable=False),
        sa.Column("run", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(length=200), nullable=False),
        sa.Column("metric", sa.Double(), nullable=True),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.Column("curve", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(
            ["candidate_key"], ["ls_candidate.key"], name="fk_ls_evaluation_candidate_key"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_ls_evaluation"),
        sa.UniqueConstraint(
            "candidate_key", "proxy", "protocol", "run", name="uq_ls_evaluation_candidate_key"
        ),
    )
    op.create_table(
        "ls_event",
        sa.Column("id", COUNTER, nullable=False),
        sa.Column("search_id", sa.Integer(), nullable=False),
        sa.Column("at", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=200), nullable=False),
        sa.Column("payload", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["search_id"], ["ls_search.id"], name="fk_ls_event_search_id"),
        sa.PrimaryKeyConstraint("id", name="pk_ls_event"),
    )
    op.create_index("ix_ls_event_search", "ls_event", ["search_id", "id"], unique=False)

    op.create_table(
        "ls_proposal",
        sa.Column("search_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("candidate_key", sa.String(length=64), nullable=False),
        sa.Column("formula", sa.Text(), nullable=False),
        sa.Column("origin", sa.String(length=200), nullable=False),
        sa.Column("parents", sa.Text(), nullable=False),
        sa.Column("outcome", sa.String(length=200), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("same_as", sa.String(length=64), nullable=True),
        sa.Column("credit", sa.String(length=64), nullable=False),
        sa.Column("leads", sa.Integer(), nullable=False),
        sa.Column("rung", sa.Integer(), nullable=False),
        sa.Column("minus_rung", sa.Integer(), nullable=False),
        sa.Column("score", sa.Double(), nullable=True),
        sa.Column("metrics", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["candidate_key"], ["ls_candidate.key"], name="fk_ls_proposal_candidate_key"),
        sa.ForeignKeyConstraint(["search_id"], ["ls_search.id"], name="fk_ls_proposal_search_id"),
        sa.PrimaryKeyConstraint("search_id", "number", name="pk_ls_proposal"),
    )
    op.create_index(
        "ix_ls_proposal_board",
        "ls_proposal",
        ["search_id", "minus_rung", "score"],
        unique=False,
        sqlite_where=sa.text("leads = 1"),
        postgresql_where=sa.text("leads = 1"),
    )
    op.create_index("ix_ls_proposal_candidate_key", "ls_proposal", ["candidate_key"], unique=False)
    op.create_index("ix_ls_proposal_credit", "ls_proposal", ["search_id", "credit"], unique=False)
    op.create_index("ix_ls_proposal_outcome", "ls_proposal", ["search_id", "outcome", "number"], unique=False)

    op.create_table(
        "ls_round",
        sa.Column("search_id", sa.Integer(), nullable=False),
        sa.Column("number", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("counts", sa.Text(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("created_at", sa.String(length=32), nullable=False),
        sa.ForeignKeyConstraint(["search_id"], ["ls_search.id"], name="fk_ls_round_search_id"),
        sa.PrimaryKeyConstraint("search_id", "number", name="pk_ls_round"),
    )

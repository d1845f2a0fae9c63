"""The history of the tables, one file in `versions/` a step, run by alembic from empty."""

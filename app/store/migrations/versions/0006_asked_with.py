"""The API key that asked for an answer, the most it can have cost, and records of Idempotency-Keys
that go with their answers."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    # Without a default, so that no database writes its rows anew.
    op.add_column("answers", sa.Column("cost_bound_usd", sa.Float()))
    op.add_column("answers", sa.Column("key_id", sa.String(40)))
    op.add_column("listing", sa.Column("key_id", sa.String(40)))
    op.create_index("ix_listing_key_id", "listing", ["key_id", "number"])
    op.execute(
        "DELETE FROM idempotency WHERE answer_id IS NOT NULL"
        " AND NOT EXISTS (SELECT 1 FROM answers WHERE answers.id = idempotency.answer_id)"
    )
    # SQLite makes the table anew for this; it holds a day.
    with op.batch_alter_table("idempotency") as table:
        table.create_foreign_key(
            "fk_idempotency_answer_id", "answers", ["answer_id"], ["id"], ondelete="CASCADE"
        )
        table.create_index("ix_idempotency_answer_id", ["answer_id"])

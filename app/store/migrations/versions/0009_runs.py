"""An idempotency record says which answer its run will have.

Revision ID: 0009
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("idempotency", sa.Column("run_id", sa.String(40)))
    op.create_index("ix_idempotency_answer_id", "idempotency", ["answer_id"])

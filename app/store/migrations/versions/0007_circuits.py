"""Open circuits of members, for all processes to see."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.create_table(
        "circuits",
        sa.Column("member", sa.String(200), nullable=False),
        sa.Column("failed", sa.Integer(), nullable=False),
        sa.Column("probe_from", sa.Float(), nullable=False),
        sa.PrimaryKeyConstraint("member", name="pk_circuits"),
    )

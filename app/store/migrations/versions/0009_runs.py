"""An idempotency record says which answer its run will have."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("idempotency", sa.Column("run_id", sa.String(40)))

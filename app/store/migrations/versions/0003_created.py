"""An index by time, for what looks at the newest answers only."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("ix_answers_created", "answers", ["created"])

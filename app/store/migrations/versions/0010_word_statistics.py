"""PostgreSQL knows how often ten thousand words stand there, not a thousand.

Of a word it does not know it takes one answer in two hundred to have it, and looks through the
newest for it; a word that stands nowhere was then looked for in all of them.
"""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    if op.get_context().dialect.name != "sqlite":
        op.execute("ALTER TABLE words ALTER COLUMN document SET STATISTICS 1000")
        op.execute("ANALYZE words")

"""An empty index of words, which are cut out otherwise than before; the store fills it after this.

On SQLite its tokenizer parts words at blanks only: to `ascii` whatever is not ASCII is a letter.
"""

from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE words")
        op.execute("CREATE VIRTUAL TABLE words USING fts5(document, tokenize = 'ascii')")
    else:
        op.execute("TRUNCATE words")

"""Feedback, and what answers are found by: a listing, tags, and the full-text index `words`."""

from datetime import UTC

import sqlalchemy as sa
from alembic import op

# The index must hold the words that searches look for. Whoever changes how words are cut out
# builds it anew in a migration.
from app.store.search import document, indexed, new_number

revision = "0005"
down_revision = "0004"

PAGE = 500


def upgrade() -> None:
    op.create_table(
        "listing",
        sa.Column(
            "number",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=False,
            nullable=False,
        ),
        sa.Column("answer_id", sa.String(40), nullable=False),
        sa.Column("member", sa.String(200)),
        sa.Column("strategy", sa.String(32), nullable=False),
        sa.Column("quality", sa.String(16), nullable=False),
        sa.Column("has_feedback", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(
            ["answer_id"], ["answers.id"], name="fk_listing_answer_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("number", name="pk_listing"),
    )
    op.create_index("ix_listing_answer_id", "listing", ["answer_id"], unique=True)
    for name in ("member", "strategy", "quality", "has_feedback"):
        op.create_index(f"ix_listing_{name}", "listing", [name, "number"])
    op.create_table(
        "tags",
        sa.Column("key", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.Column("number", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.ForeignKeyConstraint(
            ["number"], ["listing.number"], name="fk_tags_number", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("key", "value", "number", name="pk_tags"),
    )
    op.create_index("ix_tags_number", "tags", ["number"])
    op.create_table(
        "feedback",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("answer_id", sa.String(40), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("better", sa.String(40)),
        sa.Column("thumb", sa.String(8)),
        sa.Column("helpfulness", sa.Float()),
        sa.Column("correctness", sa.Float()),
        sa.Column("coherence", sa.Float()),
        sa.Column("complexity", sa.Float()),
        sa.Column("verbosity", sa.Float()),
        sa.Column("corrected", sa.Text()),
        sa.Column("comment", sa.Text()),
        sa.ForeignKeyConstraint(
            ["answer_id"], ["answers.id"], name="fk_feedback_answer_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_feedback"),
    )
    op.create_index("ix_feedback_answer_id", "feedback", ["answer_id"])
    sqlite = op.get_bind().dialect.name == "sqlite"
    for statement in SQLITE if sqlite else POSTGRESQL:
        op.execute(statement)
    _list_what_is_there()


# Words are cut out by Starboard: the tokenizer has only to part them at blanks, as they are.
SQLITE = (
    "CREATE VIRTUAL TABLE words USING fts5(document, tokenize = 'unicode61 remove_diacritics 0')",
    "CREATE TRIGGER words_erased AFTER DELETE ON listing"
    " BEGIN DELETE FROM words WHERE rowid = old.number; END",
)
POSTGRESQL = (
    "CREATE TABLE words (number BIGINT CONSTRAINT pk_words PRIMARY KEY"
    " CONSTRAINT fk_words_number REFERENCES listing ON DELETE CASCADE, document TSVECTOR NOT NULL)",
    "CREATE INDEX ix_words_document ON words USING gin (document)",
)


def _list_what_is_there() -> None:
    answers = sa.table(
        "answers",
        *(sa.column(name, sa.JSON) for name in ("messages", "selection", "tags")),
        sa.column("created", sa.DateTime(timezone=True)),
        *(sa.column(name, sa.String) for name in ("id", "quality")),
    )
    candidates = sa.table("candidates", *map(sa.column, ("id", "member", "text")))
    listing = sa.table(
        "listing",
        *map(sa.column, ("number", "answer_id", "member", "strategy", "quality", "has_feedback")),
    )
    tags = sa.table("tags", *map(sa.column, ("number", "key", "value")))
    connection, last = op.get_bind(), ""
    page = sa.select(answers).order_by(answers.c.id).limit(PAGE)
    while found := connection.execute(page.where(answers.c.id > last)).all():
        last = found[-1].id
        chosen = [row.selection["winner"] for row in found if row.selection["winner"]]
        wrote = sa.select(candidates).where(candidates.c.id.in_(chosen))
        winners = {row.id: row for row in connection.execute(wrote)}
        for row in found:
            winner = winners.get(row.selection["winner"])
            number = new_number(row.created.replace(tzinfo=row.created.tzinfo or UTC))
            values = {
                "number": number,
                "answer_id": row.id,
                "member": winner.member if winner else None,
                "strategy": row.selection["strategy"],
                "quality": row.quality,
                "has_feedback": False,
            }
            connection.execute(sa.insert(listing).values(values))
            for key, value in row.tags.items():
                connection.execute(sa.insert(tags).values(number=number, key=key, value=value))
            words = document(
                [message["content"] for message in row.messages],
                (winner.text if winner else None) or "",
                winner.member if winner else None,
                row.tags.items(),
            )
            connection.execute(indexed(connection.dialect.name, number, words))

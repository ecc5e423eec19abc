"""Feedback, and what answers are found by: a listing, tags, and the full-text index `words`."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


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

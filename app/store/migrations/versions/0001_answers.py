"""Answers and their candidates."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "answers",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("created", sa.DateTime(timezone=True), nullable=False),
        sa.Column("messages", sa.JSON(), nullable=False),
        sa.Column("max_tokens", sa.Integer(), nullable=False),
        sa.Column("temperature", sa.Float()),
        sa.Column("plan", sa.JSON(), nullable=False),
        sa.Column("scorer", sa.JSON(), nullable=False),
        sa.Column("selection", sa.JSON(), nullable=False),
        sa.Column("timings", sa.JSON(), nullable=False),
        sa.Column("quality", sa.String(16), nullable=False),
        sa.Column("missing", sa.JSON(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_answers"),
    )
    op.create_table(
        "candidates",
        sa.Column("id", sa.String(40), nullable=False),
        sa.Column("answer_id", sa.String(40), nullable=False),
        sa.Column("position", sa.Integer(), nullable=False),
        sa.Column("member", sa.String(200), nullable=False),
        sa.Column("model", sa.String(200), nullable=False),
        sa.Column("latency_s", sa.Float(), nullable=False),
        sa.Column("text", sa.Text()),
        sa.Column("finish_reason", sa.String(32)),
        sa.Column("input_tokens", sa.Integer()),
        sa.Column("output_tokens", sa.Integer()),
        sa.Column("dropped_parameters", sa.JSON(), nullable=False),
        sa.Column("failure_kind", sa.String(32)),
        sa.Column("failure_message", sa.Text()),
        sa.Column("failure_retryable", sa.Boolean()),
        sa.Column("helpfulness", sa.Float()),
        sa.Column("correctness", sa.Float()),
        sa.Column("coherence", sa.Float()),
        sa.Column("complexity", sa.Float()),
        sa.Column("verbosity", sa.Float()),
        sa.Column("reward", sa.Float()),
        sa.Column("score_note", sa.Text()),
        sa.Column("score_latency_s", sa.Float()),
        sa.Column("score_failure_kind", sa.String(32)),
        sa.Column("score_failure_message", sa.Text()),
        sa.Column("score_failure_retryable", sa.Boolean()),
        sa.ForeignKeyConstraint(
            ["answer_id"], ["answers.id"], name="fk_candidates_answer_id", ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_candidates"),
    )
    op.create_index("ix_candidates_answer_id", "candidates", ["answer_id"])

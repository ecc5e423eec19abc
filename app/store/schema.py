"""The tables. A change here needs a migration beside it; a test compares the two."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
)

# Constraint names are fixed so that migrations can refer to them on every database.
metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

answers = Table(
    "answers",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("created", DateTime(timezone=True), nullable=False),
    Column("messages", JSON, nullable=False),
    Column("max_tokens", Integer, nullable=False),
    Column("temperature", Float),
    Column("plan", JSON, nullable=False),
    Column("scorer", JSON, nullable=False),
    Column("selection", JSON, nullable=False),
    Column("timings", JSON, nullable=False),
    Column("quality", String(16), nullable=False),
    Column("missing", JSON, nullable=False),
    Column("tags", JSON, nullable=False),
    Column("cost_usd", Float),
    Column("cost_bound_usd", Float),
    # Not a foreign key: what an answer is erased by must not depend on another row.
    Column("key_id", String(40)),
    Index(None, "created"),
)

candidates = Table(
    "candidates",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("answer_id", ForeignKey("answers.id", ondelete="CASCADE"), nullable=False),
    Column("position", Integer, nullable=False),
    Column("member", String(200), nullable=False),
    Column("model", String(200), nullable=False),
    Column("latency_s", Float, nullable=False),
    Column("cost_usd", Float),
    Column("text", Text),
    Column("finish_reason", String(32)),
    Column("input_tokens", Integer),
    Column("output_tokens", Integer),
    Column("dropped_parameters", JSON, nullable=False),
    Column("failure_kind", String(32)),
    Column("failure_message", Text),
    Column("failure_retryable", Boolean),
    Column("helpfulness", Float),
    Column("correctness", Float),
    Column("coherence", Float),
    Column("complexity", Float),
    Column("verbosity", Float),
    Column("reward", Float),
    Column("extracted", Text),
    Column("score_note", Text),
    Column("score_latency_s", Float),
    Column("score_failure_kind", String(32)),
    Column("score_failure_message", Text),
    Column("score_failure_retryable", Boolean),
    Index(None, "answer_id"),
)

# Money is in whole nano-dollars. `month` and `minute` say of what time `spent` and `requests` are.
keys = Table(
    "keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("prefix", String(20), nullable=False),
    Column("hash", String(64), nullable=False),
    Column("scopes", JSON, nullable=False),
    Column("created", DateTime(timezone=True), nullable=False),
    Column("expires", DateTime(timezone=True)),
    Column("revoked", DateTime(timezone=True)),
    Column("per_minute", Integer),
    Column("concurrency", Integer),
    Column("budget", BigInteger),
    Column("period", String(8), nullable=False),
    Column("spent", BigInteger, nullable=False),
    Column("month", String(7), nullable=False),
    Column("requests", Integer, nullable=False),
    Column("minute", BigInteger, nullable=False),
    Index(None, "hash", unique=True),
)

# What runs under way hold of their key, until they end or `expires`.
leases = Table(
    "leases",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("key_id", ForeignKey("keys.id", ondelete="CASCADE"), nullable=False),
    Column("reserved", BigInteger, nullable=False),
    Column("expires", DateTime(timezone=True), nullable=False),
    Index(None, "key_id"),
)

# `answer_id` is null while the request is under way, which it is at most until `expires`; `run_id`
# is that of the answer to come. `scope` is the API key's id, empty where no key is asked for. The
# row goes with its answer.
idempotency = Table(
    "idempotency",
    metadata,
    Column("scope", String(40), primary_key=True),
    Column("key", String(255), primary_key=True),
    Column("digest", String(64), nullable=False),
    Column("owner", String(40), nullable=False),
    Column("expires", DateTime(timezone=True), nullable=False),
    Column("answer_id", ForeignKey("answers.id", ondelete="CASCADE")),
    Column("run_id", String(40)),
    Column("created", DateTime(timezone=True), nullable=False),
    Index(None, "answer_id"),
    Index(None, "created"),
)

# Members that no process calls; `probe_from` is when one of them may try, in seconds since 1970 by
# the database's clock.
circuits = Table(
    "circuits",
    metadata,
    Column("member", String(200), primary_key=True),
    Column("failed", Integer, nullable=False),
    Column("probe_from", Float, nullable=False),
)

# What answers are found by: a row for each, and the table `words` beside it, which is no table
# that SQLAlchemy knows (see `search.WORDS`). The number of an answer stands for its time.
_NUMBER = BigInteger().with_variant(Integer, "sqlite")  # its 64 bits are called INTEGER there

listing = Table(
    "listing",
    metadata,
    Column("number", _NUMBER, primary_key=True, autoincrement=False),
    Column("answer_id", ForeignKey("answers.id", ondelete="CASCADE"), nullable=False),
    Column("member", String(200)),
    Column("strategy", String(32), nullable=False),
    Column("quality", String(16), nullable=False),
    Column("key_id", String(40)),
    Column("has_feedback", Boolean, nullable=False),
    Index(None, "answer_id", unique=True),
    Index(None, "member", "number"),
    Index(None, "strategy", "number"),
    Index(None, "quality", "number"),
    Index(None, "key_id", "number"),
    Index(None, "has_feedback", "number"),
)

tags = Table(
    "tags",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, primary_key=True),
    Column("number", ForeignKey("listing.number", ondelete="CASCADE"), primary_key=True),
    Index(None, "number"),
)

feedback = Table(
    "feedback",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("answer_id", ForeignKey("answers.id", ondelete="CASCADE"), nullable=False),
    Column("created", DateTime(timezone=True), nullable=False),
    Column("better", String(40)),
    Column("thumb", String(8)),
    Column("helpfulness", Float),
    Column("correctness", Float),
    Column("coherence", Float),
    Column("complexity", Float),
    Column("verbosity", Float),
    Column("corrected", Text),
    Column("comment", Text),
    Index(None, "answer_id"),
)

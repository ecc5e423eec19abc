"""Where answers are kept: one class over SQLAlchemy Core; databases differ by URL."""

from app.store.answers import AnswerStore

__all__ = ["AnswerStore"]

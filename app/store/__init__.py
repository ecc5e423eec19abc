"""Where answers are kept: one class over SQLAlchemy Core; databases differ by URL."""

from app.store.answers import AnswerStore
from app.store.search import Filter

__all__ = ["AnswerStore", "Filter"]

"""The HTTP service. `create_app(settings)` is all there is to import."""

from app.api.app import create_app

__all__ = ["create_app"]

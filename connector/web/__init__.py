"""The endpoints and the page for people: they show, and change nothing."""

from connector.web.server import StatusSource, Web

__all__ = ["StatusSource", "Web"]

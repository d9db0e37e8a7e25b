"""HTTP endpoints and the page for people. They show state and change nothing."""

from connector.web.server import StatusSource, Web

__all__ = ["StatusSource", "Web"]

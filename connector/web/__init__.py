"""HTTP endpoints and the web page of a worker. They show the worker's state and never change it."""

from connector.web.server import StatusSource, Web

__all__ = ["StatusSource", "Web"]

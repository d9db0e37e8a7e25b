"""Graph over HTTPS that sends the responses that a test chooses."""

import base64
import json
import ssl
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

from connector.simulator import certificates


class HostileGraph:
    """Server that answers each tenant, identified by its token, with a function of that tenant."""

    def __init__(
        self,
        attacks: dict[str, Callable[["HostileGraph", BaseHTTPRequestHandler], None]],
        otherwise: Callable[["HostileGraph", BaseHTTPRequestHandler], None],
    ) -> None:
        self.asked: Counter[str] = Counter()
        "Number of requests by tenant."
        hostile = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                claims = self.headers["Authorization"].split(".")[1]
                tenant = json.loads(base64.urlsafe_b64decode(claims + "=="))["tid"]
                hostile.asked[tenant] += 1
                try:
                    attacks.get(tenant, otherwise)(hostile, self)
                except (ConnectionError, ssl.SSLError):
                    self.close_connection = True

            def log_message(self, *_: Any) -> None: ...

        authority, context = certificates.make(["localhost"])
        self.authority = authority
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True, do_handshake_on_connect=False)
        self.url = f"https://localhost:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()


def send(handler: BaseHTTPRequestHandler, body: bytes, *, length: int | None = None, encoding: str = "") -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(body) if length is None else length))
    if encoding:
        handler.send_header("Content-Encoding", encoding)
    handler.end_headers()
    handler.wfile.write(body)

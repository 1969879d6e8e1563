"""A threaded HTTP server on loopback, and the JSON handler that every embedded server shares."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

Answer = tuple[int, dict[str, str]]
Action = Callable[[dict[str, str]], Answer]

_LARGEST_BODY = 64 * 1024
_NOT_FOUND: Answer = (404, {"error": "no such path"})
_BAD_BODY: Answer = (400, {"error": "the body must be a JSON object of texts, up to 64 KiB"})


class Server:
    """Serves actions in the background while its context lasts, on a free port."""

    def __init__(
        self,
        routes: dict[str, Action],
        port: int = 0,
        handler: type[JsonHandler] | None = None,
    ) -> None:
        """``routes``: "METHOD /path" → the action that answers the request's JSON object.

        ``handler`` replaces :class:`JsonHandler`.
        """
        handler = type("Handler", (handler or JsonHandler,), {"routes": routes})
        self._server = _QuietServer(("127.0.0.1", port), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, daemon=True, args=(0.02,)
        )
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors: clients may disconnect."""


class JsonHandler(BaseHTTPRequestHandler):
    """Answers a JSON object of strings with another one, by the server's routes."""

    routes: ClassVar[dict[str, Action]]
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.respond(b"{}")

    def do_POST(self) -> None:
        data = self._body()
        if data is None:
            self.close_connection = True
            self.send(*_BAD_BODY)
        else:
            self.respond(data)

    do_PATCH = do_PUT = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Log nothing: stderr is for the build."""

    def respond(self, data: bytes) -> None:
        """Answer the request that has the body ``data``."""
        self.send(*self.answer(data))

    def answer(self, data: bytes) -> Answer:
        """Return the routes' answer."""
        action = self.routes.get(f"{self.command} {self.path}")
        if action is None:
            return _NOT_FOUND
        body = _texts(data)
        if body is None:
            return _BAD_BODY
        try:
            return action(body)
        except KeyError as missing:
            return 400, {"error": f"the field {missing} is missing"}

    def send(
        self, status: int, body: Mapping[str, Any] | bytes, headers: Mapping[str, str] | None = None
    ) -> None:
        """Send an answer, as JSON or as the given bytes."""
        payload = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _body(self) -> bytes | None:
        try:
            length = int(
                self.headers.get("Content-Length", "none")
            )  # chunked bodies are not supported
        except ValueError:
            return None
        return self.rfile.read(length) if 0 <= length <= _LARGEST_BODY else None


def _texts(data: bytes) -> dict[str, str] | None:
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(body, dict) or not all(isinstance(v, str) for v in body.values()):
        return None
    return body

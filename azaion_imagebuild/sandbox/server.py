"""A threaded HTTP server on loopback, and the JSON handler that both embedded servers share."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, ClassVar

Answer = tuple[int, dict[str, str]]
Action = Callable[[dict[str, str]], Answer]

_LARGEST_BODY = 64 * 1024
_NOT_FOUND: Answer = (404, {"error": "no such path"})


class Server:
    """Serves actions in the background while its context lasts, on a port of its own choice."""

    def __init__(self, routes: dict[str, Action], port: int = 0) -> None:
        """``routes``: "METHOD /path" → what answers the request's JSON object."""
        handler = type("Handler", (_JsonHandler,), {"routes": routes})
        self._server = _QuietServer(("127.0.0.1", port), handler)
        self._thread = threading.Thread(
            target=self._server.serve_forever, daemon=True, args=(0.05,)
        )
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Server:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away is no news."""


class _JsonHandler(BaseHTTPRequestHandler):
    routes: ClassVar[dict[str, Action]]
    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._route({})

    def do_POST(self) -> None:
        self._route(self._body())

    do_PATCH = do_PUT = do_POST

    def log_message(self, format: str, *args: Any) -> None:
        """Stay silent: the story on stderr is the build's."""

    def _route(self, body: dict[str, str] | None) -> None:
        action = self.routes.get(f"{self.command} {self.path}")
        if action is None:
            self._answer(*_NOT_FOUND)
        elif body is None:
            self.close_connection = True
            self._answer(400, {"error": "the body must be a JSON object of texts, up to 64 KiB"})
        else:
            try:
                self._answer(*action(body))
            except KeyError as missing:
                self._answer(400, {"error": f"the field {missing} is missing"})

    def _body(self) -> dict[str, str] | None:
        try:
            length = int(self.headers.get("Content-Length") or 0)
            if not 0 <= length <= _LARGEST_BODY:
                return None
            body = json.loads(self.rfile.read(length))
        except ValueError:
            return None
        if not isinstance(body, dict) or not all(isinstance(v, str) for v in body.values()):
            return None
        return body

    def _answer(self, status: int, body: dict[str, str]) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

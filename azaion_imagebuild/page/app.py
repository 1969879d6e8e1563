"""The page's HTTP: the page, its events, a scan, and the door."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..settings import Settings
from . import view
from .doors import HEADERS, Doors
from .link import Link
from .state import PARTS, State

MOST_STREAMS = 256
LONGEST_BODY = 4096
_PAUSE = 0.05  # seconds in which changes are collected, to be sent together
_PULSE = 5.0  # seconds after which a page hears from us, whatever happens
_SIGN_IN = (
    "This page is opened by a link that azaion-imagebuild page prints on its terminal.\n"
    "Each link works once; the next one is printed when it was used.\n"
)


class Hub:
    """The browsers that listen: each has the names of the parts that it was not sent yet."""

    def __init__(self) -> None:
        self._unsent: dict[asyncio.Event, set[str]] = {}

    def __len__(self) -> int:
        return len(self._unsent)

    def changed(self, parts: set[str]) -> None:
        """Note for every browser that these parts have changed."""
        if parts:
            for event, unsent in self._unsent.items():
                unsent |= parts
                event.set()

    @contextlib.contextmanager
    def listening(self) -> Iterator[tuple[asyncio.Event, set[str]]]:
        """Yield what is set by a change, and the changed parts; all of them at first."""
        event, unsent = asyncio.Event(), set(PARTS)
        event.set()
        self._unsent[event] = unsent
        try:
            yield event, unsent
        finally:
            del self._unsent[event]


def app_of(settings: Settings, doors: Doors) -> ASGIApp:
    """Return the application of the page, whose requests pass ``doors`` first."""
    state, hub = State(), Hub()
    link = Link(settings, state, hub.changed)

    @contextlib.asynccontextmanager
    async def linked(app: Starlette) -> AsyncIterator[None]:
        following = asyncio.create_task(link.go_on())
        try:
            yield
        finally:
            following.cancel()

    async def page(request: Request) -> Response:
        token = doors.token_of(request.cookies.get(doors.cookie)) or ""
        return Response(view.whole(state, token), media_type="text/html")

    async def events(request: Request) -> Response:
        if len(hub) >= MOST_STREAMS:
            return PlainTextResponse("too many pages are open\n", 503)
        return StreamingResponse(_stream(state, hub), media_type="text/event-stream")

    async def scan(request: Request) -> Response:
        token = request.headers.get("x-csrf-token", "")
        if not doors.is_token(request.cookies.get(doors.cookie), token):
            return PlainTextResponse("reload the page, then scan again\n", 403)
        serial = await _serial(request)
        if serial is None:
            return PlainTextResponse("not a scan\n", 400)
        answer = await link.scan(serial)
        hub.changed(state.apply({**answer, "event": "scanned"}))
        shown = {name: answer.get(name) for name in ("answer", "message", "hint", "serial", "lane")}
        return Response(json.dumps(shown | {"parts": [_part(state, "answer")]}),
                        media_type="application/json")  # fmt: skip

    async def login(request: Request) -> Response:
        key = parse_qs(request.url.query).get("key", [""])[0]
        session = doors.enter(key) if request.method == "GET" else None
        if session is None:
            return PlainTextResponse(f"This link was used, or is not valid.\n{_SIGN_IN}", 403)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(doors.cookie, session, httponly=True, samesite="strict",
                          secure=doors.scheme == "https")  # fmt: skip
        return answer

    async def favicon(request: Request) -> Response:
        return Response(status_code=204)

    def static(name: str, kind: str) -> Route:
        async def file(request: Request) -> Response:
            return Response(view.static(name), media_type=kind)

        return Route(f"/{name}", file)

    routes = [
        Route("/", page), Route("/events", events), Route("/login", login),
        Route("/scan", scan, methods=["POST"]),
        Route("/favicon.ico", favicon),
        static("page.js", "text/javascript"), static("page.css", "text/css"),
    ]  # fmt: skip
    return Guarded(Starlette(routes=routes, lifespan=linked), doors)


class Guarded:
    """Refuses what does not come from the page itself, and whoever has not come by a link."""

    def __init__(self, app: ASGIApp, doors: Doors) -> None:
        self._app = app
        self._doors = doors

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request; every answer has our headers."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def sent(message: Message) -> None:
            if message["type"] == "http.response.start":
                ours = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                message = {**message, "headers": [*message["headers"], *ours]}
            await send(message)

        app = self._refusal(Request(scope)) or self._app
        with contextlib.suppress(ClientDisconnect):
            await app(scope, receive, sent)

    def _refusal(self, request: Request) -> Response | None:
        host = request.headers.get("host", "")
        origin = request.headers.get("origin")
        if not self._doors.is_host(host):
            return PlainTextResponse("this page has another address\n", 421)
        if origin is None and request.method not in ("GET", "HEAD"):
            return PlainTextResponse("only the page itself may ask this\n", 403)
        if origin is not None and not self._doors.is_origin(origin, host):
            return PlainTextResponse("only the page itself may ask this\n", 403)
        if request.headers.get("sec-fetch-site", "none") not in ("same-origin", "none"):
            return PlainTextResponse("only the page itself may ask this\n", 403)
        session = request.cookies.get(self._doors.cookie)
        if request.url.path != "/login" and self._doors.token_of(session) is None:
            return PlainTextResponse(_SIGN_IN, 401)
        return None


async def _serial(request: Request) -> str | None:
    """Return what was scanned; None: the request is not a scan."""
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > LONGEST_BODY:
            return None
    try:
        asked = json.loads(body)
    except (ValueError, RecursionError):
        return None
    serial = asked.get("serial") if isinstance(asked, dict) else None
    return serial if isinstance(serial, str) else None


async def _stream(state: State, hub: Hub) -> AsyncIterator[str]:
    """Yield what has changed; a browser that is slow gets the last state of each part only."""
    with hub.listening() as (event, unsent):
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(event.wait(), _PULSE)
            await asyncio.sleep(_PAUSE if unsent else 0)
            event.clear()
            parts = [_part(state, name) for name in sorted(unsent)]
            unsent.clear()
            yield f"data: {json.dumps(parts)}\n\n"


def _part(state: State, name: str) -> dict[str, str]:
    return {"id": name, "html": view.part(state, name)}

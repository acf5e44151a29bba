"""The page's routes. All but the health checks and the style need a login; all are read-only.

Slow handlers (scrypt, the statistics' file) run in worker threads. Text from a device is escaped when it becomes
HTML, and live updates set text, never markup.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    HTMLResponse,
    PlainTextResponse,
    RedirectResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Route

from cloud_server.config import StatisticsTable, WebTable
from cloud_server.fleet.overview import Overview
from cloud_server.web import device_page, pages, password, statistics_page
from cloud_server.web.guard import Guard
from cloud_server.web.logins import SESSION_S, Logins
from cloud_server.web.metrics import CONTENT_TYPE_LATEST, Metrics
from split_model.errors import SplitModelError

_log = logging.getLogger(__name__)

COOKIE = "cloud-server-session"
_STATIC = Path(__file__).parent / "static"
_FILES = {"style.css": "text/css", "live.js": "text/javascript"}
#: Seconds between two updates of a live page.
_UPDATE_S = 2.0
_MOST_STREAMS = 16
_MOST_FORM_BYTES = 8192
#: Age of the status in seconds that shows that the gateway's loop is stuck.
_FRESH_S = 5.0
_WRONG = "That is not the password."
_SLOW = "Too many attempts. Wait a minute."

Handler = Callable[[Request], Any]


class App:
    """The shared state of the handlers."""

    def __init__(
        self,
        table: WebTable,
        overview: Overview,
        *,
        statistics: StatisticsTable | None,
        clock: Callable[[], float],
    ) -> None:
        self._table = table
        self._overview = overview
        self._statistics = statistics
        self._clock = clock
        self._logins = Logins()
        self._metrics = Metrics(overview)
        self._checking = asyncio.Lock()  # one scrypt at a time
        self._streams = 0

    def routes(self) -> list[Route]:
        """All routes; each answers only GET and HEAD, except for logging in and out."""
        return [
            Route("/", self._within(self._devices)),
            Route("/devices/{name}", self._within(self._device)),
            Route("/server", self._within(self._server)),
            Route("/statistics", self._within(self._counted)),
            Route("/bundles", self._within(self._bundles)),
            Route("/events", self._within(self._events)),
            Route("/login", self._login_page, methods=["GET"]),
            Route("/login", self._login, methods=["POST"]),
            Route("/logout", self._logout, methods=["POST"]),
            Route("/metrics", self._scrape),
            Route("/healthz", self._health),
            Route("/readyz", self._ready),
            Route("/static/{name}", _static),
        ]

    # Logging in.

    def _within(self, handler: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            if not await self._is_in(request):
                return RedirectResponse("/login", status_code=303)
            answer: Response = await handler(request)
            return answer

        return guarded

    async def _is_in(self, request: Request) -> bool:
        token = request.cookies.get(COOKIE, "")
        if not token:
            return False
        try:
            self._logins.heed(await asyncio.to_thread(password.read, self._table.password))
        except SplitModelError:
            return False
        return self._logins.is_in(token, self._clock())

    async def _login_page(self, _: Request) -> Response:
        return HTMLResponse(pages.login())

    async def _login(self, request: Request) -> Response:
        given = await _form_password(request)
        async with self._checking:
            if not self._logins.may_try(self._clock()):
                return HTMLResponse(pages.login(_SLOW), status_code=429)
            try:
                stored = await asyncio.to_thread(password.read, self._table.password)
            except SplitModelError as error:
                _log.warning("the page: %s", error)
                return HTMLResponse(pages.login(f"{error.remedy} (on the server)"), status_code=503)
            if not await asyncio.to_thread(password.is_right, given, stored):
                return HTMLResponse(pages.login(_WRONG), status_code=403)
        answer = RedirectResponse("/", status_code=303)
        answer.set_cookie(
            COOKIE,
            self._logins.begin(stored, self._clock()),
            max_age=int(SESSION_S),
            httponly=True,
            samesite="strict",
            secure=self._table.has_tls,
        )
        return answer

    async def _logout(self, request: Request) -> Response:
        self._logins.end(request.cookies.get(COOKIE, ""))
        answer = RedirectResponse("/login", status_code=303)
        answer.delete_cookie(COOKIE)
        return answer

    # Pages.

    async def _devices(self, _: Request) -> Response:
        return HTMLResponse(pages.devices(self._overview.rows()))

    async def _device(self, request: Request) -> Response:
        found = self._overview.device(request.path_params["name"])
        if found is None:
            return HTMLResponse(pages.not_found(), status_code=404)
        return HTMLResponse(device_page.page(*found, now_s=self._overview.now_s))

    async def _server(self, _: Request) -> Response:
        return HTMLResponse(pages.server(self._overview.status, self._overview.times.tails()))

    async def _bundles(self, _: Request) -> Response:
        return HTMLResponse(pages.bundles(self._overview.bundles, self._overview.rows()))

    async def _counted(self, _: Request) -> Response:
        return HTMLResponse(await asyncio.to_thread(statistics_page.page, self._statistics))

    # Live updates.

    async def _events(self, request: Request) -> Response:
        if self._streams >= _MOST_STREAMS:
            return PlainTextResponse("too many live pages; reload to see newer figures\n", status_code=503)
        name = request.query_params.get("device")
        kind = request.query_params.get("page", "devices")
        return StreamingResponse(
            self._stream(request, lambda: self._live(kind, name)), media_type="text/event-stream"
        )

    def _live(self, kind: str, name: str | None) -> dict[str, str]:
        if kind == "server":
            return pages.server_live(self._overview.status)
        if kind == "device":
            found = None if name is None else self._overview.device(name)
            return {} if found is None else device_page.live(*found)
        return pages.devices_live(self._overview.rows())

    async def _stream(self, request: Request, told: Callable[[], dict[str, str]]) -> AsyncIterator[str]:
        self._streams += 1
        try:
            before: dict[str, str] | None = None
            while not await request.is_disconnected() and await self._is_in(request):
                now = told()
                changed = now if before is None else {k: v for k, v in now.items() if before.get(k) != v}
                if before is not None and before.keys() != now.keys():
                    yield "event: reload\ndata: {}\n\n"  # the devices changed: the browser reloads the page
                    return
                yield f"data: {json.dumps(changed)}\n\n" if changed else ": nothing new\n\n"
                before = now
                await asyncio.sleep(_UPDATE_S)
        finally:
            self._streams -= 1

    # For programs.

    async def _scrape(self, request: Request) -> Response:
        if not await self._is_scraper(request) and not await self._is_in(request):
            return PlainTextResponse("log in, or send the token of web.metrics_token\n", status_code=401)
        return Response(await asyncio.to_thread(self._metrics.render), media_type=CONTENT_TYPE_LATEST)

    async def _is_scraper(self, request: Request) -> bool:
        kind, _, given = request.headers.get("authorization", "").partition(" ")
        if self._table.metrics_token is None or kind.lower() != "bearer" or not given:
            return False
        try:
            wanted = await asyncio.to_thread(password.read, self._table.metrics_token, make="web token")
        except SplitModelError as error:
            _log.warning("metrics: %s", error)
            return False
        return bool(wanted.strip()) and hmac.compare_digest(wanted.strip(), given.strip().encode())

    async def _health(self, _: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def _ready(self, _: Request) -> Response:
        status = self._overview.status
        ready = status is not None and status.state in ("running", "reloading")
        return PlainTextResponse("ready\n" if ready else "not ready\n", status_code=200 if ready else 503)


async def _form_password(request: Request) -> str:
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _MOST_FORM_BYTES:
            return ""
    return parse_qs(body.decode("utf-8", "replace"), max_num_fields=4).get("password", [""])[0]


async def _static(request: Request) -> Response:
    kind = _FILES.get(request.path_params["name"])
    if kind is None:
        return PlainTextResponse("not found\n", status_code=404)
    return FileResponse(_STATIC / request.path_params["name"], media_type=kind)


def make_app(
    table: WebTable,
    overview: Overview,
    *,
    statistics: StatisticsTable | None,
    clock: Callable[[], float],
) -> Guard:
    """Return the web application with its access checks.

    Args:
        table: ``[web]``.
        overview: The view of fleet and server.
        statistics: ``[statistics]``, for the page of that name.
        clock: Monotonic seconds, for sessions.

    """
    app = App(table, overview, statistics=statistics, clock=clock)
    return Guard(Starlette(routes=app.routes()), hosts=(table.address[0], *table.hosts))

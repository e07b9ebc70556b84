"""Who may ask, and how much: decided before anything of a request is read.

A page of another site can make a browser send requests to a server on loopback, and open WebSockets to it, without any
CORS. So the name in Host must be this server's (else a foreign name could be made to point here), and a browser's
Origin must be this server's page.
"""

from __future__ import annotations

import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from twistlm.serve.limits import Limits

KEY = "openai-insecure-api-key."  # before a token among WebSocket subprotocols, as OpenAI's clients send it
_ADDRESSES = 10_000  # whose requests are counted, at most

_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; media-src 'self' blob:; worker-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "permissions-policy": "microphone=(self), camera=(), geolocation=()",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}


class Guard:
    """Refuses what must not reach the application, and sets the headers of every answer."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        hosts: frozenset[str] | None,
        token: str | None,
        limits: Limits,
        answered: Callable[[int], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Wrap an application.

        Args:
            app: the application.
            hosts: names this server goes by, without ports; None: any (then a token is needed).
            token: that /v1 and /metrics ask for; None asks for none.
            limits: how much one address may ask.
            answered: is told the status of every answer.
            clock: seconds.
        """
        self.app, self.hosts, self.token, self.limits, self.clock = app, hosts, token, limits, clock
        self.answered = answered
        self.open = 0
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> requests left, as of when

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        refused = self._refused(scope)
        if refused is not None:
            await self._refuse(scope, receive, send, *refused)
            return
        self.open += 1
        try:
            await self.app(scope, receive, self._watched(send))
        finally:
            self.open -= 1

    def _refused(self, scope: Scope) -> tuple[HTTPStatus, str, dict[str, str]] | None:
        headers, path = Headers(scope=scope), scope["path"]
        host = headers.get("host", "")
        if self.hosts is not None and _name(host) not in self.hosts:
            return HTTPStatus.MISDIRECTED_REQUEST, f"this server is not called {host[:100]!r}.", {}
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != host:
            return HTTPStatus.FORBIDDEN, "pages of other sites may not use this server.", {}
        if not path.startswith(("/v1", "/metrics")):
            return self._full()
        if self.token is not None and not self._knows(_token(headers)):
            challenge = {"www-authenticate": "Bearer"}
            return HTTPStatus.UNAUTHORIZED, "a token is needed: Authorization: Bearer TOKEN.", challenge
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD", "OPTIONS"):
            return self._full()
        return self._too_many(scope) or self._full()

    def _knows(self, token: str) -> bool:
        return bool(token) and secrets.compare_digest(token.encode(), (self.token or "").encode())

    def _full(self) -> tuple[HTTPStatus, str, dict[str, str]] | None:
        if self.open < self.limits.connections:
            return None
        return HTTPStatus.SERVICE_UNAVAILABLE, "as many connections are open as may.", {"retry-after": "5"}

    def _too_many(self, scope: Scope) -> tuple[HTTPStatus, str, dict[str, str]] | None:
        """Count a request: each address has so many a minute, and may save up as many."""
        per_minute = self.limits.requests_per_minute
        if not per_minute:
            return None
        address, now = (scope.get("client") or ("", 0))[0], self.clock()
        left, then = self._left.pop(address, (float(per_minute), now))
        left = min(float(per_minute), left + (now - then) * per_minute / 60)
        allowed = left >= 1
        self._left[address] = (left - 1 if allowed else left, now)
        if len(self._left) > _ADDRESSES:
            self._left.popitem(last=False)
        if allowed:
            return None
        wait = {"retry-after": str(max(1, round((1 - left) * 60 / per_minute)))}
        return HTTPStatus.TOO_MANY_REQUESTS, f"more than {per_minute} requests a minute.", wait

    async def _refuse(
        self, scope: Scope, receive: Receive, send: Send, status: HTTPStatus, why: str, headers: dict[str, str]
    ) -> None:
        if scope["type"] == "websocket" and "websocket.http.response" not in scope.get("extensions", {}):
            await send({"type": "websocket.close", "code": 1008, "reason": why})
            return
        answer = JSONResponse(problem(why, code=status.phrase.lower().replace(" ", "_")), status, headers)
        await answer(scope, receive, self._watched(send))

    def _watched(self, send: Send) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                self.answered(message["status"])
            await send(message)

        return sending


def problem(message: str, *, code: str, param: str | None = None, ours: bool = False) -> dict[str, object]:
    """Return an error as OpenAI's API words them. `ours`: the server's state is why, not what was asked."""
    kind = "server_error" if ours else "invalid_request_error"
    return {"error": {"type": kind, "code": code, "message": message, "param": param}}


def _name(host: str) -> str:
    """Return a host without its port: "[::1]:80" is "::1"."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()


def _token(headers: Headers) -> str:
    kind, _, token = headers.get("authorization", "").partition(" ")
    if kind.lower() == "bearer":
        return token.strip()
    offered = [part.strip() for part in headers.get("sec-websocket-protocol", "").split(",")]
    return next((part.removeprefix(KEY) for part in offered if part.startswith(KEY)), "")

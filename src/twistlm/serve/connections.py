"""How uvicorn serves the application: what a connection may cost on which no request has come, or that takes no answer.

The application's own limits begin with a request. A client that never sends a whole one is let go here, and one that
takes nothing of what it is sent by the kernel, since whatever waits for it sits in the kernel's buffers.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections.abc import Callable
from typing import Any

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from twistlm.serve.limits import Limits
from twistlm.serve.studio import Studio

TOLD_SECONDS = 3.0  # that clients have to take the end of what was being made when the server stops


def configured(app: ASGIApp, limits: Limits, **more: Any) -> uvicorn.Config:
    """Return how uvicorn is to serve `app`; `more` is of `uvicorn.Config`."""
    _quieten()
    return uvicorn.Config(
        app,
        http=_heads_within(limits.head_seconds),
        ws="websockets-sansio",
        ws_max_size=4 * limits.upload_bytes // 3 + 100_000,
        ws_max_queue=4,
        log_level="warning",
        access_log=False,
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=3,
        **more,
    )


class StudioServer(uvicorn.Server):
    """Serves a studio's application: who is being served when it stops is told so, and what is kept is kept.

    Raises:
        TwistError: from `run`, the studio could not be made ready.
    """

    def __init__(self, config: uvicorn.Config, studio: Studio, *, ready: Callable[[], None] | None = None) -> None:
        """Take how, and what; `ready` is called when it answers."""
        super().__init__(config)
        self._studio, self._ready = studio, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self._studio.failed is not None:
            self.should_exit = True
        elif self.started and self._ready is not None:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()  # nobody new
        self._studio.stopping.set()
        await asyncio.to_thread(self._studio.engine.close)  # everyone's continuation ends; here they hear of it
        until = time.monotonic() + TOLD_SECONDS
        while self._studio.telling and time.monotonic() < until:
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)

    def run(self, sockets: list[socket.socket] | None = None) -> None:
        super().run(sockets)
        if self._studio.failed is not None:
            raise self._studio.failed


def give_up_on_the_deaf(listening: socket.socket, seconds: float) -> None:
    """Have the kernel (of Linux) end connections of this socket whose other side takes nothing for so long."""
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * seconds))


def _heads_within(seconds: float) -> type[asyncio.Protocol]:
    class Heads(H11Protocol):
        """HTTP/1.1 on one connection, which is closed when the next request's head does not come in time."""

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            self.loop.call_later(seconds, self._late, self.cycle)

        def on_response_complete(self) -> None:
            answered = self.cycle
            self.loop.call_later(seconds, self._late, answered)
            super().on_response_complete()

        def _late(self, before: object) -> None:
            # A WebSocket's connection has another protocol by now.
            if self.cycle is before and self.transport.get_protocol() is self:
                self.transport.close()

    return Heads


def _quieten() -> None:
    """Keep out of the log what clients are told themselves, and the traceback of text that is no UTF-8."""
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)
    logging.getLogger("uvicorn.error").addFilter(_without_their_traceback)


def _without_their_traceback(record: logging.LogRecord) -> bool:
    if record.exc_info and isinstance(record.exc_info[1], UnicodeDecodeError) and "from client" in record.msg:
        record.exc_info = None
    return True

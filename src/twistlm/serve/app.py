"""The application: routes, errors in one form, the page, what starts and stops with it."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.responses import Response as Answer
from starlette.types import ASGIApp

import twistlm
from twistlm.errors import TwistError
from twistlm.serve import http, realtime
from twistlm.serve.engine import Busy
from twistlm.serve.guard import Guard, problem
from twistlm.serve.studio import Studio

_FILES = {  # what the page loads, and as what
    "page.js": "text/javascript",
    "settings.js": "text/javascript",
    "takes.js": "text/javascript",
    "sound.js": "text/javascript",
    "drawing.js": "text/javascript",
    "worklets.js": "text/javascript",
    "style.css": "text/css",
}
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def make_app(studio: Studio, *, hosts: frozenset[str] | None = LOOPBACK, token: str | None = None) -> ASGIApp:
    """Return an ASGI application that serves a studio's models; the studio starts and stops with it.

    Args:
        studio: the models, and what callers may ask of them; in its `failed` stands why it could not be made ready.
        hosts: names the server goes by; None: any.
        token: what callers must know; None: nothing.
    """

    @asynccontextmanager
    async def living(_app: FastAPI) -> AsyncIterator[None]:
        studio.engine.start()
        try:
            try:
                studio.rehearse()
            except TwistError as error:
                studio.failed = error  # `connections.StudioServer` raises it; uvicorn would print where it was raised
            yield
        finally:
            studio.close()

    app = FastAPI(
        title="twistlm",
        version=twistlm.__version__,
        description="Continue recordings with a speech language model. The WebSocket is /v1/realtime: docs/serving.md.",
        docs_url=None,  # they would load scripts from elsewhere
        redoc_url=None,
        lifespan=living,
    )
    app.state.studio = studio
    app.include_router(http.router)
    app.include_router(realtime.router)
    app.add_exception_handler(TwistError, _twist_error)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _validation_error)
    _add_pages(app, needs_token=token is not None)

    return Guard(app, hosts=hosts, token=token, limits=studio.limits, answered=studio.metrics.answered)


def _add_pages(app: FastAPI, *, needs_token: bool) -> None:
    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(_rendered("page.html", needs_token=needs_token))

    @app.get("/docs", include_in_schema=False)
    async def api() -> HTMLResponse:
        return HTMLResponse(_rendered("api.html", schema=app.openapi()))

    @app.get("/page/{name}", include_in_schema=False)
    async def file(name: str) -> Answer:
        if name not in _FILES:
            raise HTTPException(404, "there is no such file.")
        return Answer(_file(name), media_type=_FILES[name])


@functools.cache
def _file(name: str) -> bytes:
    return resources.files("twistlm.serve").joinpath("page", name).read_bytes()


def _rendered(name: str, **values: object) -> str:
    return _templates().get_template(name).render(values)


@functools.cache
def _templates() -> Environment:
    return Environment(
        loader=PackageLoader("twistlm.serve", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


async def _twist_error(_request: Request, error: Exception) -> JSONResponse:
    if isinstance(error, TwistError) and error.exit_code == 2:
        return JSONResponse(problem(str(error), code="bad_input"), 400)
    return JSONResponse(
        problem(str(error), code="busy" if isinstance(error, Busy) else "failed", ours=True), 503, http.AGAIN
    )


async def _http_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    told = problem(str(error.detail), code=f"http_{error.status_code}", ours=error.status_code >= 500)
    return JSONResponse(told, error.status_code, error.headers)


async def _validation_error(_request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("query", "body"))
    return JSONResponse(problem(f"{where}: {first['msg']}", code="invalid_value", param=where), 422)

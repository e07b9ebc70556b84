"""The pages of a study over HTTP. What a rater may know is decided in `flow`; this file only passes it on.

Every rater has a secret link, /s/TOKEN. Clips are asked for by their place in the rater's own list, never by a name,
are all of one size, and are never stored by anything on the way. The owner's pages want the owner's token.
"""

from __future__ import annotations

import hmac
import secrets
import sqlite3
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import parse_qs

from twistlm.errors import BadInput, TwistError
from twistlm.listen.flow import Flow, Refused
from twistlm.listen.ratings import answers_csv
from twistlm.listen.recruiting import arrival, external_question
from twistlm.listen.store import Answer
from twistlm.listen.study import ANSWERS
from twistlm.pages.rendering import render

try:
    from fastapi import Body, Cookie, FastAPI, Header, Query, Request
    from fastapi.exceptions import RequestValidationError
    from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, RedirectResponse, Response
    from starlette.requests import ClientDisconnect
except ImportError as error:
    raise TwistError("studies are served by FastAPI and uvicorn: pip install 'twistlm[listen]'.") from error

if TYPE_CHECKING:
    from twistlm.listen.texts import Texts

MOST_BODY = 4096  # bytes of an answer
_WORD = "^[A-Za-z0-9 ]*$"
_STATIC = Path(__file__).parent / "static"
_SCRIPTS = {"rate.js": "text/javascript", "rate.css": "text/css"}
_TURK = "https://*.mturk.com https://*.mturkcontent.com"

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


def make_app(flow: Flow, *, owner: str, public_url: str) -> FastAPI:
    """Return the application that serves a study.

    Args:
        flow: the study and where its answers go.
        owner: the owner's token.
        public_url: where raters reach it, for links.
    """
    app = FastAPI(title="twist listen", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_Guard, framed=flow.recruiting.platform == "mturk", secure=public_url.startswith("https://"))
    first = next(iter(flow.texts))

    def page(title: str, body: Any, language: str = first, status: int = 200) -> HTMLResponse:
        return HTMLResponse(render("listen/words.html", title=title, body=body, language=language), status)

    @app.exception_handler(Refused)
    def refused(request: Request, error: Refused) -> Response:
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return page(flow.texts[first].ui["title"], str(error), status=error.status)
        return JSONResponse({"error": str(error)}, error.status)

    @app.exception_handler(BadInput)
    def bad_input(_: Request, error: BadInput) -> Response:
        return page(flow.texts[first].ui["title"], str(error), status=400)

    @app.exception_handler(RequestValidationError)
    def not_understood(_: Request, error: RequestValidationError) -> Response:
        names = ", ".join(str(one["loc"][-1]) for one in error.errors()[:5])
        return JSONResponse({"error": f"not understood: {names!a}."}, 422)  # what was sent is not sent back

    @app.exception_handler(sqlite3.OperationalError)
    def not_written(_: Request, error: sqlite3.OperationalError) -> Response:
        return JSONResponse({"error": f"could not be saved just now ({error}); try again."}, 503)

    @app.get("/")
    def enter(request: Request) -> Response:
        """Somebody comes. By an open link a session begins with a click: a mere look at the address makes none."""
        if flow.recruiting.platform == "open":
            return HTMLResponse(render("listen/open.html", texts=_spoken(flow, request)))
        came = arrival(flow.recruiting, dict(request.query_params))
        if came is None:
            texts = _spoken(flow, request)
            return page(texts.ui["title"], texts.sections["consent"], texts.code)
        return go(flow.recruiting.platform, _spoken(flow, request).code, vars(came))

    @app.post("/open")
    def begin(request: Request) -> Response:
        if flow.recruiting.platform != "open":
            raise Refused(404, "this study is by invitation.")
        who = {"participant": secrets.token_urlsafe(12), "study_ref": "", "session_ref": "", "return_to": ""}
        return go("open", _spoken(flow, request).code, who)

    def go(platform: str, language: str, came: dict[str, Any]) -> Response:
        session = flow.store.enter(platform, language=language, **came)
        return RedirectResponse(f"/s/{session.token}/", 303)

    @app.get("/s/{token}/")
    def rater(token: str, lang: Annotated[str, Query(max_length=8)] = "") -> Response:
        if lang:
            flow.speak(token, lang)
        texts = flow.texts[flow.session(token).language]
        others = [(other.code, other.language) for other in flow.texts.values() if other.code != texts.code]
        told = {
            "design": flow.study.design,
            "answers": list(flow.study.answers),
            "labels": list(texts.labels),
            "ask": texts.ask,
            "more": texts.more,
            "ui": dict(texts.ui),
        }
        return HTMLResponse(render("listen/rate.html", texts=texts, others=others, told=told))

    @app.get("/s/{token}/state")
    def state(token: str) -> Any:
        return flow.state(token)

    @app.post("/s/{token}/consent")
    def consent(
        token: str,
        agrees: Annotated[bool, Body()],
        device: Annotated[str, Body(max_length=16, pattern=_WORD)] = "",
        hearing: Annotated[str, Body(max_length=16, pattern=_WORD)] = "",
    ) -> Any:
        flow.consent(token, agrees=agrees, device=device, hearing=hearing)
        return flow.state(token)

    @app.post("/s/{token}/check")
    def check(
        token: str,
        kind: Annotated[str, Body(max_length=16, pattern=_WORD)],
        attempt: Annotated[int, Body(ge=0, le=9)],
        number: Annotated[int, Body(ge=0, le=99)],
        answer: Annotated[str, Body(max_length=16, pattern=_WORD)],
    ) -> Any:
        flow.check(token, kind, attempt=attempt, number=number, answer=answer)
        return flow.state(token)

    @app.post("/s/{token}/answer")
    def answer(
        token: str,
        position: Annotated[int, Body(ge=0, le=9999)],
        value: Annotated[int, Body(ge=-9, le=100)],
        plays: Annotated[int, Body(ge=0, le=9999)],
        heard: Annotated[float, Body(ge=0, le=1e6)],
        took: Annotated[float, Body(ge=0, le=1e7)],
    ) -> Any:
        flow.answer(token, Answer(position, value, plays, heard, took))
        return {"saved": True}

    @app.get("/s/{token}/clip/{position}/{side}")
    def clip(token: str, position: int, side: int) -> Response:
        return _sound(flow.clip(token, position, side))

    @app.get("/s/{token}/check/{number}")
    def check_clip(token: str, number: int) -> Response:
        return _sound(flow.check_clip(token, number))

    @app.get("/static/{name}")
    def static(name: str) -> Response:
        if name not in _SCRIPTS:
            raise Refused(404, "there is no such file.")
        return FileResponse(_STATIC / name, media_type=_SCRIPTS[name])

    @app.get("/health")
    def health() -> Any:
        return {"ok": True}

    def owns(header: str, cookie: str) -> None:
        given = header.removeprefix("Bearer ").strip() or cookie
        if not hmac.compare_digest(given.encode(), owner.encode()):
            raise Refused(401, "only who has the owner's token may see this.")

    @app.exception_handler(ClientDisconnect)  # what _Guard makes of a body that is too long
    def too_much(_: Request, __: ClientDisconnect) -> Response:
        return JSONResponse({"error": "too much at once."}, 413)

    @app.get("/owner")
    def owner_page(authorization: Annotated[str, Header()] = "", owner: Annotated[str, Cookie()] = "") -> Response:
        try:
            owns(authorization, owner)
        except Refused:
            return HTMLResponse(render("listen/owner.html", stages=None, places=0), 401)
        return HTMLResponse(
            render("listen/owner.html", stages=flow.store.stages(), places=len(flow.study.places)),
        )

    @app.post("/owner")
    async def sign_in(request: Request) -> Response:
        given = parse_qs((await request.body()).decode(errors="replace")).get("token", [""])[0]
        owns(given, "")
        response = RedirectResponse("/owner", 303)
        secure = public_url.startswith("https://")
        response.set_cookie("owner", given.strip(), httponly=True, samesite="strict", secure=secure, max_age=43_200)
        return response

    @app.get("/owner/answers.csv")
    def download(authorization: Annotated[str, Header()] = "", owner: Annotated[str, Cookie()] = "") -> Response:
        owns(authorization, owner)
        data = answers_csv(flow.study, flow.study.folder / ANSWERS)
        named = {"Content-Disposition": 'attachment; filename="answers.csv"'}
        return Response(data, media_type="text/csv", headers=named)

    @app.get("/owner/external-question.xml")
    def question(authorization: Annotated[str, Header()] = "", owner: Annotated[str, Cookie()] = "") -> Response:
        owns(authorization, owner)
        return Response(external_question(public_url), media_type="application/xml")

    return app


def _sound(path: Path) -> Response:
    """Return a whole file, with nothing in its headers that another clip's would not have."""
    return Response(path.read_bytes(), media_type="audio/wav")


def _spoken(flow: Flow, request: Request) -> Texts:
    """Return the texts in the first language that the browser asks for and the study has."""
    wanted = [one.split(";")[0].strip()[:2].lower() for one in request.headers.get("accept-language", "").split(",")]
    wanted = [request.query_params.get("lang", ""), *wanted]
    return flow.texts[next((code for code in wanted if code in flow.texts), next(iter(flow.texts)))]


class _Guard:
    """Bounds what is sent to the server, and says to browsers what pages may do: load nothing from anywhere else."""

    def __init__(self, app: Any, *, framed: bool, secure: bool) -> None:
        self.app = app
        policy = (
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; media-src blob:; "
            f"img-src data:; base-uri 'none'; form-action 'self' {_TURK if framed else ''}; "
            f"frame-ancestors {_TURK if framed else chr(39) + 'none' + chr(39)}"
        )
        headers = {
            "content-security-policy": policy,
            "referrer-policy": "no-referrer",  # a rater's link is a secret
            "x-content-type-options": "nosniff",
            "cache-control": "no-store",
            "x-robots-tag": "noindex",
        }
        if secure:
            headers["strict-transport-security"] = "max-age=31536000"
        self.headers = [(name.encode(), value.encode()) for name, value in headers.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MOST_BODY:
            await JSONResponse({"error": "too much at once."}, 413)(scope, receive, send)
            return
        came = 0

        async def bounded() -> MutableMapping[str, Any]:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > MOST_BODY:
                return {"type": "http.disconnect"}
            return message

        async def with_headers(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), *self.headers]
            await send(message)

        await self.app(scope, bounded, with_headers)

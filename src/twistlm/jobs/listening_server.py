"""Letting raters into a study: what `twist listen serve` does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from twistlm.errors import TwistError
from twistlm.files.locks import held
from twistlm.jobs.ports import bound, reachable
from twistlm.listen.flow import Flow
from twistlm.listen.recruiting import Recruiting, read_invitations
from twistlm.listen.store import Store
from twistlm.listen.study import ANSWERS, INVITATIONS, TOKEN, open_study, owner_token
from twistlm.listen.texts import read_texts


def open_flow(folder: Path, recruiting: Recruiting, *, hold_hours: float) -> Flow:
    """Return a study, checked to be whole, with its texts and its answers open.

    Raises:
        BadInput: it is not whole, or its texts cannot be used.
    """
    study = open_study(folder, whole=True)
    clips = sum(one.kind != "training" for one in study.places[0])
    texts = {
        code: read_texts(folder / "texts", code, clips=clips, minutes=study.facts["minutes"], design=study.design)
        for code in study.facts["languages"]
    }
    return Flow(study, Store(folder / ANSWERS), texts, recruiting, hold_hours * 3600)


def serve_study(
    folder: Path,
    recruiting: Recruiting,
    *,
    host: str,
    port: int,
    public_url: str,
    hold_hours: float,
    tell: Callable[[str], None],
) -> dict[str, Any]:
    """Let raters in until a signal ends it.

    Args:
        folder: the study.
        recruiting: where raters come from; for invitations, without the codes, which are the study's.
        host, port: where to listen.
        public_url: where raters reach it; "" for what host and port say.
        hold_hours: after so long without a sign of somebody, their place may go to another.
        tell: is given what to say before serving.

    Returns:
        How many sessions ended how.

    Raises:
        BadInput: as `open_flow`, or the port is taken.
        TwistError: the study is being served already.
    """
    try:
        import uvicorn
    except ImportError as error:
        raise TwistError("studies are served by FastAPI and uvicorn: pip install 'twistlm[listen]'.") from error
    from twistlm.listen.server import make_app

    open_study(folder)  # before the lock, which would make the folder
    if recruiting.platform == "invitations":
        recruiting = replace(recruiting, invitations=read_invitations(folder / INVITATIONS))
    with held(folder, "serving this study"):
        flow = open_flow(folder, recruiting, hold_hours=hold_hours)
        try:
            with bound(host, port) as listening:
                url = public_url or f"http://{reachable(host)}:{listening.getsockname()[1]}/"
                tell(_where(folder, recruiting, url))
                app = make_app(flow, owner=owner_token(folder), public_url=url)
                config = uvicorn.Config(
                    app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=75
                )  # links in an access log would let anybody who reads it go on for a rater
                with suppress(KeyboardInterrupt):  # which uvicorn raises again when it has ended
                    uvicorn.Server(config).run(sockets=[listening])
            return {"study": str(folder), "sessions": flow.store.stages()}
        finally:
            flow.store.close()


def _where(folder: Path, recruiting: Recruiting, url: str) -> str:
    base = url.rstrip("/")
    match recruiting.platform:
        case "prolific":
            query = "&".join(f"{name}={{{{%{name}%}}}}" for name in ("PROLIFIC_PID", "STUDY_ID", "SESSION_ID"))
            come = f"Prolific's study link: {base}/?{query}"
        case "mturk":
            come = f"Mechanical Turk's ExternalURL: {base}/ (whole: {base}/owner/external-question.xml)"
        case "invitations":
            come = f"an invitation: {base}/?invitation=CODE, the codes are in {folder / INVITATIONS}"
        case _:
            come = f"raters come to {base}/"
    owner = f"you see how far it is at {base}/owner, with the token in {folder / TOKEN}"
    return f"{come}\n{owner}\nCtrl-C ends it; nothing is lost"

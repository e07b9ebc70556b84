"""What `twist listen` does between the command line and the room of listening studies."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from twistlm.errors import BadInput, TwistError
from twistlm.files.atomic import atomic_folder
from twistlm.files.jsonl import read_toml
from twistlm.files.locks import held
from twistlm.listen.analysis import analyse
from twistlm.listen.exclusions import Rules
from twistlm.listen.flow import Flow
from twistlm.listen.importing import read_results
from twistlm.listen.plan import plan
from twistlm.listen.ratings import ratings_of, write_csv, write_parquet
from twistlm.listen.recruiting import Recruiting, read_invitations
from twistlm.listen.request import Request
from twistlm.listen.samples import find_samples
from twistlm.listen.store import Store
from twistlm.listen.study import ANSWERS, INVITATIONS, TOKEN, open_study, owner_token
from twistlm.listen.texts import read_texts
from twistlm.pages.listening import write_page


def plan_study(
    samples: Sequence[str],
    out: Path,
    request: Request,
    *,
    natural: Path | None,
    prompts: Path | None,
    progress: bool,
) -> dict[str, Any]:
    """Plan a study of the samples in folders: `listen.plan.plan`, without the files' checksums in what it returns."""
    facts = plan(find_samples(samples), out, request, natural=natural, prompts=prompts, progress=progress)
    return {name: value for name, value in facts.items() if name != "sources"}


def said(facts: dict[str, Any]) -> str:
    """Return what was planned, in words."""
    per_rater = len(facts["conditions"]) * facts["clips_per_system"]
    whole = facts["raters"] % facts["lap"] == 0
    even = "" if whole else f" (up to one; exactly so with a multiple of {facts['lap']} raters)"
    what = "clips" if facts["design"] == "mos" else "pairs"
    kept = facts["kept_items"]
    lower = (
        "" if facts["lufs"] == facts["lufs_wanted"] else f", not {facts['lufs_wanted']:g}: peaks of a clip forbid it"
    )
    state = "planned" if facts["written"] else "was there, unchanged"
    return "\n".join(
        [
            f"{facts['out']}: {state}",
            f"{len(facts['systems'])} systems, {len(facts['items'])} items, {facts['raters']} raters with {per_rater} "
            f"{what} each: every one of them rated {facts['ratings_per_clip']} times{even}",
            f"and {len(kept['training'])} to practise, {len(kept['gold'])} gold and {len(kept['trap'])} trapping ones; "
            f"about {facts['minutes']:g} minutes",
            f"loudness {facts['lufs']:g} LUFS{lower}; {facts['sample_rate']:,} Hz",
            f"edit {facts['out']}/texts, above all who runs the study and whom to ask, and then: "
            f"twist listen serve {facts['out']}",
        ]
    )


def open_flow(folder: Path, recruiting: Recruiting, *, hold_hours: float) -> Flow:
    """Return a study, checked to be whole, with its texts and its answers open.

    Raises:
        BadInput: it is not whole, or its texts cannot be used.
    """
    study = open_study(folder, verify=True)
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
        BadInput: as `open_flow`.
        TwistError: the study is being served already, or the port is taken.
    """
    import socket

    try:
        import uvicorn
    except ImportError as error:
        raise TwistError("studies are served by FastAPI and uvicorn: pip install 'twistlm[listen]'.") from error
    from twistlm.listen.server import make_app

    if recruiting.platform == "invitations":
        recruiting = replace(recruiting, invitations=read_invitations(folder / INVITATIONS))
    with held(folder, "serving this study"):
        flow = open_flow(folder, recruiting, hold_hours=hold_hours)
        try:
            with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listening:
                listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    listening.bind((host, port))
                except OSError as error:
                    raise TwistError(
                        f"cannot listen at {host}:{port}: {error.strerror}. Choose another --port."
                    ) from error
                url = public_url or f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
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


def analyse_study(
    what: Path, out: Path | None, *, rules: Rules, clip_pattern: str | None, mixed: bool, seed: int
) -> dict[str, Any]:
    """Analyse a study, or a file of another tool's results, and write what was found.

    Args:
        what: a study's folder, or a CSV file as for `listen.importing.read_results`.
        out: folder to write; None: "analysis" in the study, or beside the file under its name.
        rules: who is left out.
        clip_pattern: of a file, what in a clip's name is system and item.
        mixed: fit a mixed model.
        seed: of all resampling.

    Returns:
        What `listen.analysis.analyse` returns, with "study" (what was asked) and "page".

    Raises:
        BadInput: nothing to analyse there.
    """
    if what.is_dir():
        study = open_study(what)
        ratings = ratings_of(study, what / ANSWERS)
        conditions = [tuple(one) for one in study.facts["conditions"]]
        ask = read_toml(what / "texts" / f"{study.facts['languages'][0]}.toml", "texts of a study").get("ask", "")
        names = (
            "design",
            "clips_per_system",
            "ratings_per_clip",
            "truth",
            "floor",
            "lufs",
            "loudness_measure",
            "sample_rate",
        )
        asked = {
            "question": str(ask),
            **{name: study.facts[name] for name in names},
            "fingerprint": study.facts["fingerprint"],
        }
        asked |= {"study_seed": study.facts["seed"], "raters_planned": study.facts["raters"]}
        place = out or what / "analysis"
    else:
        ratings, conditions = read_results(what, clip_pattern=clip_pattern), []
        asked = {"question": "", "file": what.name, "clip_pattern": clip_pattern or "none"}
        place = out or what.with_name(f"{what.stem}-analysis")
    if place.exists() and not (place / "results.json").is_file() and (not place.is_dir() or any(place.iterdir())):
        raise BadInput(f"{place} is there and is no analysis. Choose another folder for it.")
    results = analyse(ratings, conditions=conditions, rules=rules, mixed=mixed, seed=seed) | {"study": asked}
    with atomic_folder(place) as folder:
        (folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        write_csv(ratings, folder / "ratings.csv")
        write_parquet(ratings, folder / "ratings.parquet")
        write_page(results, folder / "report.html")
    return {**results, "page": str(place / "report.html")}

"""A whole study rated in a real browser, by keyboard alone."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from listen_standins import SYSTEMS, make_samples, request
from test_listen_serve import Served
from twistlm.jobs.listening_server import open_flow
from twistlm.listen.flow import Flow
from twistlm.listen.plan import plan
from twistlm.listen.ratings import ratings_of
from twistlm.listen.recruiting import Recruiting
from twistlm.listen.samples import find_samples
from twistlm.listen.study import ANSWERS, open_study

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="there is no chromium here (Debian: apt install chromium)"),
]


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as started:
        launched = started.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    return find_samples(make_samples(tmp_path_factory.mktemp("samples"), SYSTEMS, items=8, seconds=0.45))


def shot(page, name: str) -> None:
    """Keep a picture where somebody asked for pictures."""
    if folder := os.environ.get("TWISTLM_SCREENSHOTS"):
        page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)


def right_answer(flow: Flow, token: str, state: dict) -> str:
    asked = flow._checks(flow.session(token), state["stage"], state["attempt"])[state["n"] - 1]
    return asked.answer


def new_state(page, token: str, old: dict | None) -> dict:
    """Return what the server says of a session, once it is another thing than before."""
    for _ in range(400):
        state = page.evaluate("async (t) => (await fetch('/s/' + t + '/state')).json()", token)
        if state != old:
            return state
        page.wait_for_timeout(50)
    raise AssertionError(f"nothing came after {old}")


def unnamed(page) -> list[str]:
    """Return the roles of what can be used and has no name: a screen reader would call it nothing."""
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    roles = {"button", "radio", "radiogroup", "textbox", "link", "heading", "progressbar"}
    found = [(node["role"]["value"], node.get("name", {}).get("value")) for node in tree if not node["ignored"]]
    assert roles & {role for role, _ in found}
    return [role for role, name in found if role in roles and not name]


@pytest.mark.parametrize("checks", [False, pytest.param(True, marks=pytest.mark.slow)])
@pytest.mark.thorough
def test_a_whole_study_by_keyboard(browser, samples, tmp_path, checks):
    small = request(
        clips_per_system=1, ratings_per_clip=1, training=1, gold=1, traps=1, headphones=checks, hearing=checks
    )
    plan(samples, tmp_path / "study", small)
    study = open_study(tmp_path / "study")
    codes = ("--completion-code", "CDONE", "--screen-out-code", "COUT", "--no-consent-code", "CNO")
    served = Served(tmp_path / "study", "--recruit", "prolific", *codes)
    problems: list[str] = []
    try:
        context = browser.new_context(viewport={"width": 900, "height": 900}, locale="en-GB")
        context.set_default_timeout(120_000)  # ms: the machine may be busy
        page = context.new_page()
        page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: problems.append(str(e)))
        asked: list[str] = []
        page.on("request", lambda r: asked.append(r.url))
        page.goto(f"{served.url}/?PROLIFIC_PID=p1&STUDY_ID=s1&SESSION_ID=x1")
        page.get_by_role("heading", name="Listening study").wait_for()
        assert unnamed(page) == []
        shot(page, "consent")
        for _ in range(2):  # the two questions: focus comes to a radio group by tab, and space takes the first
            page.keyboard.press("Tab")
            while page.evaluate("document.activeElement.type") != "radio":
                page.keyboard.press("Tab")
            page.keyboard.press("Space")
        while page.evaluate("document.activeElement.textContent") != "I agree, begin":
            page.keyboard.press("Tab")
        page.keyboard.press("Enter")
        token = page.url.split("/s/")[1].strip("/")
        flow = open_flow(tmp_path / "study", Recruiting(platform="open"), hold_hours=1)
        state = new_state(page, token, {"stage": "consent"})
        while state["stage"] in ("hearing", "headphones"):
            page.locator(".count", has_text=f"Check {state['n']} of").wait_for()
            page.locator(".play:not([disabled])").wait_for()
            if state["n"] == 1:
                assert unnamed(page) == []
                shot(page, state["stage"])
            page.keyboard.press("Space")
            page.locator(".play.whole").wait_for()
            page.keyboard.type(right_answer(flow, token, state))
            page.keyboard.press("Enter")
            state = new_state(page, token, state)
        flow.store.close()
        total, done = len(study.places[0]), 0
        while state["stage"] == "rate":
            if state["n"] == 1:
                page.locator(".main[data-first]", has_text="Continue").wait_for()  # not that of the check before
                if state["practice"]:
                    shot(page, "instructions")
                page.keyboard.press("Enter")
            shown = f"Practice {state['n']} of" if state["practice"] else f"{state['n']} of {state['total']}"
            page.locator(".count", has_text=shown).wait_for()
            page.locator(".play:not([disabled])").wait_for()
            page.keyboard.press("3")
            assert page.locator("[aria-checked=true]").count() == 0  # not before it was heard
            page.keyboard.press("Space")
            page.locator(".play.whole").wait_for()
            page.keyboard.press("5")
            page.get_by_text("Saved.").wait_for()
            trial = study.places[0][state["position"]]
            if not trial.expected and trial.kind == "rating":
                page.keyboard.press("4")  # the last click counts
                page.locator("[aria-checked=true]", has_text="4").wait_for()
                page.get_by_text("Saved.").wait_for()
                assert unnamed(page) == []
                shot(page, "rating")
            elif trial.expected:
                page.keyboard.press(str(trial.expected[0]))
                page.get_by_text("Saved.").wait_for()
            if state["position"] == 3:  # left and come back: by the link alone
                page.close()
                page = context.new_page()
                page.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
                page.on("request", lambda r: asked.append(r.url))
                page.goto(f"{served.url}/s/{token}/")
            else:
                page.keyboard.press("Enter")
            state, done = (
                new_state(page, token, state | {"position": -1} if state["position"] == 3 else state),
                done + 1,
            )
        assert done == total
        page.get_by_role("heading", name="Thank you").wait_for()
        shot(page, "thanks")
        back = page.get_by_role("link", name="Finish and return").get_attribute("href")
        assert back == "https://app.prolific.com/submissions/complete?cc=CDONE"
        assert problems == []
        assert {url.split("/")[2] for url in asked if url.startswith("http")} == {f"127.0.0.1:{served.port}"}
    finally:
        served.stop()
    ratings = ratings_of(study, tmp_path / "study" / ANSWERS)
    assert len(ratings) == total and all(r.finished for r in ratings)
    assert {r.score for r in ratings if r.kind == "rating"} == {4.0} and {
        r.changes for r in ratings if r.kind == "rating"
    } == {1}
    assert all(r.right for r in ratings if r.expected)
    assert all(r.plays >= 1 and r.heard >= 0.95 * r.seconds and r.took > r.seconds for r in ratings)


@pytest.mark.slow
def test_comparisons_on_a_phone_by_touch_and_with_a_server_that_dies(browser, samples, tmp_path):
    wanted = request(
        design="ab",
        clips_per_system=1,
        ratings_per_clip=1,
        training=0,
        gold=0,
        headphones=False,
        hearing=False,
        traps=1,
    )
    plan(samples, tmp_path / "study", wanted)
    served = Served(tmp_path / "study", "--recruit", "open", "--completion-code", "OPEN1")
    context = browser.new_context(**playwright_phone(), locale="de-DE")
    context.set_default_timeout(120_000)
    page = context.new_page()
    try:
        page.goto(served.url)
        page.get_by_role("button", name="Weiter").tap()
        page.get_by_label("Ohrhörer in den Ohren").tap()
        page.get_by_label("Ja").tap()
        page.get_by_role("button", name="Ich stimme zu").tap()
        page.get_by_role("button", name="Weiter").tap()
        for n in range(4):
            page.get_by_text(f"{n + 1} von 4").wait_for()
            for side in range(2):
                page.locator(".play:not([disabled])").nth(1).wait_for()
                page.locator(".play").nth(side).tap()
                page.locator(".play").nth(side).and_(page.locator(".whole")).wait_for()
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            if n == 1:  # the server is killed; the answer is clicked meanwhile and arrives when it is back
                served.process.kill()
                served.process.communicate()
                page.get_by_role("radio", name="Kein Unterschied").tap()
                page.get_by_text("Noch nicht gespeichert").wait_for()
                shot(page, "not-saved")
                served.__init__(tmp_path / "study", "--recruit", "open", "--completion-code", "OPEN1", port=served.port)
            else:
                page.get_by_role("radio", name="Zweite").tap()
            page.get_by_text("Gespeichert.").wait_for()
            if n == 0:
                shot(page, "comparison-phone")
            page.get_by_role("button", name="Weiter").tap()
        page.get_by_text("OPEN1").wait_for()
    finally:
        served.stop()
    ratings = ratings_of(open_study(tmp_path / "study"), tmp_path / "study" / ANSWERS)
    assert (
        sorted(r.answer for r in ratings) == [0, 2, 2, 2] and json.dumps([r.changes for r in ratings]) == "[0, 0, 0, 0]"
    )


def playwright_phone() -> dict:
    return {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}

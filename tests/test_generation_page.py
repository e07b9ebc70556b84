"""The page of what models say, in a real Chromium: sounds that play, samples that sort, texts that stay texts."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from standins import babble
from twistlm.audio.clip import Clip
from twistlm.pages.generation import _samples, write_page

api = pytest.importorskip("playwright.sync_api", reason="driving a browser needs the package playwright")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
SLOWLY = 90_000  # ms: other work may share these cores


@dataclass(frozen=True)
class Speaks:
    name: str
    kind: str
    rows: list[dict[str, Any]]


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("page")
    systems = []
    for s, name in enumerate(("recordings", "warm")):
        rows = []
        for i, loss in enumerate((3.0, None, 1.0)):
            sound = f"parts/{name}-{i}.flac"
            Clip(babble(6.0, seed=i + s), 16_000).write(root / sound)
            text = "<img src=x onerror=\"document.title='broken'\">" if i == 0 else f"{name} {i}"
            rows.append({"prompt": f"p{i}", "sample": 0, "sound": sound, "start": 0.2, "text": text, "loss": loss})
        systems.append(Speaks(name, "model" if s else "recordings", rows))
    measured = {
        "gen_ppl": {"value": 12.3, "ci": [10.0, 15.0], "n": 3},
        "vert": {"value": None, "ci": [None, None], "n": 0},
    }
    results = {
        "protocol": {"name": "ours", "departs": []},
        "prompts": {"n": 3, "name": "mine"},
        "systems": [{"name": x.name, "kind": x.kind, "measures": measured} for x in systems],
        "differences": {
            "between": ["warm", "cold"],
            "measures": {"gen_ppl": {"mean": 1e-153, "ci": [-1, 2], "p": 0.5}},
        },
        "curves": {},
    }
    measures = [("gen_ppl", "GenPPL", "what it is"), ("vert", "VERT", ""), ("judge", "judge", "")]
    return write_page(results, systems, root / "ours.html", measures=measures)


def test_the_page_shows_every_measure_there_is(page_file: Path):
    page = page_file.read_text()
    assert "12.3" in page and "[10, 15]" in page and "–" in page and "1e-153" not in page
    assert ">judge<" not in page  # measured of nobody
    assert "<img" not in page and "&lt;img" in page


def test_systems_of_one_sample_stand_beside_every_sample() -> None:
    def rows(n: int) -> list[dict[str, Any]]:
        return [{"prompt": f"p{i}", "sample": k, "recording": "said"} for i in range(2) for k in range(n)]

    found = _samples([Speaks("recordings", "recordings", rows(1)), Speaks("warm", "model", rows(3))])
    assert [(one["prompt"], one["sample"]) for one in found] == [(f"p{i}", k) for i in range(2) for k in range(3)]
    assert all([player["system"] for player in one["players"]] == ["recordings", "warm"] for one in found)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
def test_samples_are_sorted_and_heard(page_file: Path):
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        page = browser.new_page()
        page.set_default_timeout(SLOWLY)
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        page.goto(page_file.as_uri(), timeout=SLOWLY)

        def order() -> list[str]:
            return page.locator("#samples blockquote").all_inner_texts()

        assert order() == ["p0", "p1", "p2"] and page.title() == "twistlm: what models say"
        page.select_option("#by", "loss")
        assert order() == ["p2", "p0", "p1"]  # what has no number comes last
        page.check("#down")
        assert order() == ["p0", "p2", "p1"]
        page.select_option("#by", "")
        assert order() == ["p0", "p1", "p2"]
        page.check("#skip")
        played = page.evaluate(
            """async () => {
                const audio = document.querySelectorAll("audio")[3];
                await audio.play();
                return [audio.duration, audio.currentTime];
            }"""
        )
        assert played[0] == pytest.approx(6.0, abs=0.02) and played[1] >= 0.19
        assert all(url.startswith("file://") for url in asked) and any(url.endswith(".flac") for url in asked)
        browser.close()

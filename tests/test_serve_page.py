"""The page in a real Chromium: an example, a microphone, again, stop, a lost server; nothing from anywhere else."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import re
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("fastapi", reason="serving needs the extra serve")
pytest.importorskip("playwright.sync_api", reason="driving a browser needs the package playwright")

from playwright import sync_api as api

from serving import Scribe, serving, tiny_served
from standins import Tiny, babble
from twistlm.serve import studio
from twistlm.serve.engine import Room
from twistlm.serve.limits import Limits
from twistlm.serve.models import Served

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here: apt-get install chromium")
SLOWLY = 90_000  # ms: other work may share these cores


@pytest.fixture(scope="module")
def served(tiny: Tiny) -> Served:
    return tiny_served(tiny)


@pytest.fixture(scope="module")
def server(served: Served) -> Iterator[str]:
    with serving(served, limits=Limits(requests_per_minute=0, prompt_seconds=8)) as address:
        yield address


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    spoken = tmp_path_factory.mktemp("microphone") / "spoken.wav"
    soundfile.write(spoken, babble(3.0, seed=9, rate=48_000), 48_000)
    with api.sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--no-sandbox",
                "--use-fake-ui-for-media-stream",
                "--use-fake-device-for-media-stream",
                f"--use-file-for-fake-audio-capture={spoken}",
            ],
        )
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, server: str) -> Iterator[Any]:
    context = browser.new_context(accept_downloads=True)
    opened = context.new_page()
    opened.set_default_timeout(SLOWLY)
    faults: list[str] = []
    asked: set[str] = set()
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
    opened.on("request", lambda request: asked.add(re.sub(r"^(\w+://[^/]*).*", r"\1", request.url)))
    opened.goto(f"http://{server}/")
    api.expect(opened.locator("#record")).to_be_enabled(timeout=SLOWLY)
    yield opened
    context.close()
    assert faults == []
    assert {url for url in asked if not url.startswith(("data:", "blob:"))} == {f"http://{server}"}


def states(page: Any, *texts: str) -> None:
    api.expect(page.locator(".state")).to_have_text(list(texts), timeout=SLOWLY)


@pytest.mark.thorough
def test_two_models_beside_each_other_again_and_saved(page: Any, served: Served) -> None:
    page.fill("[name=seconds]", "1")
    page.check("[name=both]")
    page.click("#use-example")
    states(page, "done", "done")
    assert page.locator(".take.paired").count() == 2
    assert (
        page.locator("h3", has_text="warm · seed 0").count()
        == page.locator("h3", has_text="cold · seed 0").count()
        == 1
    )
    for number in page.locator(".first").all_inner_texts():
        assert re.match(r"\d+ ms \(computing \d+ ms\)", number)
    label = page.locator("canvas").first.get_attribute("aria-label")
    assert re.match(r"Waveform: prompt \d\.\d s, continuation \d\.\d s, \d+ units", label)
    page.uncheck("[name=both]")
    page.click("#again")
    states(page, "done", "done", "done")
    assert page.locator("h3", has_text="warm · seed 1").count() == 1
    assert "seed=1" in page.url and "model=warm" in page.url
    with page.expect_download() as saved:
        page.locator(".save").first.click()
    sound, rate = soundfile.read(saved.value.path())
    units = page.locator(".ids").first.text_content().split()
    prompt = len(soundfile.read(served.examples[0].path)[0])
    assert rate == 16_000 and len(sound) > prompt and len(units) == int(page.locator(".count").first.inner_text())
    page.locator(".link").first.click()
    api.expect(page.locator("#notice")).to_contain_text("link")


@pytest.mark.thorough
def test_the_microphone_is_recorded_and_gone_on_with_by_keyboard(page: Any, served: Served) -> None:
    page.fill("[name=seconds]", "1")
    page.locator("#record").focus()
    page.keyboard.press("Enter")
    api.expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
    api.expect(page.locator("#level")).not_to_have_attribute("aria-valuenow", "0", timeout=SLOWLY)
    page.wait_for_timeout(1_500)
    page.keyboard.press("Enter")
    states(page, "done")
    api.expect(page.locator("#notice")).to_contain_text(re.compile("Heard|Playing|Done"))
    with page.expect_download() as saved:
        page.locator(".save").first.click()
    sound, _ = soundfile.read(saved.value.path())
    assert len(sound) > 16_000 and np.abs(sound[:16_000]).max() > 0.05  # what was spoken is in it


# The page's own recorder, on what goes to the loudspeaker.
TAP = """
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...how) {
  if (to === this.context.destination) {
    window.heard = [];
    const tap = new AudioWorkletNode(this.context, "recorder", { numberOfOutputs: 0, channelCount: 1 });
    tap.port.onmessage = ({ data }) => window.heard.push(...data);
    connect.call(this, tap);
  }
  return connect.call(this, to, ...how);
};
"""


def test_what_is_heard_is_what_was_made(page: Any) -> None:
    """The audio thread plays every sample, in order and without a gap, and the page knows when it is over."""
    page.add_init_script(TAP)
    page.reload()
    page.fill("[name=seconds]", "1")
    page.uncheck("[name=prompt_first]")
    held = io.BytesIO()
    soundfile.write(held, babble(1.0, seed=1), 16_000, format="FLAC")
    page.set_input_files("#file", {"name": "a.flac", "mimeType": "audio/flac", "buffer": held.getvalue()})
    states(page, "done")
    api.expect(page.locator("#stop")).to_be_disabled(timeout=SLOWLY)  # played to its end
    page.wait_for_timeout(100)  # the recorder tells 20 ms at a time
    page.evaluate("window.heard = []")
    page.locator(".play").click()
    api.expect(page.locator("#notice")).to_contain_text("Playing")
    api.expect(page.locator("#stop")).to_be_disabled(timeout=SLOWLY)
    with page.expect_download() as saved:
        page.locator(".save").first.click()
    made, _ = soundfile.read(saved.value.path(), dtype="float32")
    page.wait_for_timeout(100)
    heard = np.array(page.evaluate("window.heard"), np.float32)
    # By their ends: on a busy machine the recorder may tell the last 20 ms of the first time only now.
    begins = int(np.flatnonzero(heard)[-1]) - int(np.flatnonzero(made)[-1])
    np.testing.assert_allclose(heard[begins : begins + len(made)], made, atol=1e-4)
    assert not heard[320:begins].any()
    page.locator(".play").click()
    api.expect(page.locator("#notice")).to_contain_text("Playing")
    page.click("#stop")
    api.expect(page.locator("#stop")).to_be_disabled()


def test_stop_also_stops_what_was_only_asked_for(page: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on, heard = threading.Event(), studio.heard

    def slowly(*given: Any) -> Any:
        go_on.wait(60)
        return heard(*given)

    monkeypatch.setattr(studio, "heard", slowly)
    page.fill("[name=seconds]", "15")
    page.click("#use-example")
    states(page, "asked for …")
    page.click("#stop")
    go_on.set()
    states(page, "the listener left.")


def test_stop_stops(page: Any, served: Served, server: str) -> None:
    page.fill("[name=seconds]", "15")
    hook = served.models["warm"].model.register_forward_pre_hook(lambda *_: time.sleep(0.03))
    page.click("#use-example")
    api.expect(page.locator(".state")).to_have_text("being made …", timeout=SLOWLY)
    page.click("#stop")
    states(page, "the listener left.")
    hook.remove()
    with urllib.request.urlopen(f"http://{server}/health") as answer:
        assert json.load(answer)["listeners"] == 0


@pytest.mark.slow
def test_a_file_is_read_and_a_bad_one_is_named(page: Any, tmp_path: Path) -> None:
    page.fill("[name=seconds]", "1")
    page.set_input_files("#file", {"name": "a.txt", "mimeType": "audio/wav", "buffer": b"no sound at all" * 99})
    api.expect(page.locator("#problem")).to_be_visible(timeout=SLOWLY)
    states(page, "not made")
    page.wait_for_timeout(500)  # the answer to what was asked of it
    api.expect(page.locator("#problem")).to_contain_text("the recording")
    api.expect(page.locator("#problem")).not_to_contain_text("nothing to continue")
    api.expect(page.locator("#go")).to_be_disabled()
    held = io.BytesIO()
    soundfile.write(held, babble(1.0, seed=1, rate=44_100), 44_100, format="FLAC")
    page.set_input_files("#file", {"name": "a.flac", "mimeType": "audio/flac", "buffer": held.getvalue()})
    api.expect(page.locator(".state").first).to_have_text("done", timeout=SLOWLY)
    api.expect(page.locator("#problem")).to_be_hidden()


@pytest.mark.thorough
def test_a_lost_server_is_said_and_found_again(browser: Any, served: Served) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(SLOWLY)
    with serving(served) as address:
        page.goto(f"http://{address}/?seed=7&temperature=1.5&seconds=1")
        api.expect(page.locator("#record")).to_be_enabled(timeout=SLOWLY)
        assert page.input_value("[name=seed]") == "7" and page.input_value("[name=temperature]") == "1.5"
        page.click("#use-example")
        states(page, "done")
    api.expect(page.locator("#notice")).to_contain_text("The connection was lost", timeout=SLOWLY)
    for name in ("#record", "#go", "#use-example"):
        api.expect(page.locator(name)).to_be_disabled()
    with serving(served, port=int(address.rpartition(":")[2])):
        api.expect(page.locator("#notice")).to_contain_text("Ready", timeout=SLOWLY)
        page.click("#go")  # the recording is still here, and is sent again
        states(page, "done", "done")
        first, again = page.locator(".ids").all_text_contents()
        assert first == again != ""
    context.close()


@pytest.mark.slow  # for some ten seconds
def test_who_waits_or_finds_no_room_is_told(browser: Any, served: Served) -> None:
    with serving(served, room=Room(listeners=1, waiting=1)) as address:
        context = browser.new_context()
        pages = [context.new_page() for _ in range(2)]
        for page in pages:
            page.set_default_timeout(SLOWLY)
            page.goto(f"http://{address}/?seconds=15")
            api.expect(page.locator("#record")).to_be_enabled(timeout=SLOWLY)
        hook = served.models["warm"].model.register_forward_pre_hook(lambda *_: time.sleep(0.03))
        try:
            pages[0].check("[name=both]")
            pages[0].click("#use-example")
            states(pages[0], "being made …", "waiting: number 1 in the queue")
            pages[1].check("[name=both]")
            pages[1].click("#use-example")
            states(pages[1], "not made", "not made")
            api.expect(pages[1].locator("#problem")).to_contain_text(re.compile("Busy: 1 listeners .* and 1 wait"))
        finally:
            hook.remove()
        api.expect(pages[0].locator(".state").last).to_have_text(re.compile("being made|done"), timeout=SLOWLY)
        context.close()


@pytest.mark.thorough
def test_one_of_two_is_written_down_where_there_is_no_room_for_both(browser: Any, served: Served) -> None:
    hearing = dataclasses.replace(served, asr=Scribe())
    with serving(hearing, room=Room(listeners=1, waiting=0)) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://{address}/?seconds=1")
        api.expect(page.locator("#record")).to_be_enabled(timeout=SLOWLY)
        page.check("[name=both]")
        page.check("[name=transcript]")
        page.click("#use-example")
        states(page, "done", "not made")  # the one that had no room, not the one before it
        api.expect(page.locator("#problem")).to_contain_text("Busy")
        api.expect(page.locator(".transcript").first).to_have_text(re.compile(r"“\d\.\d\d seconds”"))
        assert page.locator(".transcript").last.is_hidden()
        context.close()


@pytest.mark.thorough
def test_what_is_written_down_may_be_asked_for_later(browser: Any, served: Served) -> None:
    with serving(dataclasses.replace(served, asr=Scribe())) as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://{address}/?seconds=1")
        api.expect(page.locator("#record")).to_be_enabled(timeout=SLOWLY)
        page.click("#use-example")
        states(page, "done")
        page.check("[name=transcript]")
        page.click("#again")  # of a recording that the server has
        states(page, "done", "done")
        api.expect(page.locator(".transcript").first).to_have_text(re.compile(r"“\d\.\d\d seconds”"))
        context.close()


@pytest.mark.thorough
def test_a_second_press_while_the_browser_asks_opens_no_second_microphone(page: Any) -> None:
    page.evaluate("""() => {
      const ask = navigator.mediaDevices.getUserMedia.bind(navigator.mediaDevices);
      window.opened = [];
      navigator.mediaDevices.getUserMedia = async (how) => {
        await new Promise((done) => setTimeout(done, 400));
        const stream = await ask(how);
        window.opened.push(...stream.getTracks());
        return stream;
      };
      document.getElementById("record").click();
      document.getElementById("record").onclick();  // as a press before the button was drawn as disabled
    }""")
    api.expect(page.locator("#record")).to_have_attribute("aria-pressed", "true")
    page.wait_for_timeout(600)
    page.click("#record")
    states(page, "done")
    assert page.evaluate("window.opened.map((track) => track.readyState)") == ["ended"]


@pytest.mark.thorough
def test_everything_has_a_name_for_who_cannot_see(page: Any) -> None:
    page.fill("[name=seconds]", "0.5")
    page.click("#use-example")
    states(page, "done")
    page.click("#again")
    states(page, "done", "done")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    said = [(node["role"]["value"], node.get("name", {}).get("value", "").strip(), node) for node in tree
            if not node["ignored"]]  # fmt: skip
    controls = {"button", "combobox", "spinbutton", "slider", "checkbox", "meter", "image", "link", "heading", "alert"}
    assert controls - {"alert"} <= {role for role, _, _ in said}
    assert [role for role, name, _ in said if role in controls and not name] == []
    assert {"main", "status", "list"} <= {role for role, _, _ in said}
    plays = [node["description"]["value"] for role, name, node in said if (role, name) == ("button", "Play")]
    assert [re.sub(" ·.*seed", "", one).split(" · ")[0] for one in plays] == ["warm 1", "warm 0"]


@pytest.mark.thorough
def test_the_link_gives_the_same_again(page: Any, server: str) -> None:
    page.fill("[name=seconds]", "1")
    page.fill("[name=seed]", "11")
    page.fill("[name=top_k]", "30")
    page.locator("[name=temperature]").fill("1.2")
    page.select_option("[name=model]", "cold")
    page.select_option("[name=voice]", "other")
    page.click("#use-example")
    states(page, "done")
    units = page.locator(".ids").text_content()
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(); }")  # as where it is not allowed
    page.fill("[name=seed]", "12")  # of a next one: the link is of the take
    page.locator(".link").click()
    api.expect(page.locator("#notice")).to_contain_text("address bar")
    assert "seed=11" in page.url
    page.reload()
    api.expect(page.locator("#record")).to_be_enabled(timeout=SLOWLY)
    assert page.locator("#example").input_value() == "one" and page.input_value("[name=voice]") == "other"
    page.click("#use-example")
    states(page, "done")
    assert page.locator(".ids").text_content() == units != ""


@pytest.mark.slow
def test_refusals_are_plain(browser: Any, served: Served) -> None:
    with serving(served, token="secret") as address:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://{address}/")
        api.expect(page.locator("#problem")).to_contain_text("asks for a token", timeout=SLOWLY)
        page.goto("about:blank")
        page.goto(f"http://{address}/#token=secret")
        api.expect(page.locator("#record")).to_be_enabled(timeout=SLOWLY)
        assert "secret" not in page.url
        page.add_init_script(
            "navigator.mediaDevices.getUserMedia = async () => { throw new DOMException('', 'NotAllowedError'); }"
        )
        page.reload()
        api.expect(page.locator("#record")).to_be_enabled(timeout=SLOWLY)
        page.click("#record")
        api.expect(page.locator("#problem")).to_contain_text("microphone was refused", timeout=SLOWLY)
        page.add_init_script("Object.defineProperty(window, 'isSecureContext', { value: false })")
        page.reload()
        api.expect(page.locator("#record-note")).to_contain_text("https or localhost", timeout=SLOWLY)
        context.close()

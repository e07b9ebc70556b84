"""The report is whole by itself, says what the numbers say, and refuses half a run."""

import base64
import copy
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from rich.console import Console

from twistlm.errors import AudioError, BadInput
from twistlm.pages import plots
from twistlm.pages.report import REQUIRED, print_table, write_report

RATE = 16_000
SPEC = {
    "encoder": "mini-25hz",
    "encoder_sha256": "6d2c5b0e" * 8,
    "layer": 6,
    "tap": "block_output",
    "normalize_input": True,
    "sample_rate": RATE,
    "hop": 640,
    "n_units": 500,
    "centroids_sha256": "91af37c4" * 8,
    "deduplicate": True,
}
TEXTS = (
    "And it came to pass, when men began to multiply on the face of the earth,",
    "The pale usher, threadbare in coat, heart, body & brain: I see him now.",
    "He was ever dusting his old lexicons with a <queer> handkerchief.",
)


def curve(floor, rate, updates=120):
    """A plausible learning curve: held-out loss every 10 updates, training loss at every one."""
    rng = np.random.default_rng(round(100 * rate))
    out = []
    for u in range(updates + 1):
        loss = floor + (6.23 - floor) * np.exp(-u * rate)
        out.append({"update": u, "train_loss": float(loss - 0.04 + rng.normal(0, 0.05))})
        if u % 10 == 0:
            out.append({"update": u, "val_nll": float(loss)})
    return out


def side(floor, rate, lr):
    history = curve(floor, rate)
    nll = history[-1]["val_nll"]
    ci = [nll - 0.045, nll + 0.051]
    return {
        "val_nll": nll,
        "val_nll_ci": ci,
        "val_ppl": float(np.exp(nll)),
        "val_ppl_ci": [float(np.exp(c)) for c in ci],
        "bits_per_second": nll / np.log(2) * 17.3,
        "history": history,
        "lr": lr,
        "updates": 120,
        "seconds": 171.3,
    }


def accuracy(value, n=240):
    wide = 1.96 * (value * (1 - value) / n) ** 0.5
    return {"accuracy": value, "ci": [value - wide, value + wide], "n": n, "n_pairs": 2 * n}


def speech(seconds, seed):
    """Something that looks like speech: bursts of harmonics."""
    t = np.arange(round(seconds * RATE)) / RATE
    rng = np.random.default_rng(seed)
    syllables = np.interp(t, np.linspace(0, seconds, round(seconds * 9)), rng.random(round(seconds * 9)) ** 1.6)
    pitch = 2 * np.pi * np.cumsum(110 + 25 * np.sin(2 * np.pi * 0.6 * t + seed)) / RATE
    return (0.25 * syllables * sum(np.sin(k * pitch) / k for k in range(1, 12))).astype(np.float32)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run: its folder with the sounds, and its results."""
    folder = tmp_path_factory.mktemp("run")
    return folder, make_results(folder)


@pytest.fixture
def results(run):
    return copy.deepcopy(run[1])


@pytest.fixture
def out(run):
    path = run[0] / "report.html"
    path.unlink(missing_ok=True)
    return path


def make_results(folder):
    samples, rng = [], np.random.default_rng(7)
    (folder / "samples").mkdir()
    for i, text in enumerate(TEXTS):
        sample = {"id": f"heldout-{i}", "text": text, "resynth_text": text.split(",")[0], "warm_text": "of the men"}
        for j, (kind, seconds) in enumerate({"prompt": 3, "resynth": 3, "cold": 8, "warm": 8}.items()):
            sample[kind] = f"samples/{i}-{kind}.wav"
            soundfile.write(folder / sample[kind], speech(seconds, 10 * i + j), RATE)
        runs = rng.choice([1, 1, 1, 2, 2, 3, 4], size=60)
        runs = runs[np.cumsum(runs) <= 75]
        sample["units"] = {"ids": rng.integers(0, 500, len(runs)).tolist(), "runs": runs.tolist()}
        samples.append(sample)
    warm, cold = side(4.03, 0.034, 3e-4), side(4.16, 0.026, 1e-3)
    return {
        "warm": warm,
        "cold": cold,
        "val_nll_difference": {"mean": warm["val_nll"] - cold["val_nll"], "ci": [-0.24, -0.17], "p": 1e-4},
        "updates_to_cold_loss": 0.63,
        "mini_swuggy": {
            "warm": accuracy(0.573) | {"seen_voice": accuracy(0.596, 120), "unseen_voice": accuracy(0.55, 120)},
            "cold": accuracy(0.541) | {"seen_voice": accuracy(0.558, 120), "unseen_voice": accuracy(0.525, 120)},
        },
        "resynthesis": {
            "wer_original": 0.082, "wer_original_ci": [0.055, 0.113],
            "wer_resynth": 0.317, "wer_resynth_ci": [0.26, 0.379], "n": 50,
        },
        "unit_spec": SPEC,
        "speech": {
            "source": "The bundled sample: public-domain prose read by 10 synthetic and 5 LibriVox voices.",
            "splits": {
                "train": {"minutes": 61.2, "voices": 14, "documents": 911, "units": 63_514},
                "heldout_text": {"minutes": 3.1, "voices": 14, "documents": 52, "units": 3_230},
                "heldout_voice": {"minutes": 3.4, "voices": 1, "documents": 49, "units": 3_402},
            },
        },
        "seconds": {"tokenize": 62.1, "text_model": 21.0, "train_cold": 171.3, "train_warm": 171.9, "evaluate": 74.4,
                    "resynthesis": 48.0, "samples": 19.2, "report": 0.9, "total": 568.8},
        "peak_rss_gb": 3.42,
        "protocol": {
            "held-out loss": "nats per deduplicated unit, each document from its own <s>, final <s> not counted; "
            "windows of at most 512 units, 0 of 52 documents cut; 95% bootstrap over documents",
            "mini sWUGGY": "mean log-probability per unit, final <s> not counted; ties 0.5",
        },
        "commands": [["Hear what the units keep", "twist resynth my.wav --out again.wav"]],
        "versions": {"twistlm": "0.1.0", "torch": "2.13.0", "transformers": "5.23.0", "python": "3.11.2"},
        "hardware": {"cpu": "AMD EPYC 9R14", "cores": 2, "memory_gb": 15.4, "system": "Linux 6.8"},
        "config": {"text_lm": "smollm2-135m", "tokenizer": "mini-25hz-500", "seed": 0,
                   "warm": {"updates": 120, "lr": 3e-4, "betas": (0.9, 0.98), "schedule": "inverse_sqrt"},
                   "cold": {"updates": 120, "lr": 1e-3, "betas": (0.9, 0.98), "schedule": "inverse_sqrt"}},
        "samples": samples,
    }  # fmt: skip


class Page(HTMLParser):
    """Checks that every element is closed in order, and collects what could load something."""

    VOID = frozenset({"meta", "link", "br", "img", "source", "input"})

    def __init__(self):
        super().__init__()
        self.open, self.loads, self.text = [], [], []

    def handle_starttag(self, tag, attributes):
        self.loads += [
            v for k, v in attributes if k in ("src", "href", "srcset", "poster", "data", "action", "xlink:href")
        ]
        assert tag not in ("script", "iframe", "object", "embed", "base")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        pass

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes {self.open[-1:]}"

    def handle_data(self, data):
        self.text.append(data)


def render(results, out):
    html = write_report(results, out).read_text(encoding="utf-8")
    page = Page()
    page.feed(html)
    page.close()
    assert page.open == []
    return html, page


def said(results, out):
    """The headline, and what stands under it, as text."""
    html, _ = render(results | {"samples": []}, out)
    headline = re.search(r"<h1>(.*?)</h1>", html, re.S)[1]
    lead = " ".join(re.findall(r'<p class="lead">(.*?)</p>', html, re.S))
    return headline, " ".join(re.sub(r"<[^>]+>", "", lead).split())


def test_report_is_one_self_contained_page(results, out):
    html, page = render(results, out)
    assert page.loads and all(load.startswith("data:") for load in page.loads)
    assert not re.search(r"https?://|@import|url\(", html)
    for svg in re.findall(r"<svg.*?</svg>", html, re.S):
        ElementTree.fromstring(svg)
    assert len(html) < 2_000_000


def test_every_player_holds_its_own_sound(results, out):
    html, _ = render(results, out)
    players = re.findall(r'<audio [^>]*src="data:audio/mpeg;base64,([^"]+)"', html)
    assert len(players) == 12
    lengths = []
    for player in players:
        sound, rate = soundfile.read(io.BytesIO(base64.b64decode(player, validate=True)))
        assert rate == RATE and np.abs(sound).max() > 0.05
        lengths.append(len(sound) / rate)
    assert lengths == pytest.approx([3, 3, 8, 8] * 3, abs=0.1)


def test_results_survive_json_and_text_is_escaped(results, out):
    once, page = render(json.loads(json.dumps(results)), out)
    assert "a <queer> handkerchief" in "".join(page.text)
    assert "<queer>" not in once
    assert once == render(results, out)[0]


def test_what_is_asked_for_is_on_the_page(results, out):
    _, page = render(results, out)
    words = " ".join("".join(page.text).split())
    for fact in ("4.067", "58.4", "57.3%", "[51.0, 63.6]", "unseen voice", "chance", "63%", "8.2%", "31.7%", "61.2",
                 "3.4 GB", "2.13.0", "AMD EPYC", "inverse_sqrt", "9 min 29 s", "windows of at most 512 units",
                 "twist resynth my.wav", "Hear what the units keep", "25 frames a second"):  # fmt: skip
        assert fact in words, fact


def test_summary_says_that_warm_won(results, out):
    headline, text = said(results, out)
    assert headline == "Starting from text reached the same loss in 63% of the updates"
    assert "beyond the noise" in text and "lower" in text
    assert "both are clearly above chance" not in text  # cold's interval reaches below 50%
    assert "only warm is clearly above chance" in text


def test_summary_does_not_flatter_a_warm_start_that_lost(results, out):
    results["warm"], results["cold"] = results["cold"], results["warm"]
    results["val_nll_difference"] = {"mean": 0.2, "ci": [0.17, 0.24], "p": 1e-4}
    results["updates_to_cold_loss"] = None
    headline, text = said(results, out)
    assert headline == "In this run, starting from text did not win"
    assert "higher" in text and "never reached cold’s final loss" in text
    html, _ = render(results, out)
    assert 'class="ring"' not in html and "never" in html


def test_a_difference_within_noise_is_called_that(results, out):
    results["val_nll_difference"]["ci"] = [-0.1, 0.02]
    headline, text = said(results, out)
    assert headline == "In this run, warm and cold ended within noise of each other"
    assert "no more than the noise" in text


def test_scores_at_chance_and_far_apart_are_called_that(results, out):
    pairs = results["mini_swuggy"]
    pairs["warm"] |= {"accuracy": 0.51, "ci": [0.45, 0.57]}
    assert "neither is clearly above chance" in said(results, out)[1]
    pairs["warm"] |= {"accuracy": 0.9, "ci": [0.86, 0.93]}
    assert "a clear difference" in said(results, out)[1]


def test_numbers_that_do_not_exist_are_dashes_not_nan(results, out):
    results["warm"]["val_nll_ci"] = results["warm"]["val_ppl_ci"] = [float("nan")] * 2
    results["resynthesis"]["wer_resynth_ci"] = None
    results["mini_swuggy"]["warm"]["unseen_voice"] = None
    results["samples"] = []
    html, page = render(results, out)
    assert "nan" not in " ".join(page.text).lower().split()
    assert "NaN" not in html and "[nan" not in html


MARK = "</title><script>alert('1')</script>\" onload=\"x"


def test_whatever_a_file_says_is_text_and_never_markup(results, out):
    """Every text of the results, in every place where the page shows one."""
    results["config"] |= {"text_lm": MARK, MARK: MARK}
    results["speech"] = {"source": MARK, "splits": {MARK: results["speech"]["splits"].pop("train")}}
    for name in ("versions", "hardware", "protocol"):
        results[name] = {MARK: MARK, "list": [MARK]}
    results["versions"]["twistlm"] = MARK
    results["commands"] = [[MARK, MARK]]
    results["seconds"] = {MARK: 1.0}
    results["unit_spec"] |= {"encoder": MARK}
    for sample in results["samples"]:
        sample |= dict.fromkeys(("id", "text", "resynth_text", "cold_text", "warm_text"), MARK)
    html, page = render(results, out)
    assert page.loads and all(load.startswith("data:") for load in page.loads)
    assert "<script" not in html and 'onload="' not in html
    assert "".join(page.text).count(MARK) >= 20


def test_nothing_but_the_drawings_is_marked_safe():
    folder = Path(plots.__file__).parent
    marks = {path.name: path.read_text().count("Markup(") for path in folder.glob("*.py")}
    assert {name: n for name, n in marks.items() if n} == {"plots.py": 1}
    for path in (folder / "templates").glob("*.html"):
        text = path.read_text()
        assert not re.search(r"\|\s*safe|autoescape", text), path.name
        assert not re.search(r"=\{\{", text), f"{path.name}: a value in an attribute without quotes"


@pytest.mark.parametrize("path", REQUIRED)
def test_a_missing_key_is_named(results, out, path):
    broken = copy.deepcopy(results)
    node = broken
    *parents, last = path.split(".")
    for key in parents:
        node = node[key]
    del node[last]
    with pytest.raises(BadInput, match=re.escape(path)):
        write_report(broken, out)
    assert not out.exists()


def test_a_missing_sound_leaves_no_page(results, out):
    results["samples"][1]["cold"] = "samples/gone.wav"
    with pytest.raises(AudioError):
        write_report(results, out)
    assert not out.exists()


def test_a_sound_outside_of_the_run_is_not_shown(results, out):
    for name in ("../other.wav", str(out.parent.parent / "other.wav")):
        results["samples"][1]["cold"] = name
        with pytest.raises(BadInput, match="is outside of"):
            write_report(results, out)
    assert not out.exists()


def test_table_for_the_terminal(results):
    console = Console(file=io.StringIO(), width=110)
    print_table(results, console=console)
    shown = console.file.getvalue()
    assert "57.3% [51.0, 63.6]" in shown and "31.7%" in shown and "chance" in shown


def test_ring_sits_on_the_curve_where_cold_ends():
    warm = [{"update": 0, "val_nll": 6.0}, {"update": 100, "val_nll": 4.0}]
    cold = [{"update": 0, "val_nll": 6.0}, {"update": 100, "val_nll": 5.0}]
    svg = ElementTree.fromstring(plots.loss_curves({"warm": warm, "cold": cold}, width=900))
    ring = next(e for e in svg.iter("circle") if e.get("class") == "ring")
    dots = [e for e in svg.iter("circle") if e.get("class") == "dot warm"]
    xs, ys = [float(e.get("cx")) for e in dots], [float(e.get("cy")) for e in dots]
    assert float(ring.get("cx")) == pytest.approx(sum(xs) / 2, abs=0.2)
    assert float(ring.get("cy")) == pytest.approx(sum(ys) / 2, abs=0.2)


def test_units_fill_the_drawing_without_gaps():
    ids, runs = [3, 141, 59, 265, 35], [1, 4, 2, 10, 8]
    svg = ElementTree.fromstring(plots.waveform(speech(1.0, 0), RATE, ids=ids, runs=runs, frame_rate=25.0))
    rects = list(svg.iter("rect"))
    starts = [float(r.get("x")) for r in rects]
    assert starts == pytest.approx(np.cumsum([0, *runs[:-1]]) * plots._UNIT_WIDTH, abs=0.06)
    assert [float(r.get("width")) for r in rects] == pytest.approx(np.array(runs) * plots._UNIT_WIDTH - 1, abs=0.06)
    assert [t.text for t in svg.iter("text") if t.get("class") == "unit"] == [str(i) for i in ids]


@pytest.mark.parametrize(
    ("low", "high", "about"), [(0, 120, 6), (3.9, 6.3, 5), (0.48, 0.62, 6), (0, 1, 4), (0, 20_000, 4)]
)
def test_ticks_are_round_and_inside(low, high, about):
    found = plots.ticks(low, high, about)
    assert 2 <= len(found) <= about + 1 and low <= found[0] and found[-1] <= high
    step = found[1] - found[0]
    assert round(step / 10 ** np.floor(np.log10(step) + 1e-9), 6) in (1, 2, 2.5, 5)
    assert np.allclose(np.diff(found), step)


def test_a_run_on_speech_without_transcripts_is_reported(results, out):
    missing = ("wer_original", "wer_original_ci", "wer_resynth", "wer_resynth_ci")
    results["resynthesis"] = dict.fromkeys(missing) | {"n": 0}
    results["samples"] = [{k: v for k, v in s.items() if "_text" not in k} | {"text": ""} for s in results["samples"]]
    results["mini_swuggy"]["warm"]["ci"] = results["val_nll_difference"]["ci"] = [None, None]
    for side in ("warm", "cold"):
        results[side]["by_split"] = {"heldout_voice": {"val_ppl": 77.7, "val_ppl_ci": [70.0, None]}}
    _, page = render(json.loads(json.dumps(results)), out)
    words = "".join(page.text)
    assert "Not measured: no held-out clip had a transcript" in words
    assert "heldout-1" in words and "perplexity on heldout voice77.777.7" in words
    assert "None" not in words and "noise" not in words

"""Ctrl-C and SIGTERM in a file of hours: the process ends within seconds, and leaves nothing half-written."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile

from standins import Tiny, babble
from twistlm import progress
from twistlm.compute import underway
from twistlm.compute.threads import in_order
from twistlm.lm.warmstart import warm_start
from twistlm.units.catalogue import read_spec

MINUTES = 12
# Each step of the work is made slow, says that it began, and would go on for a minute or more.
SLOW = """
import importlib, signal, sys, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs that a shell began in the background ignore it

def slowed(module, names):  # of a module that is imported for it: torch takes seconds, and not every verb wants it
    where = importlib.import_module(module)
    *owners, name = names.split(".")
    for owner in owners:
        where = getattr(where, owner)
    plain = getattr(where, name)
    def slow(*args, **options):
        print("begun", file=sys.stderr, flush=True)
        time.sleep(1.0)
        return plain(*args, **options)
    setattr(where, name, slow)

{slow}
from twistlm.cli.main import main
sys.argv = ["twist", *sys.argv[1:]]
main()
"""
WINDOWS = "slowed('twistlm.units.encoder', 'SSLEncoder.encode_window')"
VERBS = {
    "tokenize": (WINDOWS, ["tokenize", "long", "--out", "made", "--tokenizer", "{tok}"]),
    "resynth": (WINDOWS, ["resynth", "long/a.flac", "--out", "made.wav", "--tokenizer", "{tok}", "--vocoder", "{voc}"]),
    "speaking": (
        "slowed('twistlm.vocoder.vocoder', 'Vocoder._samples')",
        ["resynth", "long/a.flac", "--out", "made.wav", "--tokenizer", "{tok}", "--vocoder", "{voc}"],
    ),
    "vad": ("slowed('twistlm.audio.vad', 'heard')", ["manifest", "long", "--out", "made.jsonl", "--vad"]),
    "eval": (
        "slowed('twistlm.units.encoder', 'SSLEncoder._through_blocks')",
        ["eval", "model", "swuggy-dev={suite}", "--tokenizer", "{tok}", "--out", "made"],
    ),
}


@pytest.mark.parametrize(
    ("verb", "number"),
    [
        ("vad", signal.SIGINT),
        *(
            pytest.param(verb, number, marks=pytest.mark.slow)
            for verb in VERBS
            for number in (signal.SIGINT, signal.SIGTERM)
            if (verb, number) != ("vad", signal.SIGINT)
        ),
    ],
)
@pytest.mark.thorough
def test_a_signal_ends_a_long_file(verb: str, number: signal.Signals, tiny: Tiny, tmp_path: Path) -> None:
    (tmp_path / "long").mkdir()
    sound = np.tile(babble(60.0, seed=0, pitch=100.0), MINUTES)
    soundfile.write(tmp_path / "long" / "a.flac", sound, 16_000)
    if verb == "eval":
        warm_start(tiny.text_lm, read_spec(tiny.tokenizer), rows="covariance", seed=0).save(tmp_path / "model")
    slow, command = VERBS[verb]
    before = {str(p) for p in tmp_path.rglob("*")}
    (tmp_path / "tmp").mkdir()
    places = {"tok": tiny.tokenizer, "voc": tiny.vocoder, "suite": tiny.suite}
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW.format(slow=slow), *(word.format(**places) for word in command)],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"TWISTLM_CACHE": str(tmp_path / "cache"), "TMPDIR": str(tmp_path / "tmp")},
    )  # fmt: skip
    assert process.stderr is not None
    said = ""
    while "begun" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    began = time.monotonic()
    process.send_signal(number)
    _, rest = process.communicate(timeout=120)
    took = time.monotonic() - began
    assert process.returncode == 128 + number
    assert "interrupted: run the same command again" in rest and "Traceback" not in rest
    left = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file() and str(p) not in before}
    whole = {"made.jsonl.vad.jsonl", "choices.json"}  # a journal of whole lines, what is fast here
    assert {name for name in left if Path(name).name not in whole and not name.endswith(".lock")} == set()
    assert took < 30, rest  # a second or two on a machine with nothing else to do; the work would go on for longer


def test_closing_ends_what_is_under_way_and_the_bar_moves_within_an_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that says what it heard ends at once when nobody waits for it; its shares are counted once."""
    screen = io.StringIO()
    console = progress.Console
    monkeypatch.setattr(progress, "Console", lambda stderr: console(file=screen, force_terminal=True, width=120))
    ended = threading.Event()

    def work(item: int) -> int:
        try:
            for _ in range(4 if item < 2 else 10_000):
                underway.heard(900.0, of=3600.0 if item < 2 else 9e6)
                time.sleep(0 if item < 2 else 0.01)
        except underway.Unwanted:
            ended.set()
            raise
        return item

    with progress.task("cutting", 3, True) as bar:
        made = in_order(work, range(3))
        for expected in range(2):
            assert next(made) == expected
            bar.advance()
        assert bar._progress is not None
        (task,) = bar._progress.tasks
        assert 2.0 <= task.completed < 2.5 and task.fields["seconds"] >= 7200
        made.close()
    assert ended.is_set()
    assert underway.listener.get() is None
    with progress.task("speaking", 2, True) as bar:  # an item of several short sounds, which no thread has for itself
        for _ in range(3):
            underway.heard(5.0, of=5.0)
        assert bar._progress is not None
        (task,) = bar._progress.tasks
        assert (task.completed, task.fields["seconds"]) == (1.0, 0.0)
        bar.advance()
        assert task.completed == 1.0
        underway.heard(5.0, of=20.0)
        assert task.completed == 1.25
    assert "2/3, 2:" in screen.getvalue() and "of long sound" in screen.getvalue()

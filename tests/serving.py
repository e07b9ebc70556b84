"""A server of tiny models on a thread, for tests."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from standins import Tiny
from twistlm.audio.clip import Clip
from twistlm.lm.warmstart import cold_start, warm_start
from twistlm.serve.app import LOOPBACK, make_app
from twistlm.serve.connections import StudioServer, configured, give_up_on_the_deaf
from twistlm.serve.engine import Engine, Room
from twistlm.serve.limits import Limits
from twistlm.serve.models import Example, Served
from twistlm.serve.studio import Studio
from twistlm.units.tokenizer import SpeechTokenizer
from twistlm.vocoder.vocoder import Vocoder


def tiny_served(tiny: Tiny, **options: Any) -> Served:
    tok = SpeechTokenizer.load(tiny.tokenizer)
    sound = next(tiny.speech.rglob("*.wav"))
    return Served(
        models={
            "warm": warm_start(tiny.text_lm, tok.spec, rows="mean", seed=0),
            "cold": cold_start(tiny.text_lm, tok.spec, seed=1),
        },
        tokenizer=tok,
        voices={"tiny": Vocoder.load(tiny.vocoder), "other": Vocoder.load(tiny.vocoder)},
        examples=(Example(name="one", path=sound, text="An example."),),
        **options,
    )


class Scribe:
    """Stands in for a recogniser: writes down how long a clip is."""

    def transcribe(self, clip: Clip) -> str:
        return f"{clip.seconds:.2f} seconds"


@contextmanager
def serving(
    served: Served,
    *,
    limits: Limits | None = None,
    room: Room | None = None,
    token: str | None = None,
    kept: Path | None = None,
    port: int = 0,
) -> Iterator[str]:
    """Serve on a port of loopback, a free one unless it is given; yield "127.0.0.1:PORT"."""
    limits = limits or Limits(requests_per_minute=0)
    studio = Studio(served, Engine(served.models, room or Room()), limits, kept=kept)
    app = make_app(studio, hosts=LOOPBACK, token=token)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # to come back where connections were a moment ago
    listening.bind(("127.0.0.1", port))
    give_up_on_the_deaf(listening, limits.send_seconds)
    server = StudioServer(configured(app, limits), studio)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + 60
        while not server.started and thread.is_alive() and time.monotonic() < until:
            time.sleep(0.02)
        assert server.started
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def wav(clip: Clip, folder: Path) -> bytes:
    path = folder / "prompt.wav"
    clip.write(path)
    return path.read_bytes()
